"""fit, validate, test and predict: LightningCLI with asdkit's run folders, short errors and quiet start."""

import inspect
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import StrategyRegistry

import asdkit
from asdkit.commands.arguments import overlay, replaced
from asdkit.commands.full_size import with_family
from asdkit.core.bounds import MoreThan, Within
from asdkit.core.errors import UsageError
from asdkit.core.foreign import read_parser_message, set_root_folder
from asdkit.core.names import PUBLIC_NAMES
from asdkit.core.text import first_line, local, recipe_slug, shown
from asdkit.core.trust import refusal
from asdkit.core.yaml_text import check_yaml, to_yaml
from asdkit.priors.locate import EMBEDDED
from asdkit.priors.network_runner import fastest_dtype
from asdkit.ranks import check_optimization, check_precision, check_strategy, watch_joining
from asdkit.run.checkpoints import AtomicCheckpointIO, Checkpoints, check_generator
from asdkit.run.exits import Signals, slurm_job
from asdkit.run.guard import Guard, RankAgreement
from asdkit.run.live_view import Viewer
from asdkit.run.loggers import Loggers, MetricsCSV
from asdkit.run.progress import Progress
from asdkit.run.report import Report, Snapshots
from asdkit.run.run_folder import RunFolder, new_run_folder

MAX_STEPS_LIMIT = 100_000_000
_SETTINGS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
_TRAINER_RANGES = {
    **dict.fromkeys(("max_steps", "max_epochs", "log_every_n_steps"), Within(1, MAX_STEPS_LIMIT)),
    **dict.fromkeys(("limit_train_batches", "val_check_interval"), MoreThan(0, at_most=MAX_STEPS_LIMIT)),
    "devices": Within(-1, 1024),
    "num_nodes": Within(1, 10_000),
}
_GROUPS = {"run": RunFolder, "checkpoints": Checkpoints, "snapshots": Snapshots, "report": Report, "viewer": Viewer}
_GROUPS |= {"ranks": RankAgreement, "logger": Loggers}
_load_yaml = get_loader("yaml")
set_dumper("yaml", to_yaml)
for _name in PUBLIC_NAMES:
    getattr(asdkit, _name)  # imported for its short name on the command line


def _load_checked(text: str) -> Any:
    check_yaml(text)
    return _load_yaml(text)


set_loader("yaml", _load_checked, (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """LightningCLI's parser, with errors of a few lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in one sentence what was wrong."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise UsageError(_explained(message)) from None


def _explained(message: str) -> str:
    """What a message of jsonargparse's parser says; asdkit's own options were compared with `answers` before."""
    option, name, owner, reason = read_parser_message(message)
    if refused := refusal(message, f"--{option}" if option else "The command line"):
        return refused
    if name:
        path = option if option.endswith(name) else f"{option}.{name}".strip(".")
        advice = f"{owner} has none of this name" if owner else "asdkit fit --help all lists them"
        return f"There is no option --{path}; {advice}."
    return f"--{option}: {reason}" if option else reason


class CLI(LightningCLI):
    """LightningCLI whose runs live in run folders; `run` is the one that the command line named, if any."""

    def __init__(self, arguments: list[str], run: Path | None, signals: Signals) -> None:
        self.run_folder, self._signals = run, signals
        self.command, *options = arguments
        if run:
            check_generator(run, options)
        words = replaced(options if run else with_family(options), {"--model.guidance": _guidance})
        super().__init__(pl.LightningModule, pl.LightningDataModule, parser_class=Parser, args=words, **_SETTINGS)
        start = {"ckpt_path": self.config.ckpt_path, "weights_only": True}
        getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **start)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, group in _GROUPS.items():
            parser.add_lightning_class_args(group, name)
        parser.add_argument("--ckpt_path", type=str | None, help="the checkpoint to go on from, or to look at")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        _check(self.config)
        for key in [key for key, value in self.config.items() if (key.split(".")[-1], value) == ("dtype", "auto")]:
            self.config[key] = fastest_dtype()  # which the run keeps, wherever it goes on
        # One thread for the embedded prior, unless the environment says otherwise: more only take other programs' time.
        # The networks of other priors are large enough for torch's own choice.
        path = self.config.get("model.init_args.prior.init_args.path")
        if path == EMBEDDED and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
            torch.set_num_threads(1)
        if not self.config.run.recipe:
            files = [str(path) for path in self.config.get("config") or [] if not str(path).startswith("{")]
            self.config.run.recipe = recipe_slug(Path(next(iter(files), "run")))
        self._recipe = self.config.clone()
        if self.config.ckpt_path:
            _leave_to_checkpoint(self.config)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The recipe's trainer; what it writes is in the run folder."""
        # Guard and Progress act before the groups of `_GROUPS`, so that no checkpoint holds what is not finite.
        config = self.config
        root = str(self.run_folder or local(config.run.root))
        callbacks = [*_listed(self.config_init.trainer.callbacks), Guard(self._signals), Progress()]
        logging: dict[str, Any] = {} if config.trainer.logger else {"logger": False}
        if interval := config.trainer.log_every_n_steps:
            logging["log_every_n_steps"] = min(interval, config.trainer.max_steps)  # so that every run has a row
        try:
            trainer = super().instantiate_trainer(default_root_dir=root, callbacks=callbacks, **logging)
        except (TypeError, LookupError, ArithmeticError, AttributeError) as error:  # what Lightning does not check
            raise UsageError(f"The trainer's options can't be carried out: {first_line(error)}.") from error
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        watch_joining(trainer)
        if self.run_folder is None and self.command in ("fit", "predict"):
            self._make_run_folder(trainer)
        if self.command == "fit":
            trainer.loggers = [MetricsCSV(Path(trainer.default_root_dir)), *trainer.loggers]
            self._recipe.ckpt_path = None
            self.config_init.run.config = self.parser.dump(self._recipe, skip_none=False, skip_validation=True)
        return trainer

    def _make_run_folder(self, trainer: pl.Trainer) -> None:
        """Make the first rank's run folder, which the others hear of in `RunFolder.setup`."""
        # A SLURM job's is known to every rank: where the job was requeued, it goes on from there.
        if not (trainer.is_global_zero or slurm_job()):
            return
        config, goes_on = self.config, ""
        prompt = config.model.get("init_args", {}).get("prompt") or ""
        folder = new_run_folder(local(config.run.root), config.run.recipe, prompt, config.run.name)
        set_root_folder(trainer, str(folder))
        last = folder / "checkpoints" / "last.ckpt"
        if self.command == "fit" and config.ckpt_path is None and last.is_file():
            config.ckpt_path, goes_on = str(last), ", from its last checkpoint"
        if trainer.is_global_zero:
            print(f"Run folder: {shown(str(folder))}{goes_on}", file=sys.stderr)


def _check(config: Namespace) -> None:
    """Refuse what would fail only after minutes, or would make something else than it says."""
    for name, number in vars(config.trainer).items():
        allowed = _TRAINER_RANGES.get(name, Within(-1, MAX_STEPS_LIMIT))
        if isinstance(number, int | float) and not isinstance(number, bool) and number not in allowed:
            raise ValueError(f"trainer.{name} must be {allowed}; got {number}.")
    if config.data is None or config.model is None:
        raise ValueError("The recipe must have a model and data; start from one that `asdkit recipes` lists.")
    if config.ckpt_path and not local(config.ckpt_path).is_file():
        raise ValueError(f"{config.ckpt_path} is no checkpoint; name a file of a run's folder checkpoints.")
    options = config.trainer
    if options.default_root_dir:
        raise ValueError("trainer.default_root_dir can't be used; --run.root names the folder of all runs.")
    if strategy := _class(options.strategy):
        check_strategy(strategy)
    if config.model.class_path == "asdkit.Distillation":  # others train networks alone
        check_precision(options.precision)
        callbacks = filter(None, map(_class, _listed(options.callbacks)))
        check_optimization(options.accumulate_grad_batches, options.gradient_clip_val, callbacks)


def _leave_to_checkpoint(config: Namespace) -> None:
    """A checkpoint holds what its generator and its data once started from, and the files may be gone by now."""
    generator = config.model.get("init_args", {}).get("generator") or {}
    for name in ("init", "start"):
        generator.get("init_args", {}).pop(name, None)
    data = config.data.get("init_args", {})
    for name in ("asset", "image") if config.data.class_path.startswith("asdkit.") else ():
        if data.get(name) and not local(data[name]).exists():
            data[name] = ""
    pictures = (data.get("references") or {}).get("init_args", {})
    for place in filter(None, (pictures.get("file"), pictures.get("path"), pictures.get("mask"))):
        if not local(place).exists():
            data["references"] = None


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def _class(value: str | Namespace) -> type | None:
    """The class of a strategy or callback; None where Lightning chooses, or knows no such name."""
    if isinstance(value, str):
        return StrategyRegistry[value]["strategy"] if value in StrategyRegistry else None
    module, _, name = value.class_path.rpartition(".")
    return getattr(import_module(module), name)


def _guidance(name: str) -> list[str]:
    """`--model.guidance VSD` is asdkit.VSD with its own defaults, but phi lives where the recipe has it."""
    if PUBLIC_NAMES.get(name) != "asdkit.methods":
        return ["--model.guidance", name]
    arguments = inspect.signature(getattr(asdkit, name)).parameters.values()
    defaults = {p.name: p.default for p in arguments if not p.name.endswith("adapter") and p.default is not p.empty}
    return overlay("guidance", {"class_path": f"asdkit.{name}", "init_args": defaults})
