"""fit, validate, test and predict: LightningCLI with asdkit's run folders, short errors and quiet start."""

import inspect
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import asdkit
from asdkit.commands.messages import explain
from asdkit.core.atomic import write_text
from asdkit.core.errors import Diverged, Interrupted
from asdkit.core.names import PUBLIC_NAMES
from asdkit.core.text import local, recipe_slug, shown
from asdkit.ranks import check_precision, check_strategy
from asdkit.run.checkpoints import AtomicCheckpointIO, Checkpoints
from asdkit.run.exits import end
from asdkit.run.guard import Guard
from asdkit.run.progress import Progress
from asdkit.run.rank_agreement import RankAgreement
from asdkit.run.report import Report
from asdkit.run.run_folder import MetricsCSV, RunFolder, new_run_folder
from asdkit.run.signals import Signals, requeue, slurm_job
from asdkit.run.snapshots import Snapshots
from asdkit.run.viewer import Viewer

_DISTILLATION = "asdkit.Distillation"
for _name in asdkit.__all__:
    getattr(asdkit, _name)  # imported for its short name on the command line

_LAUNCHER = "ASDKIT_LAUNCHER"
MAX_STEPS_LIMIT = 100_000_000
_HARMLESS = (
    ".*does not have many workers.*",
    ".*no pre-optimization state was saved.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed.*",
    ".*Experiment logs directory .* exists.*",
    ".*Found .* module.s. in eval mode.*",
)
_ADVERTS = ("Tip:", "GPU available", "TPU available", "stopped: `max_steps", "Restor", "Loaded model weights")


class Parser(LightningArgumentParser):
    """LightningCLI's parser, with errors of a few lines."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """End with one sentence about what was wrong, and the nearest known option."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"asdkit: {shown(explain(message))}", file=sys.stderr)
        raise SystemExit(2)


class CLI(LightningCLI):
    """LightningCLI whose runs live in run folders.

    Args:
        arguments: the command line, the subcommand first.
        run: the run folder that the command line named, if any.
        signals: of the process.
    """

    def __init__(self, arguments: list[str], run: Path | None, signals: Signals) -> None:
        self.run_folder, self._signals = run, signals
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
            trainer_defaults={
                "max_steps": 1000,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "check_val_every_n_epoch": None,
                "val_check_interval": MAX_STEPS_LIMIT,
                "use_distributed_sampler": False,
            },
            args=_methods_expanded(arguments),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without the option that lets checkpoints be unpickled."""
        return {name: skipped | {"weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("usage", "asdkit <command> --config RECIPE [--key value ...]")
        return super().init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(RunFolder, "run")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(Snapshots, "snapshots")
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(Viewer, "viewer")
        parser.add_lightning_class_args(RankAgreement, "ranks")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """The recipe alone says what is built; a checkpoint brings weights, never arguments."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        steps = config.trainer.max_steps
        if not 1 <= steps <= MAX_STEPS_LIMIT:
            raise ValueError(f"trainer.max_steps must be within 1 and {MAX_STEPS_LIMIT}; got {steps}.")
        if config.data is None or config.model is None:
            raise ValueError("The recipe must have a model and data; start from one that `asdkit recipes` lists.")
        if config.ckpt_path and not local(config.ckpt_path).is_file():
            raise ValueError(f"There is no checkpoint {config.ckpt_path}; look into the run's folder checkpoints.")
        if strategy := _strategy_class(config.trainer.strategy):
            check_strategy(strategy)
        if config.model.class_path == _DISTILLATION:  # others train networks alone
            check_precision(config.trainer.precision)
        if not config.run.recipe:
            config.run.recipe = _recipe_name(config)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config = self.config[self.subcommand]
        kwargs["default_root_dir"] = str(self.run_folder or local(config.run.root))
        if config.trainer.logger is None:
            kwargs["logger"] = False
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if self.run_folder is None and self.subcommand in ("fit", "predict"):
            self._open_folder(trainer, config)
        folder = Path(trainer.default_root_dir)
        if self.subcommand == "fit" and config.trainer.logger is None:
            trainer.logger = MetricsCSV(folder)
        if self.subcommand == "fit" and trainer.is_global_zero:
            again = config.clone()
            again.ckpt_path = None
            write_text(folder / "config.yaml", self._parser("fit").dump(again, skip_none=False))
        return trainer

    def _open_folder(self, trainer: pl.Trainer, config: Namespace) -> None:
        """Make the first rank's run folder, which the others hear of in `RunFolder.setup`.

        A SLURM job's is known to every rank: where the job was requeued, it goes on from there.
        """
        if not (trainer.is_global_zero or slurm_job()):
            return
        prompt = config.model.get("init_args", Namespace()).get("prompt") or ""
        folder = new_run_folder(Path(config.run.root), config.run.recipe, prompt, config.run.name)
        trainer._default_root_dir = str(folder)
        last = folder / "checkpoints" / "last.ckpt"
        goes_on = self.subcommand == "fit" and config.ckpt_path is None and last.is_file()
        if goes_on:
            self.config_init[self.subcommand].ckpt_path = str(last)
        if trainer.is_global_zero:
            print(f"Run folder: {shown(str(folder))}{', from its last checkpoint' if goes_on else ''}", file=sys.stderr)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """The always-present callbacks, in the order they act; checkpoints are last, after the check for NaN."""
        return super()._instantiate_trainer(config, [Guard(self._signals), Progress(), *callbacks])


def _strategy_class(value: str | Namespace) -> type | None:
    """The class that `trainer.strategy` means; None where Lightning chooses, or knows no such name."""
    if isinstance(value, str):
        return StrategyRegistry[value]["strategy"] if value in StrategyRegistry else None
    module, _, name = value.class_path.rpartition(".")
    return getattr(import_module(module), name)


def _recipe_name(config: Namespace) -> str:
    """The name of the first recipe on the command line, which names the folder of its runs."""
    paths = [str(path) for path in config.get("config") or [] if not str(path).startswith("{")]
    return recipe_slug(Path(paths[0]) if paths else Path("run"))


def _methods_expanded(arguments: list[str]) -> list[str]:
    """`--model.guidance VSD` is asdkit.VSD with its own defaults, but phi lives where the recipe has it."""
    expanded: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag != "--model.guidance":
            expanded.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if PUBLIC_NAMES.get(value) != "asdkit.methods":
            expanded += [flag, value]
            continue
        own = {
            name: parameter.default
            for name, parameter in inspect.signature(getattr(asdkit, value)).parameters.items()
            if not name.endswith("adapter") and parameter.default is not parameter.empty
        }
        guidance = {"class_path": f"asdkit.{value}", "init_args": own}
        expanded += ["--config", json.dumps({"model": {"init_args": {"guidance": guidance}}})]
    return expanded


def run_trainer_command(arguments: list[str], run: Path | None) -> int:
    """Run a subcommand of the trainer; returns the process's exit code.

    Args:
        arguments: the subcommand and its options, short forms expanded.
        run: the run folder that the command line named, if any.
    """
    return answered(lambda signals: CLI(arguments, run, signals))


def answered(act: Callable[[Signals], object]) -> int:
    """Do something with a trainer; whatever goes wrong becomes one sentence and the process's exit code."""
    _quiet()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("asdkit: %(message)s"))
    logging.getLogger("asdkit").addHandler(handler)
    further = os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(_LAUNCHER) == str(os.getppid())
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        with Signals() as signals:
            act(signals)
        return 0
    except BaseException as error:
        if isinstance(error, Interrupted) and error.signum == signal.SIGUSR1 and rank_zero_only.rank == 0:
            error.add_note(requeue())
        code = end(error)
        # Lightning kills its first process as soon as a further one fails, but here all have agreed to end.
        return 0 if further and isinstance(error, Interrupted | Diverged) else code
    finally:
        os.environ.pop(_LAUNCHER, None)
        logging.getLogger("asdkit").removeHandler(handler)


class _Adverts(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in _ADVERTS)


def _quiet() -> None:
    """Leave only what concerns the user: no adverts, no advice that is wrong here."""
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_Adverts())
