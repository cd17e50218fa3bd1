"""What the results of a study are compared with: true pictures of what a prompt, or the words of an edit, say."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.rendering.cameras import orbit, ring
from asdkit.toybox import image_judge, world


class Subject(NamedTuple):
    """What every method of a study makes.

    Attributes:
        prompt: of the runs; of an edit, its target.
        source: what the picture shows that is edited; empty where there is none.
        azimuth_deg: where that picture is seen from.
        situation: which of Figure 9's it is.
        picture: the file of what is shown above its results.
    """

    prompt: str
    source: str = ""
    azimuth_deg: float = 0.0
    situation: str = ""
    picture: Path | None = None

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


def seen(prompt: str, azimuth_deg: float) -> world.Truth:
    """A thing from this azimuth, 20 degrees above."""
    azimuth, elevation = (torch.tensor([math.radians(degrees)]) for degrees in (azimuth_deg, 20.0))
    return world.render(world.parse(prompt), orbit(azimuth, elevation, torch.tensor([3.4]), math.radians(40.0), 64, 64))
