"""How much of what a run shows still changes while it goes on: of the pictures, and of their structure alone."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_grid
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views
from asdkit.run.judge import Judge

_FIFTHS, _FROM, _STRUCTURE, _VIEWS = 5, 2, 16, 4


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
