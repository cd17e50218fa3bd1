"""Judges: callbacks that measure what a run has made, and put figures beside the prior's digest."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from asdkit.core.text import shown
from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_grid
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Batch, Views
from asdkit.run.side_files import write_json

_FIFTHS, _FROM, _STRUCTURE, _VIEWS = 5, 2, 16, 4  # of `StabilityJudge`


def judges_of(trainer: Any) -> list["Judge"]:
    """The judges of a run."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Judge)]


def figures(trainer: Any) -> dict[str, float]:
    """What the judges of a run have measured last."""
    return {name: value for judge in judges_of(trainer) for name, value in judge.results.items()}


class Judge(pl.Callback, ABC):
    """Measures figures of merit at every validation, at the end of fit, and in test: a callback of the trainer."""

    judges: type[Cameras] | type[Canvas] | tuple[type[Cameras], type[Canvas]] = Cameras

    def __init__(self) -> None:
        self.results: dict[str, float] = {}  # the figures of merit that were measured last
        self.errors: dict[str, float] = {}  # the standard errors of figures that are means over pictures
        self.unmeasured: dict[str, str] = {}  # why a figure can't be had for this prompt, which the report says instead
        self._seen: list[tuple[Batch, Render]] = []
        self._measured_at = -1

    @abstractmethod
    def measure(self, module: Distillation, data: Any, views: Any, render: Render) -> dict[str, float]:
        """The figures of merit.

        Args:
            module: the run.
            data: of a type that this judge `judges`: where other views can be taken from, or a source image.
            views: the novel views; None without cameras.
            render: what they show.
        """

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        self._seen.append((batch, outputs))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        seen, self._seen = self._seen, []
        if not seen or not self._judgeable(trainer, pl_module):
            return
        batch, render = seen[0]
        self._measure(trainer, pl_module, batch.views, render)
        pl_module.log_dict(self.results, rank_zero_only=True)
        if trainer.state.fn != "fit" and trainer.is_global_zero:
            self._show(trainer, pl_module)

    on_test_epoch_end = on_validation_epoch_end

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._measured_at != trainer.global_step and self._judgeable(trainer, pl_module):
            views = trainer.datamodule.novel_views()
            views = views and views.to(pl_module.device)
            with torch.no_grad():
                self._measure(trainer, pl_module, views, pl_module.show(views))
            for logger in trainer.loggers if self.results else ():
                logger.log_metrics(self.results, trainer.global_step)

    def _measure(self, trainer: Any, module: Distillation, views: Views | None, render: Render) -> None:
        self.results = self.measure(module, trainer.datamodule, views, render)
        self._measured_at = trainer.global_step

    def _show(self, trainer: Any, module: Distillation) -> None:
        """Say what the table that Lightning prints next is about, and write test's figures into the run folder."""
        judges = [judge for judge in judges_of(trainer) if judge._judgeable(trainer, module)]
        if self is not judges[-1]:  # which does so for all
            return
        print(f"{shown(module.prompt)}, from {trainer.ckpt_path or 'the start'}, prior {module.prior.digest}")
        if not figures(trainer):
            print("Nothing could be measured.")
        folder = Path(trainer.default_root_dir)
        if trainer.state.fn == "test" and (folder / "run.json").is_file():
            report = {"prior": module.prior.digest, "prompt": module.prompt, "checkpoint": str(trainer.ckpt_path)}
            write_json(folder / "test.json", report | {"metrics": figures(trainer)})

    def _judgeable(self, trainer: Any, module: Any) -> bool:
        return isinstance(module, Distillation) and isinstance(trainer.datamodule, self.judges)


class StabilityJudge(Judge):
    """Measures how much changes from a fifth of the iterations to the next, after the first two, and draws
    `progress.png`.

    It looks at all images, or at an object from four sides.

    * `movement`: the mean absolute change of the pictures.
    * `structure`: 1 - the correlation of the grey pictures at 16 x 16 pixels, in which colours and details don't count.
      It is 0 where everything stays in its place.
    """

    judges = (Cameras, Canvas)

    def __init__(self) -> None:
        super().__init__()
        self._pictures: dict[int, Float[Tensor, "B 3 H W"]] = {}  # by the number of the fifth
        self._steps = 0  # of the run, of which these are fifths

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *step: Any) -> None:
        if self._steps != trainer.max_steps:  # a run that goes on beyond its end begins to look anew
            self._pictures, self._steps = {}, trainer.max_steps
        fifth, rest = divmod(trainer.global_step * _FIFTHS, abs(trainer.max_steps))  # -1 is without end, as are epochs
        reached = trainer.max_steps > 0 and rest < _FIFTHS  # the first iteration that has
        if reached and self._judgeable(trainer, pl_module):
            views = trainer.datamodule.look(_VIEWS)
            with torch.no_grad():
                self._pictures[fifth] = pl_module.show(views and views.to(pl_module.device)).image.cpu()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        if self._pictures and trainer.is_global_zero:
            first = torch.cat([pictures[:1] for pictures in self._pictures.values()])
            save_grid(first, Path(trainer.default_root_dir) / "progress.png", columns=len(first))

    def state_dict(self) -> dict[str, Any]:
        """The pictures so far, so that a run that goes on has the same figures."""
        return {"pictures": self._pictures, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._pictures, self._steps = state_dict["pictures"], state_dict.get("steps", 0)

    def measure(self, module: Distillation, data: Any, views: Views | None, render: Render) -> dict[str, float]:
        late = [pictures for fifth, pictures in sorted(self._pictures.items()) if fifth >= _FROM]
        changes = list(zip(late, late[1:], strict=False))
        if not changes or any(a.shape != b.shape for a, b in changes):  # also without iterations, as in asdkit test
            return {}
        moved = torch.stack([(b - a).abs().mean() for a, b in changes])
        restructured = torch.stack([1 - correlation(structure(a), structure(b)).mean() for a, b in changes])
        return {"movement": moved.mean().item(), "structure": restructured.mean().item()}


def structure(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N"]:
    """Where pictures are bright and where dark, coarsely."""
    return adaptive_avg_pool2d(images.mean(1, keepdim=True), _STRUCTURE).flatten(1)


def correlation(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Pearson's, of each row; 0 where one is constant."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a.double(), b.double()))
    return cosine_similarity(a, b, eps=1e-12)
