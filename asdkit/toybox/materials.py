"""Materials of the toybox and their light: solid textures, so that "a striped ball" has many right answers.

A texture colours a point of an object by its place (and, for brick, by the direction of the surface). Phase, scale and
direction are drawn from the instance's number. A colour, which a light fixed to the world and soft occlusion change,
depends on the surface point and its normal in the WORLD alone, so view-independent representations can match it.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from asdkit.core.randomness import generator_for
from asdkit.rendering.projection import rotation_entries
from asdkit.toybox.raycaster import Colour as Colour
from asdkit.toybox.raycaster import Maps, Scene, trace

PLAIN, STRIPED, SPOTTED, CHECKERED, WOODEN, BRICK, MARBLE = range(7)
_MORTAR, _JOINT = 0.80, 0.07  # grey of the mortar; half its width as a share of a brick's height
_SPOT, _WAVES = 0.36, 3
# The light comes from the front (+x), the left (+y) and above.
_LIGHT = (0.72, 0.35, 0.60)
_AMBIENT, _SKY, _SUN = 0.48, 0.20, 0.45
_OCCLUSION, _SMALLEST = 0.55, 0.12  # strength; radius below which a primitive darkens nothing


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


def occluders(scene: Scene) -> np.ndarray:
    """A ball for each primitive [P,4]: its centre, and the radius of the ball of the same volume as its box."""
    sizes = np.linalg.norm(scene.to_world[:, :, :3], axis=1)
    return np.concatenate([scene.to_world[:, :, 3], np.cbrt(sizes.prod(1))[:, None]], axis=1)


@njit(cache=True, nogil=True)
def _openness(balls: np.ndarray, own: int, px: float, py: float, pz: float, nx: float, ny: float, nz: float) -> float:
    """The share of the sky's light that reaches a point: a ball hides cos(angle) r^2 / d^2 of it."""
    share = 1.0
    for i in range(len(balls)):
        radius = balls[i, 3]
        if i == own or radius < _SMALLEST:
            continue
        dx, dy, dz = balls[i, 0] - px, balls[i, 1] - py, balls[i, 2] - pz
        squared = max(dx * dx + dy * dy + dz * dz, 1e-9)
        facing = (nx * dx + ny * dy + nz * dz) / math.sqrt(squared)
        if facing > 0.0:
            share *= 1.0 - _OCCLUSION * facing * min(1.0, radius * radius / squared)
    return share


@njit(cache=True, nogil=True)
def _light(nx: float, ny: float, nz: float) -> float:
    sun = 0.5 + 0.5 * (nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2])
    return _AMBIENT + _SKY * (0.5 + 0.5 * nz) + _SUN * sun * sun


@njit(cache=True, nogil=True)
def _resolve(
    samples: Maps, scene: Scene, texture: Texture, balls: np.ndarray,
    c2w: np.ndarray, K: np.ndarray, factor: int, image: np.ndarray, alpha: np.ndarray, mean_depth: np.ndarray,
) -> None:  # fmt: skip
    depth, index, normal = samples
    share = 1.0 / (factor * factor)
    for row in range(depth.shape[0]):
        for col in range(depth.shape[1]):
            i = index[row, col]
            if i < 0:
                continue
            t, y, x = depth[row, col], row // factor, col // factor
            u, v = t * (col + 0.5 - K[0, 2]) / K[0, 0], t * (row + 0.5 - K[1, 2]) / K[1, 1]
            px = c2w[0, 0] * u + c2w[0, 1] * v + c2w[0, 2] * t + c2w[0, 3]
            py = c2w[1, 0] * u + c2w[1, 1] * v + c2w[1, 2] * t + c2w[1, 3]
            pz = c2w[2, 0] * u + c2w[2, 1] * v + c2w[2, 2] * t + c2w[2, 3]
            nx, ny, nz = normal[row, col, 0], normal[row, col, 1], normal[row, col, 2]
            colour = (scene.colour[i, 0], scene.colour[i, 1], scene.colour[i, 2])
            if scene.textured[i]:
                colour = paint(texture, px, py, pz, nx, ny, nz)
            light = _light(nx, ny, nz) * _openness(balls, i, px, py, pz, nx, ny, nz)
            alpha[y, x] += share
            mean_depth[y, x] += share * t
            for c in range(3):
                image[c, y, x] += share * min(1.0, colour[c] * light)
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            if alpha[y, x] > 0.0:
                mean_depth[y, x] /= alpha[y, x]


def shade(
    scene: Scene, texture: Texture, c2w: np.ndarray, K: np.ndarray, height: int, width: int, supersample: int
) -> Maps:
    """Anti-aliased pictures on black by cameras `c2w` [B,4,4], in OpenCV axes, and `K` [B,3,3] in pixels, float64.

    There are `supersample` samples per pixel along each axis. The results, all float32, are colour times alpha
    [B,3,H,W]; alpha, the share of samples that hit [B,H,W]; the mean camera z of these, 0 without any [B,H,W].
    """
    image = np.zeros((len(c2w), 3, height, width), dtype=np.float32)
    alpha = np.zeros((len(c2w), height, width), dtype=np.float32)
    depth = np.zeros((len(c2w), height, width), dtype=np.float32)
    fine, balls = K * np.array([[supersample], [supersample], [1.0]]), occluders(scene)
    for b in range(len(c2w)):
        samples = trace(scene, c2w[b], fine[b], height * supersample, width * supersample)
        _resolve(samples, scene, texture, balls, c2w[b], fine[b], supersample, image[b], alpha[b], depth[b])
    return image, alpha, depth
