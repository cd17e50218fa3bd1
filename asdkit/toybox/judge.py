"""Judging by the ground truth of the toybox: pictures, silhouettes, azimuths, and its small CLIP."""

import logging
import math

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.data import Cameras
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views
from asdkit.run.judge import Judge
from asdkit.scores.equations import sharpness
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import EMBEDDED, TinyCLIP, prompt_among
from asdkit.toybox.measures import (
    mottle,
    palette_distance,
    psnr,
    silhouette_iou,
    spectrum_distance,
    texture_power,
)
from asdkit.toybox.things import Thing

PROMPTS = 200
_AZIMUTHS, _CANDIDATES, _INSTANCES = 8, 24, 8
_WITHIN_DEG = 45.0
_log = logging.getLogger(__name__)


class CLIPJudge(Judge):
    """The base of the toybox's judges: R-precision by the toybox's small CLIP."""

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
        logits = self.clip.logits(images, prompt_among(PROMPTS, prompt)).detach()
        cosines = logits[:, 0] / self.clip.model.logit_scale.exp().detach()
        first = logits.argmax(1) == 0
        return {"r_precision": first.float().mean().item(), "clip_score": cosines.mean().item()}

    def nearness(
        self, thing: Thing, images: Float[Tensor, "B 3 H W"], truths: Float[Tensor, "M 3 H W"]
    ) -> dict[str, float]:
        """PSNR of pictures to as many truths; of a thing with a material that it can't be had, for it has many."""
        if thing.material:
            self.unmeasured["psnr"] = f"{thing.prompt} has many right answers, so there is no single true picture"
            return {}
        return {"psnr": psnr(images, truths).mean().item()}


def likeness(
    images: Float[Tensor, "B 3 H W"],
    alphas: Float[Tensor, "B 1 H W"],
    truths: Float[Tensor, "M 3 H W"],
    true_alphas: Float[Tensor, "M 1 H W"],
    plain: bool,
) -> dict[str, float]:
    """What can be compared with several true pictures, which need not show the same instance; alphas show the thing.

    Of a plain thing there is one truth for each image, from the same camera. Its surfaces are smooth, so that `mottle`
    has a meaning.
    """
    colours, true = (shown.movedim(1, 3)[a[:, 0] > 0.5] for shown, a in ((images, alphas), (truths, true_alphas)))
    results = {
        "sharpness": sharpness(images).mean().item(),
        "true_sharpness": sharpness(truths).mean().item(),
        "texture_power": texture_power(images).mean().item(),
        "true_texture_power": texture_power(truths).mean().item(),
        "spectrum": spectrum_distance(images, truths),
        "palette_distance": palette_distance(colours, true),
    }
    results |= {"mottle": mottle(images, truths, true_alphas)} if plain else {}
    return {name: value for name, value in results.items() if math.isfinite(value)}


class ToyboxJudge(CLIPJudge):
    """Judges an object: silhouette IoU, azimuths, R-precision by the toybox's CLIP, and likeness to true pictures
    (`likeness`).

    Only plain things have a PSNR to the true object. A material has many instances: eight of them stand for all in the
    comparisons, and azimuths are found by their mean. For a prompt outside the toybox nothing is measured, because
    there is no truth and the CLIP can't judge it.
    """

    def measure(self, module: Distillation, cameras: Cameras, views: Views, render: Render) -> dict[str, float]:
        thing = parse(module.prompt)
        if thing is None:
            _log.warning("%r is not of the toybox, so there is no truth to measure by.", module.prompt)
            truths = {"psnr": "picture", "iou": "silhouette", "azimuth": "front"}
            self.unmeasured |= {name: f"there is no true {what} to compare with" for name, what in truths.items()}
            return self.precision(module.prompt, render.image)
        background = (module.rendering.background,) * 3
        images, alpha = render.image.cpu(), render.alpha.cpu()
        truth, true_alpha = instances(thing, views, background)
        results = self.nearness(thing, images, truth)
        results["iou"] = silhouette_iou(alpha, true_alpha[: len(views)]).mean().item()
        results |= likeness(images, alpha, truth, true_alpha, plain=not thing.material)
        if thing.has_front:
            around = module.show(cameras.ring(_AZIMUTHS).to(module.device)).image.cpu()
            candidates, _ = instances(thing, cameras.ring(_CANDIDATES), background)
            mean = candidates.unflatten(0, (-1, _CANDIDATES)).mean(0)
            results["azimuth"] = azimuths_right(around, mean).mean().item()
        return results | self.precision(thing.prompt, render.image)


def instances(
    thing: Thing, views: Views, background: tuple[float, float, float]
) -> tuple[Float[Tensor, "M 3 H W"], Float[Tensor, "M 1 H W"]]:
    """True pictures from all views and their alphas, of one instance after another: eight of a material, else one."""
    numbers = range(_INSTANCES if thing.material else 1)
    shown = [world.render(thing, views, background, instance=number) for number in numbers]
    return torch.cat([truth.image for truth in shown]), torch.cat([truth.alpha for truth in shown])


def azimuths_right(around: Float[Tensor, "N 3 H W"], candidates: Float[Tensor, "M 3 H W"]) -> Float[Tensor, " N"]:
    """For each of N azimuths around the object, 1 where the nearest of M true ones is within 45 degrees, else 0."""
    errors = torch.cdist(around.flatten(1), candidates.flatten(1))
    best = errors.argmin(1) * (360 / len(candidates))
    expected = torch.arange(len(around)) * (360 / len(around))
    difference = (best - expected + 180) % 360 - 180
    return (difference.abs() <= _WITHIN_DEG + 1e-3).float()
