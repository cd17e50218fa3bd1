"""What the results of a study are compared with: true pictures of what a prompt, or the words of an edit, say."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.formats.splat_files import write_splats
from asdkit.generators.gaussian_settings import Initial
from asdkit.generators.gaussians import Gaussians
from asdkit.rendering.cameras import Views, joined, orbit, ring
from asdkit.toybox import image_judge, world

_AROUND, _FITTED, _BLUR = 12, 300, 1.7  # views at each height, steps of fitting, and how much wider Gaussians become


class Subject(NamedTuple):
    """What every method of a study makes.

    Attributes:
        prompt: of the runs; of an edit, its target.
        source: what the picture shows that is edited; empty where there is none.
        azimuth_deg: where that picture is seen from.
        situation: which of Figure 9's it is.
        picture: the file of what is shown above its results.
        start: the file that its runs are given.
    """

    prompt: str
    source: str = ""
    azimuth_deg: float = 0.0
    situation: str = ""
    picture: Path | None = None
    start: Path | None = None

    def __str__(self) -> str:
        return f"{self.situation}: {self.source} → {self.prompt}" if self.source else self.prompt


def views(subject: Subject) -> Float[Tensor, "8 3 64 64"]:
    """A ring of true views."""
    return world.render(world.parse(subject.prompt), ring(8, 20.0, size=64)).image


def pictures(subject: Subject) -> Float[Tensor, "4 3 64 64"]:
    """True pictures of the view that the prompt names."""
    bank = image_judge.truths(subject.prompt)
    return (bank.on_black + (1 - bank.alpha) * world.BACKGROUND[0])[:4]


def source(subject: Subject) -> Float[Tensor, "1 3 64 64"]:
    """The picture that is edited."""
    return seen(subject.source, subject.azimuth_deg).image


def target(subject: Subject) -> Float[Tensor, "1 3 64 64"]:
    """What it should become."""
    return seen(subject.prompt, subject.azimuth_deg).image


def cutout(subject: Subject, file: Path) -> Path:
    """A picture of the thing from its azimuth whose background is transparent, as a file."""
    file = file.with_suffix(".png")
    truth = seen(subject.prompt, subject.azimuth_deg)
    colours = (truth.image - (1 - truth.alpha) * world.BACKGROUND[0]) / truth.alpha.clamp(min=1e-6)
    values = torch.cat([colours.clamp(0, 1), truth.alpha], dim=1)[0].permute(1, 2, 0)
    with atomic(file) as temporary:
        Image.fromarray((values * 255).round().byte().numpy()).save(temporary, format="PNG")
    return file


def spoilt(subject: Subject, file: Path) -> Path:
    """Gaussians that show the thing blurred and in wrong colours, as a file: what was fitted to true views, spoilt."""
    file = file.with_suffix(".ply")
    if file.exists():
        return file
    views = joined([ring(_AROUND, degrees, size=64, offset_deg=degrees) for degrees in (-5.0, 25.0, 55.0)])
    truth = world.render(world.parse(subject.prompt), views, (1.0,) * 3).image
    generator = Gaussians(initial=Initial(opacity=0.3))
    optimizer = torch.optim.Adam(generator.parameter_groups(), eps=1e-15)
    for step in range(_FITTED):
        some = torch.arange(step, step + 4) * 5 % len(views)
        optimizer.zero_grad()
        (generator.render(views[some]).image - truth[some]).square().mean().backward()
        optimizer.step()
    splats = generator.splats()
    wide, paler = splats.log_scales + math.log(_BLUR), splats.sh[..., [1, 2, 0]] * 0.4 + splats.sh * 0.6
    write_splats(file, splats._replace(log_scales=wide, sh=paler))
    return file


def seen(prompt: str, azimuth_deg: float) -> world.Truth:
    """A thing from this azimuth, 20 degrees above."""
    return world.render(world.parse(prompt), camera(azimuth_deg))


def camera(azimuth_deg: float) -> Views:
    """At this azimuth, 20 degrees above."""
    azimuth, elevation = (torch.tensor([math.radians(degrees)]) for degrees in (azimuth_deg, 20.0))
    return orbit(azimuth, elevation, torch.tensor([3.4]), math.radians(40.0), 64, 64)
