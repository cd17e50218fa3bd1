"""A progress bar that counts iterations; plain lines where there is no terminal."""

import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

_PLAIN_EVERY_SECONDS = 10.0


class Progress(ProgressBar):
    """Iterations done, the speed, the time left and the losses."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichProgress | None = None
        self._enabled = True
        self._start = self._last_line = 0.0
        self._first_step = 0
        self._metrics: dict[str, Any] = {}

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        console = Console(file=sys.stderr)
        in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None  # which rich's bar needs there
        if not self._enabled or not (console.is_terminal or in_notebook):
            return
        columns = (BarColumn(16), MofNCompleteColumn(), TextColumn("{task.fields[info]}"))
        self._bar = RichProgress(*columns, console=console, refresh_per_second=4)
        self._bar.start()
        self._task = self._bar.add_task("fit", total=trainer.max_steps, completed=trainer.global_step, info="")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # asking oftener would make a GPU wait
            self._metrics = dict(trainer.progress_bar_metrics)
        if self._bar:
            self._bar.update(self._task, completed=trainer.global_step, info=self._info(trainer))
        elif self._enabled and time.monotonic() - self._last_line > _PLAIN_EVERY_SECONDS:
            self._line(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and not self._bar:
            self._line(trainer)
        self.on_exception()

    def on_exception(self, *ended: Any) -> None:
        if self._bar:
            with suppress(OSError):  # the terminal is gone
                self._bar.stop()
            self._bar = None

    def _line(self, trainer: pl.Trainer) -> None:
        self._last_line = time.monotonic()
        line = f"step {trainer.global_step}/{trainer.max_steps}  {self._info(trainer)}"
        with suppress(OSError):  # nobody reads it, which is no reason to end a run
            print(line, file=sys.stderr, flush=True)

    def _info(self, trainer: pl.Trainer) -> str:
        done = trainer.global_step - self._first_step
        rate = done / max(time.monotonic() - self._start, 1e-6)
        left = (trainer.max_steps - trainer.global_step) / rate if rate else 0.0
        metrics = "  ".join(f"{name} {float(value):.3g}" for name, value in self._metrics.items())
        return f"{rate:.2f} it/s  eta {int(left // 60)}:{int(left % 60):02d}  {metrics}"
