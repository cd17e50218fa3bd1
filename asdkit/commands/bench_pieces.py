"""What a training of the embedded prior has made so far, in files that a machine lent for minutes can hand over."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asdkit.core.atomic import write_bytes
from asdkit.run.side_files import write_json

_SECONDS = 60.0
_PIECE = 15 * 2**20  # bytes


class SaveEveryMinute(pl.Callback):
    """Every minute and at the end: the averaged weights in `folder` as `prior.zip.0`, `prior.zip.1`, ...

    They are at most 15 MiB each (`cat prior.zip.* > prior.zip` joins them); `prior.json` says how far training was.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._first, self._start, self._saved = trainer.global_step, time.monotonic(), time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if time.monotonic() - self._saved >= _SECONDS:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: Any, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        module.on_train_end()  # writes the weights
        seconds = time.monotonic() - self._start
        whole = Path(shutil.make_archive(str(self.folder / "prior"), "zip", module.hparams.weights))
        content = whole.read_bytes()
        whole.unlink()
        for number, start in enumerate(range(0, len(content), _PIECE)):
            write_bytes(self.folder / f"prior.zip.{number}", content[start : start + _PIECE])
        write_json(self.folder / "prior.json", {"first": self._first, "step": trainer.global_step, "seconds": seconds})
        self._saved = time.monotonic()
