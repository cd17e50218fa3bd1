"""What can be measured of any prior's results: how CLIPs see them, and the pictures themselves."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from asdkit.core.parts import require
from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.formats.pictures import to_bytes
from asdkit.formats.prompts import read_prompts
from asdkit.generators.base import Render
from asdkit.priors.clip import CLIP
from asdkit.rendering.cameras import Views
from asdkit.run.judge import Judge
from asdkit.scores.equations import hsv_saturation, sharpness

_AROUND, _BACK_DEG = 12, 45.0
_DIRECTIONS = ("front view", "side view", "back view")  # DreamFusion's words


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
