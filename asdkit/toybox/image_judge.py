"""Judging images by the toybox: the nearest of the true pictures of a prompt, saturation, sharpness and drift."""

from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.data import Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.scores.equations import hsv_saturation, sharpness
from asdkit.scores.prior import Prior
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import resized, similarity
from asdkit.toybox.judge import CLIPJudge, likeness, through
from asdkit.toybox.truths import truths

DRIFT_FROM = 0.8
_INSTANCES = 8


class ToyboxImageJudge(CLIPJudge):
    """Judges images: saturation, likeness to the nearest true pictures, R-precision by the toybox's CLIP, and drift.

    For a plain thing there is PSNR to the nearest true picture. A thing of a material has many right answers and no
    PSNR; its other figures compare with the eight nearest pictures, each of another instance. Sharpness and spectrum
    are also compared with these pictures as the prior's autoencoder gives them back. `kid_to_truth` is the kernel
    distance of several images, in the CLIP's features, to 256 true pictures of the prompt (unbiased). `drift` is the
    mean absolute change of the images over the last fifth of the iterations. With a source image, `similarity` and
    `source_similarity` are the CLIP's cosines of the prompt with the images and with the source image, and `change` is
    the mean absolute difference between images and source image.
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
        results = self.figures(images, module.prompt, module.prior)
        results |= self.precision(thing.prompt if thing else module.prompt, images)
        if bank := truths(module.prompt):
            results |= self.distance(images, bank.pictures())
        if self._before is not None:
            results["drift"] = (images - self._before).abs().mean().item()
        if data.source is not None:
            results["change"] = (images - data.source).abs().mean().item()
            if self.clip is not None:
                alike = [similarity(self.clip, of, module.prompt) for of in (images, data.source)]
                results["similarity"], results["source_similarity"] = (value.mean().item() for value in alike)
        return results

    def figures(self, images: Float[Tensor, "B 3 N N"], prompt: str, prior: Prior) -> dict[str, float]:
        """Saturation and sharpness; of a prompt of the toybox also what the nearest truths say, and their own."""
        size, images = images.shape[-1], resized(images, world.SIZE)
        results = {"saturation": hsv_saturation(images).mean().item(), "sharpness": sharpness(images).mean().item()}
        thing, bank = parse(prompt), truths(prompt)
        if thing is None or bank is None:
            return results
        count = _INSTANCES if thing.material else 1
        nearest, alphas = bank.nearest(images, count)
        results |= self.nearness(thing, images, nearest)
        shown, decoded = images.repeat_interleave(count, 0), through(prior, nearest, size)
        return results | likeness(shown, alphas, nearest, alphas, not thing.material, decoded)
