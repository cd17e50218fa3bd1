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
from asdkit.toybox import captions, measures, world
from asdkit.toybox.clip import EMBEDDED, TinyCLIP, prompt_among
from asdkit.toybox.measures import psnr

PROMPTS = 200
_AZIMUTHS, _CANDIDATES, _INSTANCES = 8, 24, 16
_WITHIN_DEG = 45.0
_log = logging.getLogger(__name__)


class CLIPJudge(Judge):
    """What the judges of the toybox share: R-precision and distances of sets of pictures by its small CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: TinyCLIP | None = None

    def precision(self, prompt: str, images: Float[Tensor, "B 3 H W"]) -> dict[str, float]:
        """R-precision at 1 among 200 prompts, where the package has its CLIP."""
        if not self._has_clip():
            return {}
        best = self.clip.logits(resized(images.cpu(), world.SIZE), prompt_among(PROMPTS, prompt)).argmax(1)
        return {"r_precision": (best == 0).float().mean().item()}

    def kid(self, images: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "N 3 H W"]) -> dict[str, float]:
        """Kernel distance of pictures to true ones in the CLIP's features, and its standard error."""
        if len(images) < 3 or not self._has_clip():
            return {}
        features = (self.clip.embed(resized(pictures.cpu(), world.SIZE)) for pictures in (images, truth))
        return dict(zip(("kid", "kid_error"), measures.kid(*features), strict=True))

    def _has_clip(self) -> bool:
        if self.clip is None and (EMBEDDED / "config.json").is_file():
            self.clip = TinyCLIP(EMBEDDED)
        return self.clip is not None


class ToyboxJudge(CLIPJudge):
    """Silhouette IoU against the true object, and R-precision by the toybox's CLIP.

    A plain thing has one truth: PSNR and azimuths are measured against it. A thing of a material has many: the set of
    views is compared with the same views of 16 instances. A prompt that is not of the toybox has no truth: its
    R-precision alone is measured.
    """

    def measure(self, module: Distillation, cameras: Cameras, views: Views, render: Render) -> dict[str, float]:
        thing = captions.parse(module.prompt)
        if thing is None:
            _log.warning(
                "%r is not of the toybox, so there is no truth to measure PSNR, IoU and azimuths by.", module.prompt
            )
            return self.precision(module.prompt, render.image)
        background = (module.rendering.background,) * 3
        truth = world.render(thing, views, background)
        results = {"iou": silhouette_iou(render.alpha.cpu(), truth.alpha).mean().item()}
        if thing.material:
            instances = [world.render(thing, views, background, variation=k).image for k in range(_INSTANCES)]
            images, truths = render.image.cpu(), torch.cat(instances)
            results |= measures.against(images, truths) | self.kid(images, truths)
            return results | self.precision(thing.prompt, images)
        results["psnr"] = psnr(render.image.cpu(), truth.image).mean().item()
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
