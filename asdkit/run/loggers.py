"""What a run has logged: its own `metrics.csv`, and beside it TensorBoard, Weights & Biases, or Lightning's CSV."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from csv import DictReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from asdkit.core.atomic import write_text, writing
from asdkit.core.bounds import checked
from asdkit.core.foreign import step_metrics
from asdkit.core.optional import require_package
from asdkit.run.side_files import csv_text


class MetricsCSV(Logger):
    """`metrics.csv` in a run folder, each row with the prior's digest, in one piece over all resumptions of a run.

    Every row is on its way to the disk when `log_metrics` returns, and no kill leaves less than there was.
    """

    name = version = ""  # Lightning asks for them

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "metrics.csv"
        self._columns: list[str] = []
        self._last_line = ""
        self._trainer: Any = None
        self._digest = ""

    def follow(self, trainer: pl.Trainer, digest: str) -> None:
        """Count the trainer's iterations, name the prior, and drop an earlier process's rows that are made again."""
        self._trainer, self._digest = trainer, digest
        rows = [row for row in _rows(self._path) if int(row["step"]) <= trainer.global_step]
        if trainer.is_global_zero:  # a file that is always there, however soon a run ends
            self._columns = sorted({name for row in rows for name in row}) or ["step"]
            write_text(self._path, csv_text(rows, self._columns))

    def log_step(self) -> None:
        """Log this iteration's row now, where it has one; Lightning logs it after all callbacks."""
        due = self._trainer and self._trainer.global_step % self._trainer.log_every_n_steps == 0
        if due and (metrics := step_metrics(self._trainer)):
            self.log_metrics(metrics | {"epoch": self._trainer.current_epoch})

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write a row, unless it is the last one again."""
        row = metrics | {"step": self._trainer.global_step if self._trainer else step}
        row |= {"prior": self._digest} if self._digest else {}
        if not (row.keys() <= set(self._columns) and self._path.is_file()):
            self._columns = sorted({*self._columns, *row})
            write_text(self._path, csv_text(_rows(self._path), self._columns))
        line = csv_text([row], self._columns).partition("\n")[2]
        if line != self._last_line:
            self._last_line = line
            with writing(self._path), open(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "w") as file:
                file.write(line)

    def log_hyperparams(self, *params: Any, **more: Any) -> None:
        """Nothing: config.yaml holds them."""


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file that belong to an iteration; none where the file is missing or torn."""
    lines = path.read_text(errors="replace").replace("\0", "").splitlines() if path.is_file() else []
    return [row for row in DictReader(lines) if (row.get("step") or "").isdecimal() and None not in row]


def logged(path: Path) -> dict[str, dict[int, float]]:
    """The numbers in a `metrics.csv`, by name and iteration."""
    numbers: dict[str, dict[int, float]] = {}
    for row in _rows(path):
        for name, text in row.items():
            if text and name not in ("step", "epoch", "prior"):
                with suppress(ValueError):  # somebody has written there
                    numbers.setdefault(name, {})[int(row["step"])] = float(text)
    return numbers


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
            run = f"{folder.parent.name}-{folder.name}"  # which is the same when the run goes on
            make: dict[str, Callable[[], Logger]] = {
                "tensorboard": lambda: TensorBoardLogger(folder, "", "tensorboard"),
                "csv": lambda: CSVLogger(folder, "", "csv"),
                "wandb": lambda: WandbLogger(name=run, version=run, save_dir=folder, project="asdkit"),
            }
            trainer.loggers = [*trainer.loggers, *(make[name]() for name in dict.fromkeys(self.names))]


def log_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Show a picture file of an iteration in the loggers that show pictures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")
