"""A progress bar that counts iterations; plain lines where there is no terminal."""

import io
import math
import sys
import time
from contextlib import suppress

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

_PLAIN_EVERY_SECONDS = 10.0


class Progress(ProgressBar):
    """Iterations done, the speed, the time left and the losses."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled, self._plain, self._last_line = True, False, 0.0
        self._bar: tqdm | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled:
            self._plain, self._last_line = not sys.stderr.isatty(), time.monotonic()
            draw = {"file": io.StringIO(), "mininterval": math.inf} if self._plain else {"dynamic_ncols": True}
            self._bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, **draw)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: object) -> None:
        if self._bar is None:
            return
        if trainer.global_step % trainer.log_every_n_steps == 0:  # asking oftener would make a GPU wait
            metrics = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
            self._bar.set_postfix(metrics, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)
        if self._plain and time.monotonic() - self._last_line > _PLAIN_EVERY_SECONDS:
            self._line()

    def on_train_end(self, *ended: object) -> None:
        if self._plain and self._bar is not None:
            self._line()
        self.on_exception()

    def on_exception(self, *ended: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self) -> None:
        self._last_line = time.monotonic()
        with suppress(OSError):  # nobody reads it, which is no reason to end a run
            print(self._bar, file=sys.stderr, flush=True)
