"""How a run comes along, in words: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from asdkit.core.text import clock, shown

_PLAIN_EVERY_SECONDS = 10.0
_PROMPT = 30  # characters of it that are shown


class Progress(ProgressBar):
    """What is made, the steps done, the time left, the speed, and how strongly the prior still pulls.

    The pull is the norm of Eq. 7's residual, in percent of the strongest one so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichProgress | None = None
        self._enabled = True
        self._start = self._last_line = 0.0
        self._first_step = 0
        self._prompt, self._strongest = "", 0.0
        self._metrics: dict[str, float] = {}

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        self._prompt = shown(pl_module.hparams.get("prompt", ""))[:_PROMPT]
        console = Console(file=sys.stderr)
        in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None  # which rich's bar needs there
        if not self._enabled or not (console.is_terminal or in_notebook):
            return
        columns = (BarColumn(10), TextColumn("{task.fields[info]}", markup=False))
        self._bar = RichProgress(*columns, console=console, refresh_per_second=4)
        self._bar.start()
        self._task = self._bar.add_task("fit", total=trainer.max_steps, completed=trainer.global_step, info="")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # asking oftener would make a GPU wait
            self._metrics = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
            self._strongest = max(self._strongest, self._metrics.get("residual_norm", 0.0))
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
        with suppress(OSError):  # nobody reads it, which is no reason to end a run
            print(self._info(trainer), file=sys.stderr, flush=True)

    def _info(self, trainer: pl.Trainer) -> str:
        rate = (trainer.global_step - self._first_step) / max(time.monotonic() - self._start, 1e-6)
        left = (trainer.max_steps - trainer.global_step) / rate if rate else 0.0
        words = [f"step {trainer.global_step} of {trainer.max_steps}", f"{clock(left)} left", f"{rate:.2f} steps/s"]
        if self._strongest:
            words.append(f"pull {self._metrics.get('residual_norm', 0.0) / self._strongest:.0%}")
        else:  # another module than Distillation
            words += [f"{name} {value:.3g}" for name, value in self._metrics.items()]
        return ": ".join(filter(None, [self._prompt, ", ".join(words)]))
