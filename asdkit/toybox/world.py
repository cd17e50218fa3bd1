"""The toybox: a procedural world of captioned 3D objects with ground truth from any camera.

`things` says what there is, `captions` how it is spoken of. Here are exact pictures (`render`), and the draws of
things, cameras and backgrounds that the embedded prior was trained on, which never saw a held-out composition.
"""

import math
from collections import defaultdict
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views, orbit
from asdkit.toybox.captions import choice, uniform, usual_other
from asdkit.toybox.materials import MATERIALS, Colour, shade
from asdkit.toybox.things import COLOURS, KINDS, Thing, is_held_out, primitives, things

SIZE = 128  # pixels of the pictures that the prior was trained on
Background = Colour | Float[Tensor, "B 3"]  # one for all cameras, or one for each
BACKGROUND: Colour = (0.85, 0.85, 0.85)
_STACKS, _TEXTURED, _TWO_COLOURS, _FRONTED = 0.07, 0.45, 0.4, 1.5  # shares of the draws, and a weight


@cache
def _pools(held_out: bool) -> dict[tuple[str, bool], list[Thing]]:
    """The plain things by their kind, "stack" for stacks, and whether they have two colours."""
    pools: dict[tuple[str, bool], list[Thing]] = defaultdict(list)
    for thing in things(held_out):
        if not thing.material:
            pools["stack" if thing.base else thing.kind, thing.second is not None].append(thing)
    return pools


def sample_thing(generator: torch.Generator, held_out: bool = False) -> Thing:
    """A random thing: 7 % stacks, else a kind (those with a front 1.5 times as often), 45 % of them of a material.

    Of the plain ones, 40 % have two colours where the kind can; of the wooden, brick and marble ones half have their
    own colour; half of the striped, spotted and checkered ones have white as their second colour.
    """
    pools = _pools(held_out)
    if uniform(generator) < _STACKS:
        return choice(generator, pools["stack", True])
    weights = torch.tensor([_FRONTED if entry.front else 1.0 for entry in KINDS.values()])
    kind = list(KINDS)[int(torch.multinomial(weights, 1, generator=generator))]
    if uniform(generator) < _TEXTURED:
        return _sample_textured(kind, generator, held_out)
    return choice(generator, pools[kind, bool(pools[kind, True]) and uniform(generator) < _TWO_COLOURS])


def _sample_textured(kind: str, generator: torch.Generator, held_out: bool) -> Thing:
    while True:
        material, main = choice(generator, list(MATERIALS)), choice(generator, list(COLOURS))
        second = choice(generator, list(COLOURS)) if KINDS[kind].part and uniform(generator) < 0.15 else None
        other = None
        if MATERIALS[material].natural is None:
            usual = uniform(generator) < 0.5
            others = [colour for colour in COLOURS if colour != main]
            other = usual_other(main) if usual else choice(generator, others)
        elif uniform(generator) < 0.5:
            main = ""
        thing = Thing(kind, main, second, "", material, other)
        if is_held_out(thing) == held_out:
            return thing


def sample_views(generator: torch.Generator, count: int, size: int = SIZE) -> Views:
    """Training cameras: all azimuths, elevation -10 to 60 degrees (10 %: 60 to 85), distance 3.2 to 3.6, fov 40."""
    draws = torch.rand(4, count, generator=generator)
    elevation_deg = torch.where(draws[0] < 0.1, 60 + 25 * draws[1], -10 + 70 * draws[1])
    azimuth, distance = 2 * math.pi * draws[2], 3.2 + 0.4 * draws[3]
    return orbit(azimuth, elevation_deg.deg2rad(), distance, math.radians(40.0), size, size)


def sample_background(generator: torch.Generator) -> Colour:
    """A plain background: 80 % a grey of 0.5 to 1, 15 % such a grey with a faint tint, 5 % white.

    None is dark: classifier-free guidance turns even a small share of black ones into a third of the samples.
    """
    which, grey = uniform(generator), uniform(generator, 0.5, 1.0)
    if which < 0.05:
        return 1.0, 1.0, 1.0
    if which < 0.20:
        red, green, blue = (min(1.0, max(0.0, grey + uniform(generator, -0.1, 0.1))) for _ in range(3))
        return red, green, blue
    return grey, grey, grey


def render(
    thing: Thing, views: Views, background: Background = BACKGROUND, supersample: int = 3, instance: int = 0
) -> Render:
    """Ground truth of a thing from B cameras, in float32 on the CPU, before one background or one for each camera.

    There are `supersample` samples per pixel along each axis. Where nothing is hit, the depth is 0. `instance` tells
    apart the things of a material that a caption may mean.
    """
    cameras = zip(views.c2w.detach().cpu().double().numpy(), views.K.detach().cpu().double().numpy(), strict=True)
    texture, size = thing.texture(instance), (views.height, views.width)
    shaded = [shade(primitives(thing), texture, *camera, *size, supersample) for camera in cameras]
    on_black, alpha, depth = torch.from_numpy(np.stack(shaded)).float().split([3, 1, 1], dim=1)
    behind = torch.as_tensor(background, dtype=torch.float32, device="cpu").reshape(-1, 3, 1, 1)
    return Render((on_black + (1 - alpha) * behind).clamp(0, 1), alpha, depth)
