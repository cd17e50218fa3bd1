"""Exact ray casting of small scenes of primitives, in numba.

Camera rays have unit camera z, so that the ray parameter t is the depth. Primitives are drawn one by one into a depth
buffer, each inside the screen rectangle of its bounding box: a miss costs nothing.

Colours depend on the place and the surface normal in the WORLD alone (no highlights, no cast shadows; ambient occlusion
by the other primitives), so they are the same from every camera and view-independent representations can match them
exactly.
"""

import math

import numpy as np
from numba import njit

from asdkit.toybox.materials import second_share
from asdkit.toybox.primitives import FAR, FRUSTUM, NEAR, TORUS, Scene, intersect

# Light fixed to the world: it comes from the front (+x), the left (+y) and above.
_LIGHT = (0.72, 0.35, 0.60)
_AMBIENT, _SKY, _SUN = 0.45, 0.18, 0.50
_OCCLUSION = 0.55  # of the light that a primitive takes which fills the whole sky of a point


@njit(cache=True, nogil=True)
def _rectangle(
    matrix: np.ndarray, shape: int, param: float, c2w: np.ndarray, K: np.ndarray, height: int, width: int
) -> tuple[int, int, int, int]:
    """Sample bounds (x0, x1, y0, y1; ends excluded) of a primitive's bounding box on a screen of height x width."""
    half_xy = 1.0 + param if shape == TORUS else (max(1.0, param) if shape == FRUSTUM else 1.0)
    half_z = param if shape == TORUS else 1.0
    x0, x1, y0, y1 = FAR, -FAR, FAR, -FAR
    for corner in range(8):
        lx = half_xy if corner & 1 else -half_xy
        ly = half_xy if corner & 2 else -half_xy
        lz = half_z if corner & 4 else -half_z
        cam = np.zeros(3)
        for i in range(3):
            p = matrix[i, 0] * lx + matrix[i, 1] * ly + matrix[i, 2] * lz + matrix[i, 3] - c2w[i, 3]
            for j in range(3):
                cam[j] += c2w[i, j] * p
        if cam[2] < 0.01:
            return 0, width, 0, height
        u, v = K[0, 0] * cam[0] / cam[2] + K[0, 2], K[1, 1] * cam[1] / cam[2] + K[1, 2]
        x0, x1, y0, y1 = min(x0, u), max(x1, u), min(y0, v), max(y1, v)
    left, right = max(0, int(math.floor(x0))), min(width, int(math.floor(x1)) + 1)
    return left, right, max(0, int(math.floor(y0))), min(height, int(math.floor(y1)) + 1)


@njit(cache=True, nogil=True)
def _trace_view(
    scene: Scene, c2w: np.ndarray, K: np.ndarray, depth: np.ndarray, index: np.ndarray, normal: np.ndarray
) -> None:
    height, width = depth.shape
    for p in range(len(scene.shape)):
        shape, param, open_top = scene.shape[p], scene.param[p], scene.open_top[p]
        left, right, top, bottom = _rectangle(scene.to_world[p], shape, param, c2w, K, height, width)
        W = scene.to_local[p]
        M = np.zeros((3, 4))
        for i in range(3):
            M[i, 3] = W[i, 3]
            for j in range(3):
                for k in range(4):
                    M[i, k] += W[i, j] * c2w[j, k]
        for row in range(top, bottom):
            v = (row + 0.5 - K[1, 2]) / K[1, 1]
            for col in range(left, right):
                u = (col + 0.5 - K[0, 2]) / K[0, 0]
                dx = M[0, 0] * u + M[0, 1] * v + M[0, 2]
                dy = M[1, 0] * u + M[1, 1] * v + M[1, 2]
                dz = M[2, 0] * u + M[2, 1] * v + M[2, 2]
                t, nx, ny, nz = intersect(shape, param, open_top, M[0, 3], M[1, 3], M[2, 3], dx, dy, dz)
                if t <= NEAR or t >= depth[row, col]:
                    continue
                side = -1.0 if nx * dx + ny * dy + nz * dz > 0.0 else 1.0
                wx = W[0, 0] * nx + W[1, 0] * ny + W[2, 0] * nz
                wy = W[0, 1] * nx + W[1, 1] * ny + W[2, 1] * nz
                wz = W[0, 2] * nx + W[1, 2] * ny + W[2, 2] * nz
                scale = side / max(math.sqrt(wx * wx + wy * wy + wz * wz), 1e-12)
                depth[row, col], index[row, col] = t, p
                normal[row, col, 0], normal[row, col, 1], normal[row, col, 2] = wx * scale, wy * scale, wz * scale


def trace(
    scene: Scene, c2w: np.ndarray, K: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One ray per sample of one camera.

    Args:
        scene: what is seen.
        c2w: camera-to-world, OpenCV axes [4,4] float64.
        K: intrinsics in samples [3,3] float64.
        height: rows of samples.
        width: columns of samples.

    Returns:
        depth: camera z [H,W], 1e30 on a miss.
        index: which primitive [H,W], -1 on a miss.
        normal: unit, world, towards the camera [H,W,3]; 0 on a miss.
    """
    depth = np.full((height, width), FAR)
    index = np.full((height, width), -1, dtype=np.int64)
    normal = np.zeros((height, width, 3))
    _trace_view(scene, c2w, K, depth, index, normal)
    return depth, index, normal


@njit(cache=True, nogil=True)
def _openness(p: int, point: np.ndarray, normal: np.ndarray, scene: Scene) -> float:
    """The share of the light that the primitives other than p leave to a point, each taken as an ellipsoid.

    An ellipsoid is seen at the cosine of the angle between the normal and its centre, and fills 1 / d^2 of the sky,
    where d is the distance in its own radii, at least 1.
    """
    share = 1.0
    for q in range(len(scene.to_world)):
        if q == p:
            continue
        length, facing, gap = 0.0, 0.0, 0.0
        for i in range(3):
            towards = scene.to_world[q, i, 3] - point[i]
            length += towards * towards
            facing += towards * normal[i]
            local = scene.to_local[q, i, 3]
            for j in range(3):
                local += scene.to_local[q, i, j] * point[j]
            gap += local * local
        if facing > 0.0:
            share *= 1.0 - _OCCLUSION * facing / math.sqrt(length) / max(1.0, gap)
    return share


@njit(cache=True, nogil=True)
def _resolve(
    samples: tuple[np.ndarray, np.ndarray, np.ndarray], scene: Scene, c2w: np.ndarray, K: np.ndarray, factor: int,
    image: np.ndarray, alpha: np.ndarray, mean_depth: np.ndarray,
) -> None:  # fmt: skip
    depth, index, normal = samples
    share = 1.0 / (factor * factor)
    point, ray = np.zeros(3), np.ones(3)
    for row in range(depth.shape[0]):
        ray[1] = (row + 0.5 - K[1, 2]) / K[1, 1]
        for col in range(depth.shape[1]):
            p = index[row, col]
            if p < 0:
                continue
            ray[0] = (col + 0.5 - K[0, 2]) / K[0, 0]
            for i in range(3):
                point[i] = c2w[i, 3]
                for j in range(3):
                    point[i] += c2w[i, j] * ray[j] * depth[row, col]
            y, x = row // factor, col // factor
            light = _light(normal[row, col]) * _openness(p, point, normal[row, col], scene)
            second = second_share(scene.pattern[p], scene.frame[p], point[0], point[1], point[2])
            alpha[y, x] += share
            mean_depth[y, x] += share * depth[row, col]
            for c in range(3):
                colour = (1.0 - second) * scene.colour[p, 0, c] + second * scene.colour[p, 1, c]
                image[c, y, x] += share * min(1.0, colour * light)
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            if alpha[y, x] > 0.0:
                mean_depth[y, x] /= alpha[y, x]


@njit(cache=True, nogil=True)
def _light(n: np.ndarray) -> float:
    """The light that a surface of a unit normal gets: ambient, from the sky, and from the sun."""
    sun = 0.5 + 0.5 * (n[0] * _LIGHT[0] + n[1] * _LIGHT[1] + n[2] * _LIGHT[2])
    return _AMBIENT + _SKY * (0.5 + 0.5 * n[2]) + _SUN * sun * sun


def shade(
    scene: Scene, c2w: np.ndarray, K: np.ndarray, height: int, width: int, supersample: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anti-aliased pictures on black.

    Args:
        scene: what is seen.
        c2w: camera-to-world, OpenCV axes [B,4,4] float64.
        K: intrinsics in pixels [B,3,3] float64.
        height: pixels.
        width: pixels.
        supersample: samples per pixel along each axis.

    Returns:
        image: colour times alpha [B,3,H,W] float32.
        alpha: the share of a pixel's samples that hit [B,H,W] float32.
        depth: mean camera z of the samples that hit, 0 where none did [B,H,W] float32.
    """
    image = np.zeros((len(c2w), 3, height, width), dtype=np.float32)
    alpha = np.zeros((len(c2w), height, width), dtype=np.float32)
    depth = np.zeros((len(c2w), height, width), dtype=np.float32)
    fine = K * np.array([[supersample], [supersample], [1.0]])
    for b in range(len(c2w)):
        samples = trace(scene, c2w[b], fine[b], height * supersample, width * supersample)
        _resolve(samples, scene, c2w[b], fine[b], supersample, image[b], alpha[b], depth[b])
    return image, alpha, depth
