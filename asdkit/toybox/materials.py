"""Materials of the toybox and their light: solid textures, so that "a striped ball" has many right answers.

A texture colours a point of an object by its place (and, for brick, by the direction of the surface). Phase, scale and
direction are drawn from the instance's number. A colour, which a light fixed to the world and soft occlusion change,
depends on the surface point and its normal in the WORLD alone, so view-independent representations can match it.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from asdkit.core.randomness import generator_for
from asdkit.rendering.projection import rotation_entries
from asdkit.toybox.raycaster import Colour as Colour
from asdkit.toybox.raycaster import Primitive, trace

_MORTAR, _JOINT = 0.80, 0.07  # grey of the mortar; half its width as a share of a brick's height
_SPOT, _WAVES = 0.36, 3
# The light comes from the front (+x), the left (+y) and above.
_LIGHT = (0.72, 0.35, 0.60)
_AMBIENT, _SKY, _SUN = 0.48, 0.20, 0.45
_OCCLUSION, _SMALLEST = 0.55, 0.12  # strength; radius below which a primitive darkens nothing


class Material(NamedTuple):
    """A material."""

    scale: tuple[float, float]  # smallest and largest length of a period, in world units (an object's radius is 0.95)
    natural: Colour | None = None  # the colour where a prompt names none; None: of two colours, both named


MATERIALS: dict[str, Material] = {
    "striped": Material((0.30, 0.50)),
    "spotted": Material((0.36, 0.54)),
    "checkered": Material((0.24, 0.38)),
    "wooden": Material((0.14, 0.22), (0.72, 0.47, 0.26)),
    "brick": Material((0.20, 0.28), (0.66, 0.27, 0.18)),
    "marble": Material((0.38, 0.60), (0.93, 0.92, 0.90)),
}


class Texture(NamedTuple):
    """How one instance is painted."""

    material: str  # a key of MATERIALS; without one `main` is everywhere
    main: np.ndarray  # the colour of the material
    other: np.ndarray  # the second colour of a striped, spotted or checkered thing
    turn: np.ndarray  # rotation from object space to the texture's axes [3,3]
    shift: np.ndarray  # added to the turned point, in periods [3]
    scale: float  # length of a period, world units
    phases: np.ndarray  # of the waves that disturb wood and marble, radians [3,4]


def texture(word: str, main: Colour, other: Colour | None, instance: int) -> Texture:
    """The texture of an instance, any number, of a material (a key of MATERIALS, or "" for a plain thing)."""
    draws = torch.rand(32, generator=generator_for(instance, 0, "texture"), dtype=torch.float64).numpy()
    low, high = MATERIALS[word].scale if word else (1.0, 1.0)
    first, second = (np.asarray(colour, dtype=np.float64) for colour in (main, other or main))
    turn = _rotation(draws[:3], upright=word in ("checkered", "brick"))
    phases = 2 * math.pi * draws[8:20].reshape(_WAVES, 4)
    return Texture(word, first, second, turn, draws[3:6], low + (high - low) * draws[6], phases)


def _rotation(draws: np.ndarray, upright: bool) -> np.ndarray:
    """A rotation drawn evenly from three even numbers in [0,1) (Shoemake's quaternion); if it stays `upright`, about z
    by up to 30 degrees either way: bricks and squares stay level and near the walls.
    """
    a, b, c = draws
    w, x = math.sqrt(1 - a) * math.sin(2 * math.pi * b), math.sqrt(1 - a) * math.cos(2 * math.pi * b)
    y, z = math.sqrt(a) * math.sin(2 * math.pi * c), math.sqrt(a) * math.cos(2 * math.pi * c)
    if upright:
        half = math.radians(30 * a - 15)
        w, x, y, z = math.cos(half), 0.0, 0.0, math.sin(half)
    return np.reshape(rotation_entries(w, x, y, z), (3, 3))


def _waves(points: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """A smooth disturbance in about [-1, 1]: three sine waves, each of twice the frequency and half the height."""
    x, y, z = points.T
    total, frequency, height = np.zeros(len(points)), 2.0, 0.5
    for of_x, of_y, of_z, _ in phases:
        bent = np.sin(frequency * y + of_y) + np.cos(frequency * z + of_z)
        total += height * np.sin(frequency * x + of_x + 1.3 * bent)
        frequency, height = 2.0 * frequency, 0.5 * height
    return total


def _mortar(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Whether points are in the joints between bricks; a wall runs along the horizontal axis that it faces least."""
    (x, y, z), (nx, ny, nz) = points.T, np.abs(normals).T
    flat = nz > 0.8
    along, up = np.where(flat | (nx <= ny), x, y), np.where(flat, y, z)
    across = 0.5 * (along + np.floor(up) % 2)
    joints: np.ndarray = (np.abs(up - np.round(up)) < _JOINT) | (np.abs(across - np.round(across)) < 0.5 * _JOINT)
    return joints


def paint(texture: Texture, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The colours [N,3] of surface points with unit normals, both [N,3] and in object space."""
    main, other, material = texture.main, texture.other, texture.material
    places = points @ texture.turn.T / texture.scale + texture.shift
    x, y, z = places.T
    share: np.ndarray = np.zeros(len(points))  # of the other colour
    if material == "striped":
        share = z % 1 > 0.5
    elif material == "spotted":  # balls at the points of a body-centred lattice of spacing 1
        share = np.square([places - half - np.round(places - half) for half in (0.0, 0.5)]).sum(2).min(0) < _SPOT**2
    elif material == "checkered":
        share = np.floor(places).sum(1) % 2
    elif material == "wooden":
        rings = np.hypot(x, y) + 0.35 * _waves(places * [0.3, 0.3, 0.15], texture.phases)
        other, share = 0.55 * main, np.square(0.5 + 0.5 * np.sin(2 * math.pi * rings))
    elif material == "brick":
        other, share = np.full(3, _MORTAR), _mortar(places, normals @ texture.turn.T)
    elif material == "marble":
        vein = np.abs(np.sin(math.pi * (z + 0.6 * _waves(0.8 * places, texture.phases))))
        light = main @ [0.3, 0.6, 0.1]
        other, share = 0.35 * main if light > 0.3 else 0.5 + 0.5 * main, 0.9 * np.maximum(0.0, 1.0 - 2.2 * vein)
    colours: np.ndarray = main + share[:, None] * (other - main)
    return colours


def _light(primitives: list[Primitive], index: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The light [N] at points of primitives; of it a ball as large as each other one hides cos(angle) r^2 / d^2."""
    share = np.ones(len(points))
    for number, primitive in enumerate(primitives):
        radius = np.cbrt(np.linalg.norm(primitive.matrix[:, :3], axis=0).prod())
        if radius >= _SMALLEST:
            towards = primitive.matrix[:, 3] - points
            squared = np.maximum(np.einsum("ni,ni->n", towards, towards), 1e-9)
            facing = np.einsum("ni,ni->n", normals, towards) / np.sqrt(squared)
            hidden = _OCCLUSION * np.maximum(0.0, facing) * np.minimum(1.0, radius**2 / squared)
            share *= np.where(index == number, 1.0, 1.0 - hidden)
    return share * (_AMBIENT + _SKY * (0.5 + 0.5 * normals[:, 2]) + _SUN * np.square(0.5 + 0.5 * normals @ _LIGHT))


def shade(
    primitives: list[Primitive], texture: Texture, c2w: np.ndarray, K: np.ndarray, height: int, width: int, fine: int
) -> np.ndarray:
    """What a camera `c2w` [4,4], in OpenCV axes, and `K` [3,3] in pixels sees on black, of `fine` samples per pixel
    along each axis [5,H,W]: colour times alpha; alpha, the share that hits; the mean camera z of these, 0 without any.
    """
    K = K * np.array([[fine], [fine], [1.0]])
    depth, index, normal = trace(primitives, c2w, K, height * fine, width * fine)
    rows, columns = np.nonzero(index >= 0)
    t, part, normals = depth[rows, columns], index[rows, columns], normal[rows, columns]
    u, v = (columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1]
    points = np.stack([t * u, t * v, t], axis=1) @ c2w[:3, :3].T + c2w[:3, 3]
    colours = np.array([primitive.colour for primitive in primitives], dtype=float)[part]
    textured = np.array([primitive.textured for primitive in primitives])[part]
    colours[textured] = paint(texture, points[textured], normals[textured])
    lit = np.minimum(1.0, colours * _light(primitives, part, points, normals)[:, None])
    pixels = rows // fine * width + columns // fine
    sums = [np.bincount(pixels, values, height * width) for values in (*lit.T, np.ones_like(t), t)]
    return np.stack([*np.divide(sums[:4], fine**2), sums[4] / np.maximum(sums[3], 1)]).reshape(5, height, width)
