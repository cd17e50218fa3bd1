"""Judges: callbacks that measure what a run has made, and put figures beside the prior's digest."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from asdkit.core.parts import require
from asdkit.core.text import shown
from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_grid, to_bytes
from asdkit.formats.prompts import read_prompts
from asdkit.generators.base import Render
from asdkit.priors.clip import CLIP
from asdkit.rendering.cameras import Batch, Views
from asdkit.run.side_files import write_json
from asdkit.scores.equations import hsv_saturation, sharpness

_AROUND, _BACK_DEG = 12, 45.0
_DIRECTIONS = ("front view", "side view", "back view")  # DreamFusion's words
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
        """The figures of merit of what the novel views (None without cameras) show; `data` is of a type of `judges`."""

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


class CLIPJudge(Judge):
    """Measures any prior's results, which have no known truth: by one CLIP or several, and by the pictures themselves.

    The names of a CLIP's figures end in its name. f(x) and g are a CLIP's unit vectors of an 8-bit picture x and of
    a prompt. The x are the novel views, or all images. x_1 to x_12 look at a 3D object from all around, every 30
    degrees from the front on, at the orbit's height.

    * `clip_score`: the mean of f(x).g(prompt), as in the paper's Table 1 (CLIPScore, arXiv 2104.08718, without its
      factor of 2.5 and its floor of 0). The prompt has no words for the view.
    * `r_precision`: the share of x for which no other of `prompts` has a larger f(x).g (R-precision at R = 1, Park et
      al. 2021; in DreamFusion's Table 1). It needs such prompts.
    * `view_consistency`: the mean of f(x_k).f(x_k+1) around the circle (frame consistency, arXiv 2302.03011).
    * `janus`: the share of the x_k within 45 degrees of the back for which "PROMPT, front view" has a larger f(x).g
      than the same prompt with side view and with back view. This is our own proxy for a second face. CLIPs favour
      fronts, so only compare it between methods.
    * `saturation`: the mean of HSV's saturation.
    * `sharpness`: the mean of |x - the mean of a pixel's four neighbours|, inside the border.

    Args:
        models: folders or ids of CLIPModels, e.g. openai/clip-vit-large-patch14. Without any, only the last two figures
            are measured.
        prompts: a file with a prompt on each line, among which the run's own should rank first; empty for none.

    Raises:
        ValueError: two models of the same name, or a file without prompts.
        PriorUnavailable: a CLIP can't be had.
    """

    judges = (Cameras, Canvas)

    def __init__(self, models: Sequence[str] = (), prompts: str = "") -> None:
        super().__init__()
        named = {path.rstrip("/").rpartition("/")[2].partition("@")[0]: path for path in models}
        require(len(named) == len(models), f"Two CLIPs of the same name can't be told apart; got {list(models)}.")
        self._clips = {name: CLIP(path) for name, path in named.items()}
        self._prompts = read_prompts(prompts) if prompts else []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Load the CLIPs."""
        for clip in self._clips.values():
            clip.load()

    def measure(self, module: Distillation, data: Any, views: Views | None, render: Render) -> dict[str, float]:
        results = {"saturation": hsv_saturation(render.image), "sharpness": sharpness(render.image)}
        around = data.ring(_AROUND).to(module.device) if isinstance(data, Cameras) and self._clips else None
        circle = None if around is None else module.show(around).image
        for name, clip in self._clips.items():
            clip.model.to(module.device)
            own = clip.prompts([module.prompt])
            seen = clip.pictures(to_bytes(render.image))
            results[f"clip_score_{name}"] = seen @ own[0]
            if others := [prompt for prompt in self._prompts if prompt != module.prompt]:
                results[f"r_precision_{name}"] = ranks_first(seen, torch.cat([own, clip.prompts(others)]))
            if around is not None and circle is not None:
                seen = clip.pictures(to_bytes(circle))
                results[f"view_consistency_{name}"] = (seen * seen.roll(-1, 0)).sum(1)
                words = clip.prompts([f"{module.prompt}, {words}" for words in _DIRECTIONS])
                results[f"janus_{name}"] = ranks_first(seen[at_back(around)], words)
            clip.model.cpu()  # a GPU's memory is the run's
        several = {name: values.float() for name, values in results.items() if len(values) > 1}
        self.errors = {name: (values.std() / len(values) ** 0.5).item() for name, values in several.items()}
        return {name: values.float().mean().item() for name, values in results.items()}


def ranks_first(pictures: Float[Tensor, "B D"], prompts: Float[Tensor, "N D"]) -> Bool[Tensor, " B"]:
    """Of each picture's unit vector, whether no prompt's has a larger cosine with it than the first one's."""
    cosines = pictures @ prompts.T
    return cosines[:, 0] >= cosines.amax(1)


def at_back(views: Views) -> Bool[Tensor, " B"]:
    """Which cameras stand within 45 degrees of the back."""
    return views.azimuth.cos() <= -torch.tensor(_BACK_DEG).deg2rad().cos()
