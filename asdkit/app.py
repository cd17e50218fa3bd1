"""fit, validate, test and predict: LightningCLI with asdkit's run folders, short errors and quiet start."""

import inspect
import json
import logging
import os
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

import asdkit.adapters
import asdkit.data
import asdkit.distillation
import asdkit.elsewhere
import asdkit.gammas
import asdkit.generators.density
import asdkit.generators.encodings
import asdkit.generators.gaussians
import asdkit.generators.images
import asdkit.generators.nerf
import asdkit.generators.shap_e
import asdkit.guidance
import asdkit.priors.pretrained
import asdkit.ramps
import asdkit.reals
import asdkit.toybox.data  # these are imported for their short class names
from asdkit.callbacks.agreement import Agreement
from asdkit.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from asdkit.callbacks.finite import Diverged, StopWhenNotFinite
from asdkit.callbacks.outputs import Outputs
from asdkit.callbacks.progress import Progress
from asdkit.callbacks.run_folder import MetricsCSV, RunFolder, new_run_folder
from asdkit.callbacks.snapshots import Snapshots
from asdkit.callbacks.viewer import Viewer
from asdkit.cli_errors import explain
from asdkit.extras import MissingExtra
from asdkit.files import local, recipe_slug, shown, write_text
from asdkit.part import unwrapped
from asdkit.ranks import check_precision, check_strategy

_FOLDER = "ASDKIT_RUN_FOLDER"
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
    """

    def __init__(self, arguments: list[str], run: Path | None) -> None:
        self.run_folder = run
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
            args=arguments,
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
        parser.add_lightning_class_args(Outputs, "outputs")
        parser.add_lightning_class_args(Viewer, "viewer")
        parser.add_lightning_class_args(Agreement, "ranks")

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
        check_precision(config.trainer.precision)
        if not config.run.recipe:
            config.run.recipe = _recipe_name(config)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config = self.config[self.subcommand]
        writes = self.subcommand in ("fit", "predict")
        folder = self.run_folder or local(config.run.root)
        if self.run_folder is None and writes:
            folder = self._new_folder(config)
        kwargs["default_root_dir"] = str(folder)
        if config.trainer.logger is None:
            kwargs["logger"] = MetricsCSV(folder) if self.subcommand == "fit" else False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except BaseException:
            if writes and self.run_folder is None:
                folder.rmdir()
            raise
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if self.subcommand == "fit":
            again = config.clone()
            again.ckpt_path = None
            write_text(folder / "config.yaml", self._parser("fit").dump(again, skip_none=False))
        return trainer

    def _new_folder(self, config: Namespace) -> Path:
        """A new run folder; the processes that Lightning starts for further ranks find it in their environment."""
        if os.environ.get("LOCAL_RANK", "0") != "0" and _FOLDER in os.environ:
            return Path(os.environ[_FOLDER])
        prompt = config.model.get("init_args", Namespace()).get("prompt") or ""
        folder = new_run_folder(Path(config.run.root), config.run.recipe, prompt, config.run.name)
        print(f"Run folder: {shown(str(folder))}", file=sys.stderr)
        os.environ[_FOLDER] = str(folder)
        return folder

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """The always-present callbacks, in the order they act; checkpoints are last, after the check for NaN."""
        return super()._instantiate_trainer(config, [StopWhenNotFinite(), Progress(), *callbacks])


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
    """`--model.guidance VSD` is asdkit.guidance.VSD with its own defaults, but phi lives where the recipe has it."""
    expanded: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag != "--model.guidance":
            expanded.append(argument)
            continue
        value = value if equals else next(waiting, "")
        method = getattr(asdkit.guidance, value, None) if value.isidentifier() else None
        if method is None:
            expanded += [flag, value]
            continue
        own = {
            name: parameter.default
            for name, parameter in inspect.signature(method).parameters.items()
            if not name.endswith("adapter") and parameter.default is not parameter.empty
        }
        guidance = {"class_path": f"asdkit.guidance.{value}", "init_args": own}
        expanded += ["--config", json.dumps({"model": {"init_args": {"guidance": guidance}}})]
    return expanded


def run_trainer_command(arguments: list[str], run: Path | None) -> int:
    """Run a subcommand of the trainer; returns the process's exit code.

    Args:
        arguments: the subcommand and its options, short forms expanded.
        run: the run folder that the command line named, if any.
    """
    _quiet()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("asdkit: %(message)s"))
    logging.getLogger("asdkit").addHandler(handler)
    try:
        CLI(_methods_expanded(arguments), run)
        return 0
    except SIGTERMException:
        return 143
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
        return 130 if code == 1 else code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("ASDKIT_DEBUG"):
            traceback.print_exc()
        print(f"asdkit: {_sentence(error)}", file=sys.stderr)
        bad_input = isinstance(error, ValueError | MisconfigurationException)
        return 6 if isinstance(error, Diverged) else 2 if bad_input else 1
    finally:
        logging.getLogger("asdkit").removeHandler(handler)


def _sentence(error: BaseException) -> str:
    error = unwrapped(error)
    text = shown(str(error))
    if isinstance(error, ValueError | OSError | Diverged | MisconfigurationException | MissingExtra) or not text:
        return text or type(error).__name__
    return f"{type(error).__name__}: {text[:400]} (ASDKIT_DEBUG=1 shows where.)"


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
