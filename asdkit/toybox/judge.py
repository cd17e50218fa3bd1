"""Judging by the ground truth of the toybox: pictures, silhouettes, azimuths, movement, and its small CLIP."""

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count, Weight, checked
from asdkit.core.randomness import generator_for
from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.generators.networks import Network
from asdkit.rendering.cameras import Views
from asdkit.run.judge import Judge
from asdkit.scores.equations import hsv_saturation, sharpness
from asdkit.scores.fields import CFG, ddim
from asdkit.scores.prior import Prior
from asdkit.toybox import measures, world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import EMBEDDED, TinyCLIP, prompt_among, resized
from asdkit.toybox.materials import Colour
from asdkit.toybox.things import Thing
from asdkit.toybox.truths import true_pictures, truths

PROMPTS, DRIFT_FROM, SMALL = 200, 0.8, 64
NONE_KNOWN = "none of the prompts is of the toybox, whose truth is the only one that is known"
_AZIMUTHS, _CANDIDATES, _INSTANCES = 8, 24, 8
_WITHIN_DEG = 45.0
_log = logging.getLogger(__name__)
Pictures = Float[Tensor, "_ 3 H W"]
Alphas = Float[Tensor, "_ 1 H W"]
Figures = dict[str, float]


class CLIPJudge(Judge):
    """The base of the toybox's judges: R-precision and a distance from the truth, by the toybox's small CLIP."""

    @cached_property
    def clip(self) -> TinyCLIP:
        """The CLIP of the package."""
        return TinyCLIP(EMBEDDED)

    def precision(self, prompt: str, images: Pictures) -> Figures:
        """R-precision at 1 among 200 prompts and the mean cosine to the prompt; nothing of prompts of another world."""
        if parse(prompt) is None:
            self.unmeasured["r_precision"] = "the toybox's CLIP has only ever seen the toybox's own captions"
            return {}
        cosines = self.clip.cosines(images, prompt_among(PROMPTS, prompt))
        first = (cosines.argmax(1) == 0).float()
        return {"r_precision": first.mean().item(), "clip_score": cosines[:, 0].mean().item()}

    def distance(self, images: Pictures, truths: Pictures) -> Figures:
        """KID of several pictures to true ones, in the CLIP's features."""
        if len(images) < 2:
            return {}
        own, true = self.clip.features(images), self.clip.features(truths)
        self.errors = {"kid_to_truth": measures.kid_error(own, true)} if len(images) > 3 else {}  # it takes halves
        return {"kid_to_truth": measures.kid(own, true)}

    def nearness(self, thing: Thing, images: Pictures, truths: Pictures) -> Figures:
        """PSNR of pictures to as many truths, as they are and at 64 pixels; a material has many truths, and none."""
        if thing.material:
            self.unmeasured["psnr"] = f"{thing.prompt} has many right answers, so there is no single true picture"
            return {}
        small = measures.psnr(resized(images, SMALL), resized(truths, SMALL))
        return {"psnr": measures.psnr(images, truths).mean().item(), "psnr_64": small.mean().item()}


def likeness(
    images: Pictures, alphas: Alphas, truths: Pictures, true_alphas: Alphas, plain: bool, decoded: Pictures
) -> Figures:
    """What can be compared with several true pictures, which need not show the same instance; alphas show the thing.

    A plain thing has one truth for each image, from the same camera, and smooth surfaces, as `mottle` needs. `decoded`
    are the truths as the prior's autoencoder gives them back; `decoded_mottle` is theirs.
    """
    colours, true = (shown.movedim(1, 3)[a[:, 0] > 0.5] for shown, a in ((images, alphas), (truths, true_alphas)))
    of_each = {"saturation": hsv_saturation, "sharpness": sharpness, "texture_power": measures.texture_power}
    both = {"": images, "true_": truths}
    results = {f"{of}{name}": measure(both[of]).mean().item() for name, measure in of_each.items() for of in both}
    results |= {
        "decoded_sharpness": sharpness(decoded).mean().item(),
        "spectrum": measures.spectrum_distance(images, truths),
        "spectrum_decoded": measures.spectrum_distance(images, decoded),
        "palette_distance": measures.palette_distance(colours, true),
    }
    if plain:
        results["mottle"] = measures.mottle(images, truths, true_alphas)
        results["decoded_mottle"] = measures.mottle(decoded, truths, true_alphas)
    return {name: value for name, value in results.items() if math.isfinite(value)}


def through(prior: Prior, pictures: Float[Tensor, "M 3 N N"], size: int) -> Float[Tensor, "M 3 N N"]:
    """Pictures as a prior's autoencoder gives them back, which sees them at `size` pixels, one by one."""
    device, seen = prior.schedule.alphas.device, resized(pictures, size)
    decoded = torch.cat([prior.decode(prior.encode(one.to(device))).float().cpu() for one in seen.split(1)])
    return resized(decoded, pictures.shape[-1])


class ToyboxJudge(CLIPJudge):
    """Judges an object: silhouette IoU, azimuths, R-precision by the toybox's CLIP, and likeness to true pictures.
    `kid_to_truth` is the kernel distance, in the CLIP's features, to true pictures from the same cameras; because they
    are the same, it can be a little below 0.

    Only plain things have a PSNR to the true object. A material has many instances: eight of them stand for all in the
    comparisons, and azimuths are found by their mean. For a prompt outside the toybox nothing is measured, because
    there is no truth and the CLIP can't judge it.
    """

    def measure(self, module: Distillation, cameras: Cameras, views: Views, render: Render) -> Figures:
        if (thing := parse(module.prompt)) is None:
            _log.warning("%r is not of the toybox, so there is no truth to measure by.", module.prompt)
            truths = {"psnr": "picture", "iou": "silhouette", "azimuth": "front"}
            self.unmeasured |= {name: f"there is no true {what} to compare with" for name, what in truths.items()}
            return self.precision(module.prompt, render.image)
        background = (module.rendering.background,) * 3
        images, alpha = render.image.cpu(), render.alpha.cpu()
        truth, true_alpha = instances(thing, views, background)
        results = self.nearness(thing, images, truth)
        results["iou"] = measures.silhouette_iou(alpha, true_alpha[: len(views)]).mean().item()
        decoded = through(module.prior, truth, truth.shape[-1])
        results |= likeness(images, alpha, truth, true_alpha, not thing.material, decoded)
        if thing.has_front:
            around = module.show(cameras.ring(_AZIMUTHS).to(module.device)).image.cpu()
            candidates, _ = instances(thing, cameras.ring(_CANDIDATES), background)
            mean = candidates.unflatten(0, (-1, _CANDIDATES)).mean(0)
            results["azimuth"] = azimuths_right(around, mean).mean().item()
        return results | self.precision(thing.prompt, render.image) | self.distance(images, truth)


def some_of(texts: Sequence[str], count: int) -> list[str]:
    """At most so many of those texts that are of the toybox, picked evenly."""
    known = [text for text in texts if parse(text)]
    return [known[i] for i in torch.linspace(0, len(known) - 1, min(count, len(known))).long()]


def instances(thing: Thing, views: Views, background: Colour) -> tuple[Pictures, Alphas]:
    """True pictures from all views and their alphas, of one instance after another: eight of a material, else one."""
    numbers = range(_INSTANCES if thing.material else 1)
    shown = [world.render(thing, views, background, instance=number) for number in numbers]
    return torch.cat([truth.image for truth in shown]), torch.cat([truth.alpha for truth in shown])


def azimuths_right(around: Float[Tensor, "N 3 H W"], candidates: Float[Tensor, "M 3 H W"]) -> Float[Tensor, " N"]:
    """For each of N azimuths around the object, 1 where the nearest of M true ones is within 45 degrees, else 0."""
    best = torch.cdist(around.flatten(1), candidates.flatten(1)).argmin(1) * (360 / len(candidates))
    expected = torch.arange(len(around)) * (360 / len(around))
    return (((best - expected + 180) % 360 - 180).abs() <= _WITHIN_DEG + 1e-3).float()


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
    _before: Float[Tensor, "B 3 H W"] | None = None  # the images of which `drift` is the change

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if isinstance(pl_module, Distillation) and trainer.global_step == round(DRIFT_FROM * trainer.max_steps):
            with torch.no_grad():
                self._before = pl_module.show(None).image.cpu()

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> Figures:
        images = render.image.cpu()
        thing, results = parse(module.prompt), self.figures(images, module.prompt, module.prior)
        results |= self.precision(thing.prompt if thing else module.prompt, images)
        if bank := truths(module.prompt):
            results |= self.distance(images, bank.pictures())
        if self._before is not None:
            results["drift"] = (images - self._before).abs().mean().item()
        if data.source is not None:
            results["change"] = (images - data.source).abs().mean().item()
            if thing is not None:
                alike = [self.clip.cosines(of, [module.prompt]) for of in (images, data.source)]
                results["similarity"], results["source_similarity"] = (value.mean().item() for value in alike)
        return results

    def figures(self, images: Float[Tensor, "B 3 N N"], prompt: str, prior: Prior) -> Figures:
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


@checked
class ToyboxSamplesJudge(CLIPJudge):
    """Judges a Network by samples, from the same noise, for some of the data's prompts that are of the toybox.

    `r_precision` is the R-precision at 1 among 200 prompts by the toybox's CLIP, and `clip_score` its mean cosine.
    `diversity` is the root mean square difference of two samples of a prompt; a low one shows a collapse. A figure with
    `teacher_` before it belongs to the prior's samples by DDIM. `kid` is the squared distance between the CLIP features
    of the samples and of the teacher's (2 groups of pictures of any prompts, unbiased, cubic kernel). `teacher_kid` is
    the distance between the teacher's pictures and true ones.

    Args:
        prompts: the number of prompts, picked evenly from the whole list.
        samples: the number of samples of each prompt.
        steps: the number of steps of the teacher's DDIM.
        scale: the teacher's CFG scale.
    """

    judges = Canvas

    def __init__(self, prompts: Count = 50, samples: Count = 4, steps: Count = 50, scale: Weight = 3.0) -> None:
        super().__init__()
        self.prompts, self.samples, self.steps, self.scale = prompts, samples, steps, scale

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> Figures:
        generator, prior = module.generator, module.prior
        if not isinstance(generator, Network):
            raise ValueError("ToyboxSamplesJudge judges a Network; take another judge.")
        texts = data.prompts.texts if data.prompts else (module.prompt,)
        if not (chosen := some_of(texts, self.prompts)):
            self.unmeasured["kid"] = NONE_KNOWN
            return {}
        shape = (self.samples, *prior.encode(render.image[:1]).shape[1:])
        pictures: dict[str, list[Tensor]] = {"": [], "teacher_": [], "true_": []}
        for number, text in enumerate(chosen):
            random = generator_for(0, number, "samples judge")
            noise = torch.randn(shape, generator=random).to(module.device)
            taught = ddim(prior, CFG(text, self.scale), noise, self.steps)
            pictures[""].append(prior.decode(generator.samples(noise, [text] * self.samples)))
            pictures["teacher_"].append(prior.decode(taught))
            pictures["true_"].append(true_pictures(text, self.samples, random))
        results: Figures = {}
        for name in ("", "teacher_"):
            ranked = [self.precision(text, images) for text, images in zip(chosen, pictures[name], strict=True)]
            results |= {f"{name}{key}": sum(each[key] for each in ranked) / len(ranked) for key in ranked[0]}
            results[f"{name}diversity"] = sum(measures.diversity(images) for images in pictures[name]) / len(chosen)
        own, teacher, true = (self.clip.features(torch.cat(images)) for images in pictures.values())
        results |= {"kid": measures.kid(own, teacher), "teacher_kid": measures.kid(teacher, true)}
        self.errors = {"kid": measures.kid_error(own, teacher), "teacher_kid": measures.kid_error(teacher, true)}
        return results
