"""Judging by the ground truth of the toybox: pictures, silhouettes, azimuths, and its small CLIP."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.data import Cameras
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views
from asdkit.run.judge import Judge
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import EMBEDDED, TinyCLIP, prompt_among
from asdkit.toybox.training.common import psnr

PROMPTS = 200
_AZIMUTHS, _CANDIDATES = 8, 24
_WITHIN_DEG = 45.0
_log = logging.getLogger(__name__)


class CLIPJudge(Judge):
    """What the judges of the toybox share: R-precision by its small CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: TinyCLIP | None = None

    def precision(self, prompt: str, images: Float[Tensor, "B 3 H W"]) -> dict[str, float]:
        """R-precision at 1 among 200 prompts and the mean cosine to the prompt, by the CLIP of the package.

        Nothing where the package has none, or the CLIP does not know such prompts.
        """
        if parse(prompt) is None:
            self.unmeasured["r_precision"] = "the toybox's CLIP has only ever seen the toybox's own captions"
            return {}
        if not (EMBEDDED / "config.json").is_file():
            return {}
        self.clip = self.clip or TinyCLIP(EMBEDDED)
        logits = self.clip.logits(resized(images.cpu(), world.SIZE), prompt_among(PROMPTS, prompt)).detach()
        cosines = logits[:, 0] / self.clip.model.logit_scale.exp().detach()
        first = logits.argmax(1) == 0
        return {"r_precision": first.float().mean().item(), "clip_score": cosines.mean().item()}


class ToyboxJudge(CLIPJudge):
    """PSNR, silhouette IoU and azimuths against the true object, and R-precision by the toybox's CLIP.

    A prompt that is not of the toybox has no truth, and its CLIP can't judge it: nothing is measured.
    """

    def measure(self, module: Distillation, cameras: Cameras, views: Views, render: Render) -> dict[str, float]:
        thing = parse(module.prompt)
        if thing is None:
            _log.warning("%r is not of the toybox, so there is no truth to measure by.", module.prompt)
            truths = {"psnr": "picture", "iou": "silhouette", "azimuth": "front"}
            self.unmeasured |= {name: f"there is no true {what} to compare with" for name, what in truths.items()}
            return self.precision(module.prompt, render.image)
        background = (module.rendering.background,) * 3
        truth = world.render(thing, views, background)
        results = {
            "psnr": psnr(render.image.cpu(), truth.image).mean().item(),
            "iou": silhouette_iou(render.alpha.cpu(), truth.alpha).mean().item(),
        }
        if thing.has_front:
            around = module.show(cameras.ring(_AZIMUTHS).to(module.device)).image.cpu()
            candidates = world.render(thing, cameras.ring(_CANDIDATES), background).image
            results["azimuth"] = azimuths_right(around, candidates).mean().item()
        return results | self.precision(thing.prompt, render.image)


def resized(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """Square pictures of another size."""
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def silhouette_iou(alpha: Float[Tensor, "B 1 H W"], truth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Intersection over union of two silhouettes, alpha above one half; 1 when both are empty."""
    a, b = (alpha > 0.5).flatten(1), (truth > 0.5).flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def azimuths_right(around: Float[Tensor, "N 3 H W"], candidates: Float[Tensor, "M 3 H W"]) -> Float[Tensor, " N"]:
    """For each of N azimuths around the object, 1 where the nearest of M true ones is within 45 degrees, else 0."""
    errors = torch.cdist(around.flatten(1), candidates.flatten(1))
    best = errors.argmin(1) * (360 / len(candidates))
    expected = torch.arange(len(around)) * (360 / len(around))
    difference = (best - expected + 180) % 360 - 180
    return (difference.abs() <= _WITHIN_DEG + 1e-3).float()
