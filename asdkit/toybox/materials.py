"""Materials of the toybox: solid textures, so that a caption such as "a striped ball" has many right answers.

A texture colours a point of an object by its place (and, for brick, by the direction of the surface). Phase, scale and
direction belong to the instance and are drawn from its number, so an instance looks alike from every camera.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from asdkit.core.randomness import generator_for
from asdkit.rendering.projection import rotation_entries

Colour = tuple[float, float, float]
PLAIN, STRIPED, SPOTTED, CHECKERED, WOODEN, BRICK, MARBLE = range(7)
_MORTAR, _JOINT = 0.80, 0.07  # grey of the mortar; half its width as a share of a brick's height
_SPOT, _WAVES = 0.36, 3


class Material(NamedTuple):
    """A material."""

    number: int  # which texture the ray caster evaluates
    scale: tuple[float, float]  # smallest and largest length of a period, in world units (an object's radius is 0.95)
    natural: Colour | None = None  # the colour where a prompt names none; None: of two colours, both named


MATERIALS: dict[str, Material] = {
    "striped": Material(STRIPED, (0.30, 0.50)),
    "spotted": Material(SPOTTED, (0.36, 0.54)),
    "checkered": Material(CHECKERED, (0.24, 0.38)),
    "wooden": Material(WOODEN, (0.14, 0.22), (0.72, 0.47, 0.26)),
    "brick": Material(BRICK, (0.20, 0.28), (0.66, 0.27, 0.18)),
    "marble": Material(MARBLE, (0.38, 0.60), (0.93, 0.92, 0.90)),
}


class Texture(NamedTuple):
    """How one instance is painted."""

    number: int  # which texture; PLAIN paints `main` everywhere
    main: np.ndarray  # the colour of the material
    other: np.ndarray  # the second colour of a striped, spotted or checkered thing
    turn: np.ndarray  # rotation from object space to the texture's axes [3,3]
    shift: np.ndarray  # added to the turned point, in periods [3]
    scale: float  # length of a period, world units
    phases: np.ndarray  # of the waves that disturb wood and marble, radians [3,4]


def texture(word: str, main: Colour, other: Colour | None, instance: int) -> Texture:
    """The texture of an instance, any number, of a material (a key of MATERIALS, or "" for a plain thing)."""
    material = MATERIALS[word] if word else Material(PLAIN, (1.0, 1.0))
    draws = torch.rand(32, generator=generator_for(instance, 0, "texture"), dtype=torch.float64).numpy()
    low, high = material.scale
    upright = material.number in (CHECKERED, BRICK)
    return Texture(
        material.number,
        np.asarray(main, dtype=np.float64),
        np.asarray(other or main, dtype=np.float64),
        _yaw(draws[0]) if upright else _rotation(draws[:3]),
        draws[3:6],
        low + (high - low) * draws[6],
        2 * math.pi * draws[8:20].reshape(_WAVES, 4),
    )


def _yaw(draw: float) -> np.ndarray:
    """A rotation about z by up to 30 degrees either way: bricks and squares stay level and near the walls."""
    angle = math.radians(60 * draw - 30)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation(draws: np.ndarray) -> np.ndarray:
    """A rotation drawn evenly from three even numbers in [0,1) (Shoemake's quaternion)."""
    a, b, c = draws
    w, x = math.sqrt(1 - a) * math.sin(2 * math.pi * b), math.sqrt(1 - a) * math.cos(2 * math.pi * b)
    y, z = math.sqrt(a) * math.sin(2 * math.pi * c), math.sqrt(a) * math.cos(2 * math.pi * c)
    return np.reshape(rotation_entries(w, x, y, z), (3, 3))


@njit(cache=True, nogil=True)
def _waves(x: float, y: float, z: float, phases: np.ndarray) -> float:
    """A smooth disturbance in about [-1, 1]: three sine waves, each of twice the frequency and half the height."""
    total, frequency, height = 0.0, 2.0, 0.5
    for i in range(_WAVES):
        bent = math.sin(frequency * y + phases[i, 1]) + math.cos(frequency * z + phases[i, 2])
        total += height * math.sin(frequency * x + phases[i, 0] + 1.3 * bent)
        frequency, height = 2.0 * frequency, 0.5 * height
    return total


@njit(cache=True, nogil=True)
def _spotted(x: float, y: float, z: float) -> float:
    """1 inside balls at the points of a body-centred lattice of spacing 1, else 0."""
    best = 9.0
    for half in (0.0, 0.5):
        dx, dy, dz = x - half, y - half, z - half
        dx, dy, dz = dx - math.floor(dx + 0.5), dy - math.floor(dy + 0.5), dz - math.floor(dz + 0.5)
        best = min(best, dx * dx + dy * dy + dz * dz)
    return 1.0 if best < _SPOT * _SPOT else 0.0


@njit(cache=True, nogil=True)
def _mortar(x: float, y: float, z: float, nx: float, ny: float, nz: float) -> float:
    """1 in the joints between bricks, else 0; a wall runs along the horizontal axis that it faces least."""
    along = y if abs(nx) > abs(ny) else x
    up = z
    if abs(nz) > 0.8:
        along, up = x, y
    row = math.floor(up)
    within = up - row
    across = 0.5 * along + 0.5 * (row % 2)
    across -= math.floor(across)
    level = within < _JOINT or within > 1.0 - _JOINT
    return 1.0 if level or across < 0.5 * _JOINT or across > 1.0 - 0.5 * _JOINT else 0.0


@njit(cache=True, nogil=True)
def paint(texture: Texture, px: float, py: float, pz: float, nx: float, ny: float, nz: float) -> Colour:
    """The colour of a surface point p with unit normal n, both in object space."""
    R, s = texture.turn, texture.shift
    x = (R[0, 0] * px + R[0, 1] * py + R[0, 2] * pz) / texture.scale + s[0]
    y = (R[1, 0] * px + R[1, 1] * py + R[1, 2] * pz) / texture.scale + s[1]
    z = (R[2, 0] * px + R[2, 1] * py + R[2, 2] * pz) / texture.scale + s[2]
    main, other, share, number = texture.main, texture.other, 0.0, texture.number
    if number == STRIPED:
        share = 1.0 if z - math.floor(z) > 0.5 else 0.0
    elif number == SPOTTED:
        share = _spotted(x, y, z)
    elif number == CHECKERED:
        share = (math.floor(x) + math.floor(y) + math.floor(z)) % 2
    elif number == WOODEN:
        rings = math.sqrt(x * x + y * y) + 0.35 * _waves(0.3 * x, 0.3 * y, 0.15 * z, texture.phases)
        share = 0.5 + 0.5 * math.sin(2 * math.pi * rings)
        return _darker(main, 1.0 - 0.45 * share * share)
    elif number == BRICK:
        mx, my = R[0, 0] * nx + R[0, 1] * ny, R[1, 0] * nx + R[1, 1] * ny
        if _mortar(x, y, z, mx, my, nz) > 0.5:
            return _MORTAR, _MORTAR, _MORTAR
        return _darker(main, 1.0)
    elif number == MARBLE:
        vein = abs(math.sin(math.pi * (z + 0.6 * _waves(0.8 * x, 0.8 * y, 0.8 * z, texture.phases))))
        share = max(0.0, 1.0 - 2.2 * vein)
        light = 0.3 * main[0] + 0.6 * main[1] + 0.1 * main[2]
        return _blend(main, 0.35 * main if light > 0.3 else 0.5 + 0.5 * main, 0.9 * share)
    return _blend(main, other, share)


@njit(cache=True, nogil=True)
def _blend(main: np.ndarray, other: np.ndarray, share: float) -> Colour:
    rest = 1.0 - share
    return rest * main[0] + share * other[0], rest * main[1] + share * other[1], rest * main[2] + share * other[2]


@njit(cache=True, nogil=True)
def _darker(colour: np.ndarray, factor: float) -> Colour:
    return factor * colour[0], factor * colour[1], factor * colour[2]
