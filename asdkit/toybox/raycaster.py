"""Exact analytic ray casting of small scenes made of solid primitives.

Every primitive lives in a canonical local frame and is placed by an affine map. Rays are mapped into that frame without
normalising their direction, so the ray parameter t is the same in both; camera rays have unit camera z, so t is the
depth. Primitives are drawn one by one into a depth buffer, each inside the screen rectangle of its bounding box.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

ELLIPSOID, FRUSTUM, BOX, PYRAMID, PRISM, TORUS = range(6)

Colour = tuple[float, float, float]
Vector = Sequence[float] | np.ndarray
# What rays from o [3] in the directions d [3,N], of a primitive's local frame, hit of it.
Hits = tuple[np.ndarray, np.ndarray]  # t [N] along the rays (1e30: none) and normals [3,N] that are not unit
_NEAR, _FAR = 1e-3, 1e30
_TORUS_STEPS, _TORUS_TOLERANCE = 96, 1e-5

# Half-spaces (nx, ny, nz, h): n . p <= h. The ridge of a prism runs along x.
_PLANES = {
    BOX: np.array([(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1.0)]),
    PYRAMID: np.array([(2, 0, 1, 1), (-2, 0, 1, 1), (0, 2, 1, 1), (0, -2, 1, 1), (0, 0, -1, 1.0)]),
    PRISM: np.array([(1, 0, 0, 1), (-1, 0, 0, 1), (0, 2, 1, 1), (0, -2, 1, 1), (0, 0, -1, 1.0)]),
}
_CORNERS = np.array([*product((-1.0, 1.0), repeat=3)])  # of a box


class Primitive(NamedTuple):
    """One solid of one colour.

    Its shape is ELLIPSOID (unit sphere), FRUSTUM (z in [-1,1], radius 1 at the bottom and `param` at the top), BOX
    ([-1,1]^3), PYRAMID (base [-1,1]^2 at z=-1, apex at z=1), PRISM (gable roof, ridge along x at z=1) or TORUS (in the
    plane z=0, radius 1, tube radius `param`).
    """

    shape: int
    colour: Colour  # diffuse, in [0,1]
    matrix: np.ndarray  # local to world [3,4]
    param: float = 1.0
    open_top: bool = False  # a frustum without its upper lid; its side is then seen from within too
    textured: bool = False  # whether the object's material paints it


def place(
    shape: int, colour: Colour, centre: Vector, half: Vector, turn: Vector = (0.0, 0.0, 0.0), **more: Any
) -> Primitive:
    """A primitive scaled by `half`, turned by degrees about the world's x, then y, then z axis, and put at `centre`."""
    cx, cy, cz = (math.cos(math.radians(angle)) for angle in turn)
    sx, sy, sz = (math.sin(math.radians(angle)) for angle in turn)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return Primitive(shape, colour, np.column_stack([about_z @ about_y @ about_x * half, centre]), **more)


def _ellipsoid(_: Primitive, o: np.ndarray, d: np.ndarray) -> Hits:
    a, b = (d * d).sum(0), o @ d
    disc = b * b - a * (o @ o - 1.0)
    t = np.where(disc > 0.0, (-b - np.sqrt(np.abs(disc))) / a, _FAR)
    return t, o[:, None] + t * d


def _frustum(primitive: Primitive, o: np.ndarray, d: np.ndarray) -> Hits:
    (ox, oy, oz), (dx, dy, dz), top = o, d, primitive.param
    mid, slope = 0.5 * (1.0 + top), 0.5 * (top - 1.0)
    r0, dr = mid + slope * oz, slope * dz
    a, b = dx * dx + dy * dy - dr * dr, ox * dx + oy * dy - r0 * dr
    root = np.sqrt(b * b - a * (ox * ox + oy * oy - r0 * r0))  # NaN beside the endless cone, which is no hit
    best, normals = np.full(len(a), _FAR), np.zeros_like(d)
    for t in ((-b - root) / a, (-b + root) / a):
        x, y, z = o[:, None] + t * d
        nearer = (t > _NEAR) & (t < best) & (np.abs(z) <= 1.0)
        best, normals = np.where(nearer, t, best), np.where(nearer, [x, y, -slope * (mid + slope * z)], normals)
    for end, radius in ((-1.0, 1.0),) if primitive.open_top else ((-1.0, 1.0), (1.0, top)):
        t = (end - oz) / dz
        nearer = (t > _NEAR) & (t < best) & (np.hypot(ox + t * dx, oy + t * dy) <= radius)
        best, normals = np.where(nearer, t, best), np.where(nearer, [[0.0], [0.0], [end]], normals)
    return best, normals


def _convex(primitive: Primitive, o: np.ndarray, d: np.ndarray) -> Hits:
    planes = _PLANES[primitive.shape]
    speed, gap = planes[:, :3] @ d, (planes[:, 3] - planes[:, :3] @ o)[:, None]
    t = gap / speed
    enter, leave = np.where(speed < 0.0, t, -_FAR), np.where(speed > 0.0, t, _FAR)
    beside = ((speed == 0.0) & (gap < 0.0)).any(0)
    hit = (enter.max(0) < leave.min(0)) & ~beside
    return np.where(hit, enter.max(0), _FAR), planes[enter.argmax(0), :3].T


def _torus(primitive: Primitive, o: np.ndarray, d: np.ndarray) -> Hits:
    """By sphere tracing within the box around it."""
    tube = primitive.param
    half = np.array([[1.0 + tube], [1.0 + tube], [tube]])
    ends = np.stack([-half - o[:, None], half - o[:, None]]) / d
    t, leave = np.maximum(ends.min(0).max(0), _NEAR), ends.max(0).min(0)
    per_unit = 1.0 / np.linalg.norm(d, axis=0)
    rays = np.flatnonzero(t <= leave)  # those that are on their way
    for _ in range(_TORUS_STEPS):
        x, y, z = o[:, None] + t[rays] * d[:, rays]
        gap = np.hypot(np.hypot(x, y) - 1.0, z) - tube
        rays, gap = rays[gap >= _TORUS_TOLERANCE], gap[gap >= _TORUS_TOLERANCE]
        t[rays] += gap * per_unit[rays]
        rays = rays[t[rays] <= leave[rays]]
    t[rays] = _FAR
    points = o[:, None] + t * d
    points[:2] *= 1.0 - 1.0 / np.maximum(np.hypot(points[0], points[1]), 1e-9)
    return np.where(t <= leave, t, _FAR), points


_HITS = {ELLIPSOID: _ellipsoid, FRUSTUM: _frustum, TORUS: _torus}  # the others are convex, with flat faces


def _rectangle(primitive: Primitive, c2w: np.ndarray, K: np.ndarray, height: int, width: int) -> list[int]:
    """Sample bounds (left, top, right, bottom; ends excluded) of a primitive's bounding box on the screen."""
    shape, matrix, param = primitive.shape, primitive.matrix, primitive.param
    reach = {TORUS: 1.0 + param, FRUSTUM: max(1.0, param)}.get(shape, 1.0)
    corners = _CORNERS * [reach, reach, param if shape == TORUS else 1.0] @ matrix[:, :3].T + matrix[:, 3]
    places = (corners - c2w[:3, 3]) @ c2w[:3, :3] @ K.T
    if places[:, 2].min() < 0.01:
        return [0, 0, width, height]
    pixels = np.floor(places[:, :2] / places[:, 2:])
    return [int(bound) for bound in np.concatenate([pixels.min(0), pixels.max(0) + 1]).clip(0, [width, height] * 2)]


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def trace(
    primitives: list[Primitive], c2w: np.ndarray, K: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The camera z [H,W], 1e30 on a miss; the primitive's index [H,W], -1 on a miss; and the unit normal in world axes,
    towards the camera [H,W,3], 0 on a miss, of one ray per sample. The camera is `c2w` [4,4] (OpenCV) and `K` [3,3].
    """
    depth = np.full((height, width), _FAR)
    index = np.full((height, width), -1, dtype=np.int64)
    normal = np.zeros((height, width, 3))
    for number, primitive in enumerate(primitives):
        left, top, right, bottom = _rectangle(primitive, c2w, K, height, width)
        u, v = (np.arange(left, right) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(top, bottom) + 0.5 - K[1, 2]) / K[1, 1]
        x, y = (each.ravel() for each in np.meshgrid(u, v))
        to_local = np.linalg.inv(primitive.matrix[:, :3])
        o = to_local @ (c2w[:3, 3] - primitive.matrix[:, 3])
        d = to_local @ c2w[:3, :3] @ np.stack([x, y, np.ones_like(x)])
        t, normals = _HITS.get(primitive.shape, _convex)(primitive, o, d)
        window = np.s_[top:bottom, left:right]
        nearer = (t > _NEAR) & (t < depth[window].ravel())
        outward = to_local.T @ np.where((normals * d).sum(0) > 0.0, -normals, normals)[:, nearer]
        hit = nearer.reshape(depth[window].shape)
        depth[window][hit], index[window][hit] = t[nearer], number
        normal[window][hit] = (outward / np.maximum(np.linalg.norm(outward, axis=0), 1e-12)).T
    return depth, index, normal
