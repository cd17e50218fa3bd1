"""Judging images by the toybox: the nearest of the true pictures of a prompt, saturation, sharpness and drift."""

from functools import cache
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.data import Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.scores.equations import hsv_saturation
from asdkit.toybox import world
from asdkit.toybox.captions import parse, view_words
from asdkit.toybox.clip import similarity
from asdkit.toybox.judge import CLIPJudge, resized
from asdkit.toybox.training.common import psnr

TRUTHS, DRIFT_FROM = 256, 0.8
_TRIES = 8192


class Truths(NamedTuple):
    """True pictures of a prompt on black [N,3,H,W] in [0,1], and their alphas [N,1,H,W]."""

    on_black: Float[Tensor, "N 3 H W"]
    alpha: Float[Tensor, "N 1 H W"]

    def nearest(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """For each image the truth that is nearest in mean square, on the plain background that fits it best."""
        clear = 1 - self.alpha
        nearest = []
        for image in images:
            behind = (clear * (image - self.on_black)).flatten(2).sum(2) / clear.square().flatten(2).sum(2)
            pictures = self.on_black + clear * behind.clamp(0, 1)[:, :, None, None]
            nearest.append(pictures[(pictures - image).square().flatten(1).mean(1).argmin()])
        return torch.stack(nearest)


@cache
def truths(prompt: str) -> Truths | None:
    """Pictures of a prompt from the training cameras, of the view it names if any; None if it isn't of the toybox."""
    thing = parse(prompt)
    if thing is None:
        return None
    words = prompt.lower().rstrip(".").rpartition(", ")[2] if "," in prompt else ""
    views = world.sample_views(generator_for(0, 0, "truths"), _TRIES, world.SIZE)
    places = zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    fits = [not words or words in (view_words(*place), view_words(*place, ways=4)) for place in places]
    truth = world.render(thing, views[torch.tensor(fits).nonzero()[:TRUTHS, 0]], (0.0, 0.0, 0.0))
    return Truths(truth.image, truth.alpha)


def sharpness(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Mean absolute difference of a pixel and the mean of its four neighbours, inside the border."""
    inner = images[..., 1:-1, 1:-1]
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return (inner - around / 4).abs().flatten(1).mean(1)


def figures(images: Float[Tensor, "B 3 H W"], prompt: str) -> dict[str, float]:
    """Saturation and sharpness; of a prompt of the toybox also PSNR to the nearest truths, and these truths' own."""
    images = resized(images.cpu(), world.SIZE)
    results = {"saturation": hsv_saturation(images).mean().item(), "sharpness": sharpness(images).mean().item()}
    bank = truths(prompt)
    if bank is not None:
        nearest = bank.nearest(images)
        results["psnr"] = psnr(images, nearest).mean().item()
        results["true_saturation"] = hsv_saturation(nearest).mean().item()
        results["true_sharpness"] = sharpness(nearest).mean().item()
    return results


class ToyboxImageJudge(CLIPJudge):
    """Images: the figures above, R-precision by the toybox's CLIP, and what still moves.

    `drift` is the mean absolute change of the images over the last fifth of the iterations. With a source image,
    `similarity` is the CLIP's cosine of the images and the prompt, `source_similarity` that of the source image and the
    prompt, and `change` the mean absolute difference of the images from the source image.
    """

    judges = Canvas

    def __init__(self) -> None:
        super().__init__()
        self._before: Float[Tensor, "B 3 H W"] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if isinstance(pl_module, Distillation) and trainer.global_step == round(DRIFT_FROM * trainer.max_steps):
            with torch.no_grad():
                self._before = pl_module.show(None).image.cpu()

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> dict[str, float]:
        images = render.image.cpu()
        thing = parse(module.prompt)
        results = figures(images, module.prompt) | self.precision(thing.prompt if thing else module.prompt, images)
        if self._before is not None:
            results["drift"] = (images - self._before).abs().mean().item()
        if data.source is not None:
            results["change"] = (images - data.source).abs().mean().item()
            if self.clip is not None:
                alike = [similarity(self.clip, resized(of, world.SIZE), module.prompt) for of in (images, data.source)]
                results["similarity"], results["source_similarity"] = (value.mean().item() for value in alike)
        return results
