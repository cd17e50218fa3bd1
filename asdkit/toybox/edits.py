"""Edits of true pictures: a thing of the toybox is to become another one, whose picture is known."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.bounds import Within, checked
from asdkit.data import Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views, orbit
from asdkit.run.judge import Judge
from asdkit.toybox import world
from asdkit.toybox.captions import thing_of
from asdkit.toybox.measures import psnr

_EDGE = 2  # pixels
_ELEVATION_DEG, _DISTANCE, _FOV_DEG = 20.0, 3.4, 40.0
Azimuth = Annotated[float, Within(-360, 360)]


def seen(prompt: str, azimuth_deg: float, size: int = world.SIZE) -> world.Truth:
    """A thing from this azimuth, 20 degrees above."""
    return world.render(thing_of(prompt), camera(azimuth_deg, size))


def camera(azimuth_deg: float, size: int = world.SIZE) -> Views:
    """At this azimuth, 20 degrees above."""
    azimuth, elevation = (torch.tensor([math.radians(degrees)]) for degrees in (azimuth_deg, _ELEVATION_DEG))
    return orbit(azimuth, elevation, torch.tensor([_DISTANCE]), math.radians(_FOV_DEG), size, size)


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
        before, after = (
            seen(text, self.azimuth_deg, source.shape[-1]) for text in (module.source or "", module.prompt)
        )
        return {
            "outside": change_outside(image, source, torch.cat([before.alpha, after.alpha])),
            "psnr_before": psnr(source, after.image).item(),
            "psnr_after": psnr(image, after.image).item(),
        }


def change_outside(
    image: Float[Tensor, "1 3 H W"], source: Float[Tensor, "1 3 H W"], alphas: Float[Tensor, "N 1 H W"]
) -> float:
    """Mean absolute change of the pixels that lie more than 2 pixels outside of every silhouette."""
    edited = nn.functional.max_pool2d((alphas > 0).float().amax(0), 2 * _EDGE + 1, 1, _EDGE) > 0
    return (image - source).abs()[(~edited).expand(image.shape)].mean().item()
