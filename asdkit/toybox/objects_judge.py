"""Judging a generator that makes objects of many prompts, by the true objects of the toybox."""

import time
from statistics import fmean

from asdkit.core.bounds import Count, checked
from asdkit.data import Cameras, Prompts
from asdkit.distillation import Distillation
from asdkit.generators.amortized import Amortized3D
from asdkit.generators.base import Generator, Render
from asdkit.rendering.cameras import Views
from asdkit.toybox import measures
from asdkit.toybox.captions import thing_of
from asdkit.toybox.judge import NONE_KNOWN, CLIPJudge, Figures, instances, some_of


@checked
class ToyboxObjectsJudge(CLIPJudge):
    """Judges the objects that an Amortized3D makes of those of the data's prompts that are of the toybox.

    `objects_iou`, `objects_psnr` (plain things alone), `objects_r_precision` and `objects_clip_score` are means over
    the objects, each seen by the novel cameras; R-precision is among 200 prompts, by the toybox's CLIP. The same
    figures with `held_out_` before them belong to further prompts. `object_ms` is how many milliseconds it takes to
    make an object's field, without its picture.

    Args:
        prompts: the largest number of prompts, picked evenly from the whole list.
        held_out: further prompts, which the run does not learn.
    """

    def __init__(self, prompts: Count = 100, held_out: Prompts | None = None) -> None:
        super().__init__()
        self.prompts, self.held_out = prompts, held_out

    def measure(self, module: Distillation, data: Cameras, views: Views, render: Render) -> Figures:
        generator, texts = module.generator, data.prompts.texts if data.prompts else (module.prompt,)
        if not isinstance(generator, Amortized3D):
            raise ValueError("ToyboxObjectsJudge judges an Amortized3D; take another judge.")
        held_out = self.held_out.texts if self.held_out else ()
        lists = {"objects": some_of(texts, self.prompts), "held_out_objects": some_of(held_out, len(held_out))}
        if not lists["objects"]:
            self.unmeasured["objects_iou"] = NONE_KNOWN
        figures: dict[str, list[float]] = {}
        for name, prompt in ((name, prompt) for name, prompts in lists.items() for prompt in prompts):
            module.prior.embed([prompt])  # whose text encoders take their time only once
            began = time.perf_counter()
            field = generator.made(prompt)
            figures.setdefault("object_ms", []).append(1000 * (time.perf_counter() - began))
            for key, value in self._of(field, prompt, views, module.rendering.background).items():
                figures.setdefault(f"{name}_{key}", []).append(value)
        return {name: fmean(values) for name, values in figures.items()}

    def _of(self, field: Generator, prompt: str, views: Views, grey: float) -> Figures:
        shown, thing = field.render(views, views.c2w.new_full((3,), grey)), thing_of(prompt)
        truth, alpha = instances(thing, views.to("cpu"), (grey,) * 3)
        images = shown.image.cpu()
        iou = measures.silhouette_iou(shown.alpha.cpu(), alpha[: len(views)]).mean().item()
        near = {} if thing.material else {"psnr": measures.psnr(images, truth).mean().item()}
        return {"iou": iou} | near | self.precision(prompt, images)
