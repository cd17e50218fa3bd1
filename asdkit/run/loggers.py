"""Loggers beside a run's own `metrics.csv`: TensorBoard, Weights & Biases, or Lightning's CSV."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from asdkit.core.bounds import checked
from asdkit.core.optional import require_package


@checked
class Loggers(pl.Callback):
    """Lightning's loggers in the run folder, with pictures and hyperparameters, beside the run's own `metrics.csv`.

    Args:
        names: tensorboard (the folder `tensorboard`), wandb (the folder `wandb`, and the project asdkit) or csv (the
            folder `csv`). Several may be named; it is a MissingExtra if a logger's package is not installed.
    """

    def __init__(self, names: Sequence[Literal["tensorboard", "wandb", "csv"]] = ()) -> None:
        self.names = names
        for name in {*names} - {"csv"}:
            require_package(name, name)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The run folder is known by now, and Lightning gives the loggers the hyperparameters next."""
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            trainer.loggers = [*trainer.loggers, *(_MAKE[name](folder) for name in dict.fromkeys(self.names))]


def _wandb(folder: Path) -> Logger:
    name = f"{folder.parent.name}-{folder.name}"  # which is the same when the run goes on
    return WandbLogger(name=name, version=name, save_dir=folder, project="asdkit")


_MAKE = {
    "tensorboard": lambda folder: TensorBoardLogger(folder, "", "tensorboard"),
    "csv": lambda folder: CSVLogger(folder, "", "csv"),
    "wandb": _wandb,
}


def log_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Show a picture file of an iteration in the loggers that show pictures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")
