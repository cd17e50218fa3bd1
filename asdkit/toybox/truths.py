"""True pictures of prompts: a bank for finding the nearest, and what the prior was trained on."""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.rendering.cameras import Views
from asdkit.toybox import world
from asdkit.toybox.captions import parse, thing_of, view_words
from asdkit.toybox.things import Thing

TRUTHS = 256
_TRIES, _SUPERSAMPLE = 8192, 2  # as the pictures that the prior was trained on


class Truths(NamedTuple):
    """True pictures of a prompt on black [N,3,H,W] in [0,1], and their alphas [N,1,H,W]."""

    on_black: Float[Tensor, "N 3 H W"]
    alpha: Float[Tensor, "N 1 H W"]

    def nearest(
        self, images: Float[Tensor, "B 3 H W"], count: int = 1
    ) -> tuple[Float[Tensor, "K 3 H W"], Float[Tensor, "K 1 H W"]]:
        """For each image the `count` truths that are nearest in mean square, the best first, and their alphas.

        Each is on the plain background that fits the image best.
        """
        clear, nearest, alphas = 1 - self.alpha, [], []
        for image in images:
            behind = (clear * (image - self.on_black)).flatten(2).sum(2) / clear.square().flatten(2).sum(2)
            pictures = self.on_black + clear * behind.clamp(0, 1)[:, :, None, None]
            best = (pictures - image).square().flatten(1).mean(1).topk(count, largest=False).indices
            nearest.append(pictures[best])
            alphas.append(self.alpha[best])
        return torch.cat(nearest), torch.cat(alphas)


@lru_cache(maxsize=8)
def truths(prompt: str) -> Truths | None:
    """Pictures of a prompt from the training cameras, of the view it names if any; None if it isn't of the toybox.

    Of a thing with a material each picture shows another instance.
    """
    thing = parse(prompt)
    if thing is None:
        return None
    words = prompt.lower().rstrip(".").rpartition(", ")[2] if "," in prompt else ""
    views = world.sample_views(generator_for(0, 0, "truths"), _TRIES, world.SIZE)
    places = zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    fits = [not words or words in (view_words(*place), view_words(*place, ways=4)) for place in places]
    chosen = views[torch.tensor(fits).nonzero()[:TRUTHS, 0]]
    shown = [
        world.render(thing, chosen[i : i + 1], (0.0, 0.0, 0.0), _SUPERSAMPLE, instance=i) for i in range(len(chosen))
    ]
    return Truths(torch.cat([truth.image for truth in shown]), torch.cat([truth.alpha for truth in shown]))


def true_pictures(prompt: str, count: int, generator: torch.Generator) -> Float[Tensor, "count 3 H W"]:
    """Pictures of a prompt as the prior was trained on: of random instances and backgrounds, from random cameras."""
    return pictured([thing_of(prompt)] * count, world.sample_views(generator, count, world.SIZE), generator)


def pictured(things: list[Thing], views: Views, generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """A picture of each thing from its own camera, of a random instance before a random background."""
    pictures = []
    for i, thing in enumerate(things):
        background = world.sample_background(generator)
        instance = int(torch.randint(1 << 40, (), generator=generator))
        pictures.append(world.render(thing, views[i : i + 1], background, _SUPERSAMPLE, instance).image)
    return torch.cat(pictures)
