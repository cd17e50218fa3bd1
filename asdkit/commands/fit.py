"""fit, validate, test and predict: LightningCLI with asdkit's run folders, short errors and quiet start."""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import StrategyRegistry
from yaml import YAMLError

import asdkit
from asdkit.commands.arguments import overlay, replaced
from asdkit.commands.full_size import with_family
from asdkit.commands.messages import explain
from asdkit.core.bounds import MoreThan, Within
from asdkit.core.errors import UsageError
from asdkit.core.foreign import set_root_folder
from asdkit.core.names import PUBLIC_NAMES
from asdkit.core.text import first_line, local, recipe_slug, shown
from asdkit.core.yaml_text import check_yaml, to_yaml
from asdkit.ranks import check_optimization, check_precision, check_strategy, watch_joining
from asdkit.run.checkpoints import AtomicCheckpointIO, Checkpoints
from asdkit.run.guard import Guard
from asdkit.run.metrics_csv import MetricsCSV
from asdkit.run.process import exit_code_of
from asdkit.run.progress import Progress
from asdkit.run.rank_agreement import RankAgreement
from asdkit.run.report import Report
from asdkit.run.resuming import check_generator
from asdkit.run.run_folder import RunFolder, new_run_folder
from asdkit.run.signals import Signals, slurm_job
from asdkit.run.snapshots import Snapshots
from asdkit.run.viewer import Viewer

MAX_STEPS_LIMIT = 100_000_000
_DISTILLATION = "asdkit.Distillation"
_TRAINER_DEFAULTS = {
    "max_steps": 1000,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "check_val_every_n_epoch": None,
    "val_check_interval": MAX_STEPS_LIMIT,
    "use_distributed_sampler": False,
}
_TRAINER_RANGES = {
    "max_steps": Within(1, MAX_STEPS_LIMIT),
    "max_epochs": Within(1, MAX_STEPS_LIMIT),
    "log_every_n_steps": Within(1, MAX_STEPS_LIMIT),
    "limit_train_batches": MoreThan(0, at_most=MAX_STEPS_LIMIT),
    "val_check_interval": MoreThan(0, at_most=MAX_STEPS_LIMIT),
    "devices": Within(-1, 1024),
    "num_nodes": Within(1, 10_000),
}
_GROUPS = {"run": RunFolder, "checkpoints": Checkpoints, "snapshots": Snapshots, "report": Report, "viewer": Viewer}
_GROUPS |= {"ranks": RankAgreement}
_load_yaml = get_loader("yaml")
set_dumper("yaml", to_yaml)
for _name in asdkit.__all__:
    getattr(asdkit, _name)  # imported for its short name on the command line


def _load_checked(text: str) -> Any:
    check_yaml(text)
    return _load_yaml(text)


set_loader("yaml", _load_checked, (YAMLError,))


class Parser(LightningArgumentParser):
    """LightningCLI's parser, with errors of a few lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with one sentence about what was wrong, and the nearest known option."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"asdkit: {shown(explain(message, _options()))}", file=sys.stderr)
        raise SystemExit(2)


def _options() -> list[str]:
    """The options that are there whatever a recipe's parts are."""
    groups = {"trainer": pl.Trainer, **_GROUPS}
    named = [f"{key}.{name}" for key, group in groups.items() for name in inspect.signature(group).parameters]
    return [*named, "config", "ckpt_path", "model", "data", "model.prompt", "print_config"]


class CLI(LightningCLI):
    """LightningCLI whose runs live in run folders; `run` is the one that the command line named, if any."""

    def __init__(self, arguments: list[str], run: Path | None, signals: Signals) -> None:
        self.run_folder, self._signals, self._command = run, signals, arguments[0]
        if run:
            check_generator(run, arguments)
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            auto_configure_optimizers=False,
            seed_everything_default=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            trainer_defaults=_TRAINER_DEFAULTS,
            args=replaced(arguments if run else with_family(arguments), {"--model.guidance": _guidance}),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static
        """The one that is asked for, as Lightning has it, without the option that lets checkpoints be unpickled."""
        return {self._command: LightningCLI.subcommands()[self._command] | {"weights_only"}}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("usage", "asdkit <command> --config RECIPE [--key value ...]")
        return super().init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, group in _GROUPS.items():
            parser.add_lightning_class_args(group, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """The recipe alone says what is built; a checkpoint brings weights, never arguments."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        _check(config)
        if not config.run.recipe:
            config.run.recipe = _recipe_name(config)
        self._recipe = config.clone()
        if config.ckpt_path:
            _leave_to_checkpoint(config)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The recipe's trainer; what it writes is in the run folder.

        Guard and Progress act before the groups of `_GROUPS`, so that no checkpoint holds what is not finite.
        """
        config = self.config[self.subcommand]
        kwargs["default_root_dir"] = str(self.run_folder or local(config.run.root))
        own = _listed(self.config_init[self.subcommand].trainer.callbacks)
        kwargs["callbacks"] = [*own, Guard(self._signals), Progress()]
        if config.trainer.logger is None:
            kwargs["logger"] = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, LookupError, ArithmeticError, AttributeError) as error:  # what Lightning does not check
            raise UsageError(f"The trainer's options can't be carried out: {first_line(error)}.") from error
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        watch_joining(trainer)
        if self.run_folder is None and self.subcommand in ("fit", "predict"):
            self._make_run_folder(trainer, config)
        if self.subcommand == "fit":
            self._give_recipe(trainer, config)
        return trainer

    def _make_run_folder(self, trainer: pl.Trainer, config: Namespace) -> None:
        """Make the first rank's run folder, which the others hear of in `RunFolder.setup`.

        A SLURM job's is known to every rank: where the job was requeued, it goes on from there.
        """
        if not (trainer.is_global_zero or slurm_job()):
            return
        prompt = config.model.get("init_args", {}).get("prompt") or ""
        folder = new_run_folder(local(config.run.root), config.run.recipe, prompt, config.run.name)
        set_root_folder(trainer, str(folder))
        last = folder / "checkpoints" / "last.ckpt"
        goes_on = self.subcommand == "fit" and config.ckpt_path is None and last.is_file()
        if goes_on:
            self.config_init[self.subcommand].ckpt_path = str(last)
        if trainer.is_global_zero:
            print(f"Run folder: {shown(str(folder))}{', from its last checkpoint' if goes_on else ''}", file=sys.stderr)

    def _give_recipe(self, trainer: Any, config: Namespace) -> None:
        """What `config.yaml` will hold, and the run's own logger unless the recipe has one."""
        if config.trainer.logger is None:
            trainer.logger = MetricsCSV(Path(trainer.default_root_dir))
        self._recipe.ckpt_path = None
        (folder,) = (callback for callback in trainer.callbacks if isinstance(callback, RunFolder))
        folder.config = self._parser("fit").dump(self._recipe, skip_none=False)


def _check(config: Namespace) -> None:
    """Refuse what would fail only after minutes, or would make something else than it says."""
    for name, number in vars(config.trainer).items():
        allowed = _TRAINER_RANGES.get(name, Within(-1, MAX_STEPS_LIMIT))
        if isinstance(number, int | float) and not isinstance(number, bool) and number not in allowed:
            raise ValueError(f"trainer.{name} must be {allowed}; got {number}.")
    if config.data is None or config.model is None:
        raise ValueError("The recipe must have a model and data; start from one that `asdkit recipes` lists.")
    if config.ckpt_path and not local(config.ckpt_path).is_file():
        raise ValueError(f"There is no checkpoint {config.ckpt_path}; look into the run's folder checkpoints.")
    options = config.trainer
    if options.default_root_dir:
        raise ValueError("trainer.default_root_dir can't be used; --run.root names the folder of all runs.")
    if strategy := _class(options.strategy):
        check_strategy(strategy)
    if config.model.class_path == _DISTILLATION:  # others train networks alone
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


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def _class(value: str | Namespace) -> type | None:
    """The class of a strategy or callback; None where Lightning chooses, or knows no such name."""
    if isinstance(value, str):
        return StrategyRegistry[value]["strategy"] if value in StrategyRegistry else None
    module, _, name = value.class_path.rpartition(".")
    return getattr(import_module(module), name)


def _recipe_name(config: Namespace) -> str:
    """The name of the first recipe on the command line, which names the folder of its runs."""
    paths = [str(path) for path in config.get("config") or [] if not str(path).startswith("{")]
    return recipe_slug(Path(paths[0]) if paths else Path("run"))


def _guidance(name: str) -> list[str]:
    """`--model.guidance VSD` is asdkit.VSD with its own defaults, but phi lives where the recipe has it."""
    if PUBLIC_NAMES.get(name) != "asdkit.methods":
        return ["--model.guidance", name]
    arguments = inspect.signature(getattr(asdkit, name)).parameters.values()
    defaults = {p.name: p.default for p in arguments if not p.name.endswith("adapter") and p.default is not p.empty}
    return overlay("guidance", {"class_path": f"asdkit.{name}", "init_args": defaults})


def run_trainer_command(arguments: list[str], run: Path | None) -> int:
    """Run a subcommand of the trainer with its options, short forms expanded; returns the process's exit code."""
    return exit_code_of(lambda signals: CLI(arguments, run, signals))
