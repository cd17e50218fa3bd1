"""The object in a browser while it is being made."""

from typing import Any

import pytorch_lightning as pl

from asdkit.core.bounds import Count, checked
from asdkit.run.live_view import LiveView, check_port, view_of


@checked
class Viewer(pl.Callback):
    """Serves a page that shows the object at http://127.0.0.1:port during fit. Looking at it changes nothing.

    Args:
        port: the port to listen on. The next free one is taken when it is in use; 0 switches the viewer off.
        every: the number of iterations between two updates.

    Raises:
        ValueError: a port that can't be taken.
    """

    def __init__(self, port: int = 0, every: Count = 10) -> None:
        check_port(port)
        self.port, self.every = port, every
        self._live: LiveView | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit" and self.port and trainer.is_global_zero:
            self._live = view_of(pl_module, self.port)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._live:
            self._live.follow(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if self._live:
            due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
            self._live.follow(pl_module, moved=not due)

    def teardown(self, trainer: Any, pl_module: Any, stage: Any = None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    on_exception = teardown
