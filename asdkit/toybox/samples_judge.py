"""Judging a generator for many prompts beside the prior that taught it, and that beside the truth."""

import torch
from torch import Tensor

from asdkit.core.bounds import Count, Weight, checked
from asdkit.core.randomness import generator_for
from asdkit.data import Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.generators.networks import Network
from asdkit.scores.ddim import ddim
from asdkit.scores.fields import CFG
from asdkit.toybox.clip import EMBEDDED, TinyCLIP
from asdkit.toybox.judge import CLIPJudge
from asdkit.toybox.measures import diversity, kid, kid_error
from asdkit.toybox.truths import true_pictures


@checked
class ToyboxSamplesJudge(CLIPJudge):
    """Judges a Network by its samples for some of the data's prompts, which must be of the toybox, all from the same
    noise.

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

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> dict[str, float]:
        generator, prior = module.generator, module.prior
        if not isinstance(generator, Network):
            raise ValueError("ToyboxSamplesJudge judges a Network; take another judge.")
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
            own, teacher, true = (clip.features(torch.cat(images)) for images in pictures.values())
            results |= {"kid": kid(own, teacher), "teacher_kid": kid(teacher, true)}
            self.errors = {"kid": kid_error(own, teacher), "teacher_kid": kid_error(teacher, true)}
        return results
