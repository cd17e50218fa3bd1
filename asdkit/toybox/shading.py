"""Colours of the ray caster's hits: the material, a light fixed to the world, and soft occlusion.

A colour depends on the surface point and its normal in the WORLD alone (no highlights, no cast shadows), so it is the
same from every camera and view-independent representations can match it exactly.
"""

import math

import numpy as np
from numba import njit

from asdkit.toybox.materials import Texture, paint
from asdkit.toybox.raycaster import Maps, Scene, trace

# The light comes from the front (+x), the left (+y) and above.
_LIGHT = (0.72, 0.35, 0.60)
_AMBIENT, _SKY, _SUN = 0.48, 0.20, 0.45
_OCCLUSION, _SMALLEST = 0.55, 0.12  # strength; radius below which a primitive darkens nothing


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
    """Anti-aliased pictures on black, of `supersample` samples per pixel along each axis.

    The cameras are `c2w` [B,4,4] in OpenCV axes and `K` [B,3,3] in pixels, float64.
    They are colour times alpha [B,3,H,W]; alpha, the share of a pixel's samples that hit [B,H,W]; the mean camera z of
    the samples that hit, 0 where none did [B,H,W]. All are float32.
    """
    image = np.zeros((len(c2w), 3, height, width), dtype=np.float32)
    alpha = np.zeros((len(c2w), height, width), dtype=np.float32)
    depth = np.zeros((len(c2w), height, width), dtype=np.float32)
    fine, balls = K * np.array([[supersample], [supersample], [1.0]]), occluders(scene)
    for b in range(len(c2w)):
        samples = trace(scene, c2w[b], fine[b], height * supersample, width * supersample)
        _resolve(samples, scene, texture, balls, c2w[b], fine[b], supersample, image[b], alpha[b], depth[b])
    return image, alpha, depth
