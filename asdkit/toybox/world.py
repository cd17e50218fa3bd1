"""The toybox: a procedural world of captioned 3D objects with ground truth from any camera.

`sample_thing`, `sample_views` and `sample_background` draw what training sees; `render` gives exact pictures,
silhouettes and depths. A thing of a material ("a wooden chair") has many instances, one for each `variation`.
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.rendering.cameras import Views, orbit
from asdkit.toybox.catalogue import COLOURS, Thing, all_things, is_held_out, pattern_colours
from asdkit.toybox.draws import choice, uniform
from asdkit.toybox.materials import MATERIALS, Colour, draw_texture
from asdkit.toybox.objects import KINDS, build, stack
from asdkit.toybox.primitives import Primitive, Scene, pack
from asdkit.toybox.raycaster import shade

BACKGROUND: Colour = (0.85, 0.85, 0.85)
SIZE = 128  # pixels of an edge of the training pictures


class Truth(NamedTuple):
    """Ground truth of B views: image in [0,1] over a background; alpha; depth (camera z of what is hit, else 0)."""

    image: Float[Tensor, "B 3 H W"]
    alpha: Float[Tensor, "B 1 H W"]
    depth: Float[Tensor, "B 1 H W"]


@lru_cache(maxsize=4096)
def _scene(thing: Thing, variation: int) -> Scene:
    if thing.material:
        return pack(_textured(thing, variation))
    main = KINDS[thing.kind].paint if thing.main == KINDS[thing.kind].natural else None
    main = main or COLOURS[thing.main]
    if thing.base:
        return pack(stack(thing.kind, main, thing.base, COLOURS[thing.second]))
    return pack(build(thing.kind, main, COLOURS[thing.second] if thing.second else None))


def _textured(thing: Thing, variation: int) -> list[Primitive]:
    """The primitives of one instance of a thing of a material: what has the main colour has the texture."""
    generator = generator_for(variation, 0, f"texture of {thing.prompt}")
    first, second = COLOURS.get(thing.main), COLOURS.get(thing.second or "")
    texture = draw_texture(MATERIALS[thing.material], first, second, generator)
    main = (*texture.first,)
    return [
        primitive._replace(texture=texture) if primitive.colour == main else primitive
        for primitive in build(thing.kind, main, None)
    ]


@cache
def _pools(held_out: bool) -> tuple[dict[str, tuple[list[Thing], list[Thing]]], list[Thing]]:
    """By kind, its things of one colour and of two; and the stacks."""
    singles = {kind: ([], []) for kind in KINDS}
    stacks = []
    for thing in all_things(held_out):
        if thing.base:
            stacks.append(thing)
        elif not thing.material:
            singles[thing.kind][thing.second is not None].append(thing)
    return singles, stacks


def sample_thing(generator: torch.Generator, held_out: bool = False) -> Thing:
    """A random thing: 6 % stacks, else a kind (those with a front 1.5 times as often); half of them of a material, the
    others plain, 40 % of those in two colours.

    Args:
        generator: every draw comes from it.
        held_out: draw from the compositions that training never sees, instead of from the others.
    """
    singles, stacks = _pools(held_out)
    if uniform(generator) < 0.06:
        return choice(generator, stacks)
    weights = torch.tensor([1.5 if entry.front else 1.0 for entry in KINDS.values()])
    kind = list(KINDS)[int(torch.multinomial(weights, 1, generator=generator))]
    if uniform(generator) < 0.5:
        return _sample_textured(kind, generator, held_out)
    one, two = singles[kind]
    return choice(generator, two if two and uniform(generator) < 0.4 else one)


def _sample_textured(kind: str, generator: torch.Generator, held_out: bool) -> Thing:
    """A kind of a random material: half of those with a natural colour have it, 40 % of two colours name both."""
    names = [name for name in MATERIALS if is_held_out(Thing(kind, "red", material=name)) == held_out]
    name = choice(generator, names)
    colours = pattern_colours(name)
    if MATERIALS[name].natural and uniform(generator) < 0.5:
        return Thing(kind, "", material=name)
    two = MATERIALS[name].two_colours and uniform(generator) < 0.4
    return Thing(kind, *choice(generator, [c for c in colours if c[0] and bool(c[1]) == two]), material=name)


def sample_views(generator: torch.Generator, count: int, size: int = SIZE) -> Views:
    """Training cameras: any azimuth, elevation -10 to 60 degrees (10 %: 60 to 85), distance 3.2 to 3.6, fov 40 degrees.

    Args:
        generator: every draw comes from it.
        count: how many.
        size: height and width in pixels.
    """
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
    thing: Thing,
    views: Views,
    background: Colour | Float[Tensor, "B 3"] = BACKGROUND,
    supersample: int = 3,
    variation: int = 0,
) -> Truth:
    """Ground truth of a thing from any camera, on the CPU.

    Args:
        thing: what is seen.
        views: B cameras.
        background: one colour in [0,1], or one per view [B,3].
        supersample: samples per pixel along each axis.
        variation: which instance of a thing of a material; a plain thing has one.

    Returns:
        Float32 tensors on the CPU; see `Truth`.
    """
    scene = _scene(thing, variation if thing.material else 0)
    c2w, K = views.c2w.detach().cpu().double().numpy(), views.K.detach().cpu().double().numpy()
    on_black, alpha, depth = (
        torch.from_numpy(array) for array in shade(scene, c2w, K, views.height, views.width, supersample)
    )
    behind = torch.as_tensor(background, dtype=torch.float32, device="cpu").reshape(-1, 3, 1, 1)
    alpha = alpha[:, None]
    return Truth((on_black + (1 - alpha) * behind).clamp(0, 1), alpha, depth[:, None])
