"""Judging a generator for many prompts beside the prior that taught it, and that beside the truth."""

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count, Weight, checked
from asdkit.core.parts import require
from asdkit.core.randomness import generator_for
from asdkit.data import Cameras, Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.generators.networks import Network
from asdkit.rendering.cameras import Views
from asdkit.scores.ddim import ddim
from asdkit.scores.fields import CFG
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import EMBEDDED, TinyCLIP
from asdkit.toybox.judge import CLIPJudge, resized


@checked
class ToyboxSamplesJudge(CLIPJudge):
    """Samples of a Network for some of the data's prompts, which must be of the toybox; the same noise for all.

    `r_precision` is at 1 among 200 prompts by the toybox's CLIP, `clip_score` its mean cosine. `diversity` is the root
    mean square difference of two samples of a prompt, which tells of a collapse. With `teacher_` before it, a figure is
    that of the prior by DDIM. `kid` is the squared distance of the samples' features in the CLIP to the teacher's (2
    groups of pictures of any prompts, unbiased, cubic kernel); `teacher_kid` that of the teacher's to true pictures.

    Args:
        prompts: how many, from all over their list.
        samples: of each prompt.
        steps: of the teacher's DDIM.
        scale: its CFG scale.
    """

    judges = Canvas

    def __init__(self, prompts: Count = 50, samples: Count = 4, steps: Count = 50, scale: Weight = 3.0) -> None:
        super().__init__()
        self.prompts, self.samples, self.steps, self.scale = prompts, samples, steps, scale

    def measure(
        self, module: Distillation, data: Cameras | Canvas, views: Views | None, render: Render
    ) -> dict[str, float]:
        generator, prior = module.generator, module.prior
        require(isinstance(generator, Network), "ToyboxSamplesJudge judges a Network; take another judge.")
        assert isinstance(generator, Network)
        texts = data.prompts.texts if data.prompts else (module.prompt,)
        chosen = [texts[i] for i in torch.linspace(0, len(texts) - 1, min(self.prompts, len(texts))).long()]
        shape = (self.samples, *prior.encode(render.image[:1]).shape[1:])
        pictures: dict[str, list[Tensor]] = {"": [], "teacher_": [], "true_": []}
        for number, text in enumerate(chosen):
            random = generator_for(0, number, "samples judge")
            noise = torch.randn(shape, generator=random).to(module.device)
            taught = ddim(prior, CFG(text, self.scale), noise, self.steps)
            pictures[""].append(prior.decode(generator.samples(noise, [text] * self.samples)))
            pictures["teacher_"].append(prior.decode(taught))
            pictures["true_"].append(true_pictures(text, self.samples, random))
        results: dict[str, float] = {}
        for name in ("", "teacher_"):
            ranked = [self.precision(text, images) for text, images in zip(chosen, pictures[name], strict=True)]
            results |= {f"{name}{key}": sum(each[key] for each in ranked) / len(ranked) for key in ranked[0]}
            results[f"{name}diversity"] = sum(diversity(images) for images in pictures[name]) / len(chosen)
        if self.clip is not None or (EMBEDDED / "config.json").is_file():
            clip = self.clip = self.clip or TinyCLIP(EMBEDDED)
            own, teacher, true = (features(clip, torch.cat(images)) for images in pictures.values())
            results |= {"kid": kid(own, teacher), "teacher_kid": kid(teacher, true)}
        return results


def true_pictures(prompt: str, count: int, generator: torch.Generator) -> Float[Tensor, "count 3 H W"]:
    """Pictures of a prompt as the prior was trained on: from random cameras, before random backgrounds."""
    thing = parse(prompt)
    if thing is None:
        raise ValueError(f"ToyboxSamplesJudge knows the truth of the toybox's prompts alone; {prompt!r} is none.")
    views = world.sample_views(generator, count, world.SIZE)
    backgrounds = [world.sample_background(generator) for _ in range(count)]
    return torch.cat([world.render(thing, views[i : i + 1], colour).image for i, colour in enumerate(backgrounds)])


def diversity(images: Float[Tensor, "N C H W"]) -> float:
    """The mean over pairs of the root mean square difference; 0 for a single image."""
    flat = images.flatten(1).double()
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item() if len(images) > 1 else 0.0


@torch.no_grad()
def features(clip: TinyCLIP, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """What the CLIP sees in pictures in [0,1], before it is scaled to length 1."""
    seen = clip.model.vision_model(pixel_values=resized(images.cpu(), world.SIZE) * 2 - 1).pooler_output
    projected: Tensor = clip.model.visual_projection(seen)
    return projected


def kid(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"]) -> float:
    """Kernel inception distance (1801.01401): the unbiased squared MMD by the kernel (x.y / D + 1)^3; 0 is the least
    that is expected, and one image has no distance, which is NaN.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x) for x in (first, second))]
    return (within[0] + within[1] - 2 * kernel(first, second).mean()).item()
