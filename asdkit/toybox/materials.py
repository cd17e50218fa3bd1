"""Solid textures: the colour of a point of an object as a function of its place, in numba.

A texture fills space, so that an object carved from it looks right from every camera and needs no unwrapping. Each
instance of a material has a frame of its own (`Texture.frame`), whose phase, scale and direction are drawn at random:
"a striped ball" has many right answers.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

Colour = tuple[float, float, float]

PLAIN, WOODEN, STRIPED, SPOTTED, CHECKERED, BRICK, MARBLE, STONE = range(8)

_WHITE, _BLACK = (0.95, 0.95, 0.95), (0.12, 0.12, 0.13)


class Material(NamedTuple):
    """A material that captions name.

    Args:
        code: which of the patterns below it is.
        natural: its colour where a caption names none; None where the caption must.
        two_colours: whether a caption may name the second colour ("red and white striped").
        periods: shortest and longest period of the pattern, in world units.
        upright: whether the pattern stands along z and turns about it alone.
    """

    code: int
    natural: Colour | None = None
    two_colours: bool = False
    periods: tuple[float, float] = (0.3, 0.5)
    upright: bool = False


MATERIALS: dict[str, Material] = {
    "wooden": Material(WOODEN, natural=(0.66, 0.42, 0.22), periods=(0.14, 0.22)),
    "striped": Material(STRIPED, two_colours=True, periods=(0.30, 0.46)),
    "spotted": Material(SPOTTED, two_colours=True, periods=(0.34, 0.46)),
    "checkered": Material(CHECKERED, two_colours=True, periods=(0.22, 0.34), upright=True),
    "brick": Material(BRICK, natural=(0.70, 0.28, 0.18), periods=(0.20, 0.28), upright=True),
    "marble": Material(MARBLE, natural=(0.92, 0.91, 0.89), periods=(0.60, 0.95)),
    "stone": Material(STONE, natural=(0.60, 0.59, 0.57), periods=(0.16, 0.26)),
}


class Texture(NamedTuple):
    """One instance of a material.

    Args:
        code: of the pattern.
        frame: world units to periods of the pattern [3,4].
        first: colour in [0,1] that takes most of the surface.
        second: the other colour.
    """

    code: int
    frame: np.ndarray
    first: Colour
    second: Colour


def plain(colour: Colour) -> Texture:
    """The texture of one colour everywhere."""
    return Texture(PLAIN, np.eye(3, 4), colour, colour)


def draw_texture(
    material: Material, first: Colour | None, second: Colour | None, generator: torch.Generator
) -> Texture:
    """A random instance of a material.

    Args:
        material: which one.
        first: its main colour; None for the natural one.
        second: of two-coloured materials; None for white, or black beside white.
        generator: phase, scale and direction come from it.
    """
    u = torch.rand(8, generator=generator).tolist()
    period = material.periods[0] + (material.periods[1] - material.periods[0]) * u[0]
    rotation = _about_z(2 * math.pi * u[1]) if material.upright else _rotation(u[1], u[2], u[3])
    first = first or material.natural or _WHITE
    frame = np.concatenate([rotation / period, 100.0 * np.array(u[4:7])[:, None]], axis=1)
    return Texture(material.code, frame, first, second or _companion(material, first))


def _companion(material: Material, first: Colour) -> Colour:
    """The second colour that goes without saying."""
    if material.two_colours:
        return _BLACK if min(first) > 0.8 else _WHITE
    if material.code == BRICK:
        return (0.80, 0.77, 0.72)
    brightness = sum(first) / 3
    towards, share = (1.0, 0.45) if brightness < 0.3 and material.code == MARBLE else (0.0, 0.45)
    red, green, blue = ((1 - share) * c + share * towards for c in first)
    return red, green, blue


def _about_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation(u: float, v: float, w: float) -> np.ndarray:
    """A uniformly random rotation of three uniform numbers (Shoemake, Graphics Gems III)."""
    a, b = math.sqrt(1 - u), math.sqrt(u)
    x, y, z, q = (
        a * math.sin(2 * math.pi * v),
        a * math.cos(2 * math.pi * v),
        b * math.sin(2 * math.pi * w),
        b * math.cos(2 * math.pi * w),
    )
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * q), 2 * (x * z + y * q)],
            [2 * (x * y + z * q), 1 - 2 * (x * x + z * z), 2 * (y * z - x * q)],
            [2 * (x * z - y * q), 2 * (y * z + x * q), 1 - 2 * (x * x + y * y)],
        ]
    )


@njit(cache=True, nogil=True)
def _hash(i: int, j: int, k: int, salt: int) -> float:
    """A number in [0,1) that looks random, of a cell of the integer grid."""
    h = np.uint32(i * 73856093) ^ np.uint32(j * 19349663) ^ np.uint32(k * 83492791) ^ np.uint32(salt * 2654435761)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x45D9F3B))
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x45D9F3B))
    return float((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFFFF)) / 16777216.0


@njit(cache=True, nogil=True)
def _noise(x: float, y: float, z: float) -> float:
    """Smooth noise in [0,1] with features of about one unit: hashed corners, blended."""
    i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
    fx, fy, fz = x - i, y - j, z - k
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    total = 0.0
    for corner in range(8):
        a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
        total += weight * _hash(i + a, j + b, k + c, 0)
    return total


@njit(cache=True, nogil=True)
def _band(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth between."""
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return share * share * (3 - 2 * share)


@njit(cache=True, nogil=True)
def _brick(x: float, y: float, z: float) -> float:
    """Mortar between bricks of 2.2 x 1 x 2.2 periods, every other course shifted by half a brick."""
    course = math.floor(z)
    shift = 0.5 * (course % 2)
    across, along = x / 2.2 + shift, y / 2.2 + shift
    gap = min(abs(across - round(across)) * 2.2, abs(along - round(along)) * 2.2)
    return 1.0 - _band(min(gap, 0.5 - abs(z - course - 0.5)), 0.06, 0.09)


@njit(cache=True, nogil=True)
def _spot(x: float, y: float, z: float) -> float:
    """Balls at jittered places of a cubic lattice."""
    i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
    dx = x - i - 0.5 - 0.24 * (_hash(i, j, k, 1) - 0.5)
    dy = y - j - 0.5 - 0.24 * (_hash(i, j, k, 2) - 0.5)
    dz = z - k - 0.5 - 0.24 * (_hash(i, j, k, 3) - 0.5)
    return 1.0 - _band(math.sqrt(dx * dx + dy * dy + dz * dz), 0.34, 0.38)


@njit(cache=True, nogil=True)
def second_share(code: int, frame: np.ndarray, x: float, y: float, z: float) -> float:
    """How much of the second colour a point of the world has, in [0,1]."""
    if code == PLAIN:
        return 0.0
    u = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z + frame[0, 3]
    v = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z + frame[1, 3]
    w = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + frame[2, 3]
    if code == STRIPED:
        return _band(math.sin(2 * math.pi * u), -0.12, 0.12)
    if code == SPOTTED:
        return _spot(u, v, w)
    if code == CHECKERED:
        return float((math.floor(u) + math.floor(v) + math.floor(w)) % 2)
    if code == BRICK:
        return _brick(u, v, w)
    if code == MARBLE:
        swirl = _noise(2 * u, 2 * v, 2 * w) + 0.5 * _noise(4 * u, 4 * v, 4 * w) + 0.25 * _noise(8 * u, 8 * v, 8 * w)
        return 1.0 - _band(abs(math.sin(math.pi * (u + 1.3 * swirl))), 0.05, 0.55)
    if code == WOODEN:
        ring = v + 0.35 * math.sin(0.9 * w) + 1.1 * _noise(0.25 * u, 0.7 * v, 0.7 * w)
        grain = _noise(1.2 * u, 9 * v, 9 * w)
        return 0.75 * _band(abs(ring - round(ring)) * 2, 0.25, 1.0) + 0.25 * grain
    speckle = _noise(u, v, w) + 0.6 * _noise(2.3 * u, 2.3 * v, 2.3 * w)
    return _band(speckle, 0.55, 1.1)
