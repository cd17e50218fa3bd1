"""`metrics.csv`: what a run has logged."""

import os
from contextlib import suppress
from csv import DictReader
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from asdkit.core.atomic import write_text, writing
from asdkit.core.foreign import step_metrics
from asdkit.run.side_files import csv_text

_NO_NUMBERS = ("step", "epoch", "prior")


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
        """Count by the trainer's iterations (Lightning's own count of batches starts at 0) and name the prior.

        Rows of an earlier process are kept, but for those of iterations that are done again.
        """
        self._trainer, self._digest = trainer, digest
        rows = [row for row in _rows(self._path) if int(row["step"]) <= trainer.global_step]
        if trainer.is_global_zero and self._path.is_file():
            self._columns = sorted({name for row in rows for name in row})
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
            if text and name not in _NO_NUMBERS:
                with suppress(ValueError):  # somebody has written there
                    numbers.setdefault(name, {})[int(row["step"])] = float(text)
    return numbers
