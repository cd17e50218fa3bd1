"""What runs may be given of the toybox, prompts, pictures or spoilt models of things, and what they make of it."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from asdkit.core.atomic import atomic
from asdkit.core.bounds import Within, checked
from asdkit.core.parts import require
from asdkit.core.randomness import generator_for
from asdkit.data import Cameras, Canvas, Number, Prompts
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_grid
from asdkit.formats.splat_files import write_splats
from asdkit.generators.base import Generator, Render
from asdkit.generators.gaussian_settings import Initial
from asdkit.generators.gaussians import Gaussians, object_of
from asdkit.rendering.cameras import Views, joined, ring
from asdkit.run.judge import Judge
from asdkit.toybox import world
from asdkit.toybox.captions import parse, thing_of
from asdkit.toybox.measures import psnr
from asdkit.toybox.things import things
from asdkit.toybox.truths import Truths, truths

_EDGE = 2  # pixels
_AROUND, _FITTED, _BLUR = 12, 300, 1.7  # views at each height, steps of fitting, and how much wider Gaussians become
_BATCHES, _SETTLED = 24, 10**9  # of a run's cameras for a ceiling, and a step at which no ramp moves any more
_AWAY_DEG, _SHOWN = 45.0, 4
Picture = Float[Tensor, "1 3 H W"]
Azimuth = Annotated[float, Within(-360, 360)]


def seen(prompt: str, azimuth_deg: float, size: int = world.SIZE) -> Render:
    """A thing from this azimuth, 20 degrees above."""
    return world.render(thing_of(prompt), camera(azimuth_deg, size))


def camera(azimuth_deg: float, size: int = world.SIZE) -> Views:
    """At this azimuth, 20 degrees above."""
    return ring(1, 20.0, size=size, offset_deg=azimuth_deg)


@checked
def ToyboxCanvas(thing: str = "a yellow duck", azimuth_deg: Azimuth = 0.0) -> Canvas:
    """A canvas whose source image is a true picture of a thing of the toybox.

    Args:
        thing: the thing in the picture, in words.
        azimuth_deg: the azimuth in degrees from which it is seen.
    """
    canvas = Canvas(size=world.SIZE)
    canvas.source = seen(thing, azimuth_deg).image
    return canvas


class ToyboxPrompts(Prompts):
    """The prompts of things that the toybox's prior has seen, or of the things that were held out.

    Args:
        per_step: the number of samples in a step.
        two_colours: whether to include things of two colours and stacks.
        held_out: whether to take the compositions that training has never seen, instead of the others.
        textured: whether to include things of a material.
        kinds: the kinds of things, such as duck; all when left out.

    Raises:
        UsageError: the toybox has no such kind.
    """

    def __init__(
        self,
        per_step: Number = 8,
        two_colours: bool = False,
        held_out: bool = False,
        textured: bool = False,
        kinds: Sequence[str] | None = None,
    ) -> None:
        drawn = [thing for thing in things(held_out) if textured or not thing.material]
        for kind in kinds or ():
            known = sorted({thing.kind for thing in drawn})
            require(kind in known, f"The toybox has no {kind!r}; kinds are one of {', '.join(known)}.")
        drawn = [thing for thing in drawn if kinds is None or thing.kind in kinds]
        super().__init__([thing.prompt for thing in drawn if two_colours or thing.second is None], per_step)


def cutout(prompt: str, azimuth_deg: float, file: Path) -> None:
    """Write a picture of the thing from its azimuth whose background is transparent."""
    truth = seen(prompt, azimuth_deg)
    colours = (truth.image - (1 - truth.alpha) * world.BACKGROUND[0]) / truth.alpha.clamp(min=1e-6)
    values = torch.cat([colours.clamp(0, 1), truth.alpha], dim=1)[0].permute(1, 2, 0)
    with atomic(file) as temporary:
        Image.fromarray((values * 255).round().byte().numpy()).save(temporary, format="PNG")


def truth(prompt: str, azimuth_deg: float, file: Path) -> None:
    """Write four true pictures of the thing, of the view that the prompt names if any, side by side."""
    save_grid(cast(Truths, truths(prompt, _SHOWN)).pictures(), file, _SHOWN)


def spoilt(prompt: str, azimuth_deg: float, file: Path) -> None:
    """Write Gaussians that show the thing blurred and in wrong colours: what was fitted to true views, spoilt."""
    views = joined([ring(_AROUND, degrees, size=world.SIZE, offset_deg=degrees) for degrees in (-5.0, 25.0, 55.0)])
    generator = Gaussians(initial=Initial(opacity=0.3))
    _fit(generator, prompt, views)
    splats = generator.splats()
    wide, paler = splats.log_scales + math.log(_BLUR), splats.sh[..., [1, 2, 0]] * 0.4 + splats.sh * 0.6
    write_splats(file, splats._replace(log_scales=wide, sh=paler))


@checked
class ToyboxEditJudge(Judge):
    """Compares an edit of a true picture with the true picture of the target, from the same camera.

    `outside` is the mean absolute change of the pixels that lie more than two pixels outside of both silhouettes.
    `psnr_before` compares the source image with the true target, and `psnr_after` compares the edit with it.

    Args:
        azimuth_deg: the azimuth in degrees from which the source image was seen.
    """

    judges = Canvas

    def __init__(self, azimuth_deg: Azimuth = 0.0) -> None:
        super().__init__()
        self.azimuth_deg = azimuth_deg

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> dict[str, float]:
        source, image = data.source, render.image[:1].cpu()
        if source is None:
            raise ValueError("ToyboxEditJudge measures edits of a source image; there is none.")
        texts = module.source or "", module.prompt
        before, after = (seen(text, self.azimuth_deg, source.shape[-1]) for text in texts)
        outside = change_outside(image, source, torch.cat([before.alpha, after.alpha]))
        unedited, edited = (psnr(shown, after.image).item() for shown in (source, image))
        return {"outside": outside, "psnr_before": unedited, "psnr_after": edited}


@checked
class ToyboxAwayJudge(Judge):
    """Compares the sides that a given picture of the thing does not show with the truth.

    `psnr_away` is the mean PSNR over the novel views at least 45 degrees away from the picture's view, and `psnr_given`
    is the PSNR of the picture's view.

    Args:
        azimuth_deg: the azimuth in degrees from which the picture was seen.
    """

    def __init__(self, azimuth_deg: Azimuth = 0.0) -> None:
        super().__init__()
        self.azimuth_deg = azimuth_deg

    def measure(self, module: Distillation, data: Cameras, views: Views, render: Render) -> dict[str, float]:
        given = camera(self.azimuth_deg).to(views.c2w.device)
        outward, own = (nn.functional.normalize(looking.c2w[:, :3, 3], dim=1) for looking in (views, given))
        far = (outward @ own.T)[:, 0] <= math.cos(math.radians(_AWAY_DEG))
        decibels = psnr(render.image.cpu(), _truth(module, views))
        shown = module.show(given).image.cpu()
        away = {"psnr_away": decibels[far.cpu()].mean().item()} if far.any() else {}
        return away | {"psnr_given": psnr(shown, _truth(module, given)).mean().item()}


@checked
class ToyboxGainJudge(Judge):
    """Measures how much a run has improved a finished object.

    `psnr_before` is the given object's PSNR to the truth over the novel views, and `gain` what the run has added to it.

    Args:
        start: the file that the run was given.
    """

    def __init__(self, start: str = "") -> None:
        super().__init__()
        require(bool(start), "ToyboxGainJudge needs the file that the run was given, start.")
        self.start = start

    def measure(self, module: Distillation, data: Cameras, views: Views, render: Render) -> dict[str, float]:
        given, grey = object_of(Path(self.start)).to(views.c2w.device), module.rendering.background
        with torch.no_grad():
            before = given.render(views, views.c2w.new_full((3,), grey)).image
        decibels = [psnr(image.cpu(), _truth(module, views)).mean().item() for image in (before, render.image)]
        return {"psnr_before": decibels[0], "gain": decibels[1] - decibels[0]}


@checked
class ToyboxCeilingJudge(Judge):
    """Measures how near to the truth an object could come that is made as the run's is.

    `ceiling` is the PSNR over the novel views of a copy of the run's object, after 300 steps towards true pictures
    from the run's cameras. Things with a material have none.
    """

    def measure(self, module: Distillation, data: Cameras, views: Views, render: Render) -> dict[str, float]:
        if (thing := parse(module.prompt)) is None or thing.material:
            self.unmeasured["ceiling"] = f"{module.prompt} has no single true picture"
            return {}
        with torch.inference_mode(False), torch.enable_grad():
            generator = copy.deepcopy(module.generator).cpu()
            batches = [data.sample(generator_for(0, step, "ceiling"), _SETTLED) for step in range(_BATCHES)]
            _fit(generator, module.prompt, joined(batches))
        with torch.no_grad():
            image = generator.render(views.to("cpu"), torch.full((3,), module.rendering.background)).image
        return {"ceiling": psnr(image, _truth(module, views)).mean().item()}


def _fit(generator: Generator, prompt: str, views: Views) -> None:
    """Take 300 steps towards the true colours and opacities, four of these views at a time."""
    truth = torch.cat(world.render(thing_of(prompt), views, (0.0, 0.0, 0.0))[:2], dim=1)
    optimizer = torch.optim.Adam(generator.parameter_groups(), eps=1e-15)
    for step in range(_FITTED):
        some = torch.arange(step, step + 4) * 5 % len(views)
        optimizer.zero_grad()
        (torch.cat(generator.render(views[some], torch.zeros(3))[:2], dim=1) - truth[some]).square().mean().backward()
        optimizer.step()


def _truth(module: Distillation, views: Views) -> Float[Tensor, "B 3 H W"]:
    return world.render(thing_of(module.prompt), views, (module.rendering.background,) * 3).image


def change_outside(image: Picture, source: Picture, alphas: Float[Tensor, "N 1 H W"]) -> float:
    """Mean absolute change of the pixels that lie more than 2 pixels outside of every silhouette."""
    edited = nn.functional.max_pool2d((alphas > 0).float().amax(0), 2 * _EDGE + 1, 1, _EDGE) > 0
    return (image - source).abs()[(~edited).expand(image.shape)].mean().item()
