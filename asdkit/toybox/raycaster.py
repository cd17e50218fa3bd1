"""Exact analytic ray casting of small scenes made of solid primitives, in numba.

Every primitive lives in a canonical local frame and is placed by an affine map. Rays are mapped into that frame without
normalising their direction, so the ray parameter t is the same in both; camera rays have unit camera z, so t is the
depth. Primitives are drawn one by one into a depth buffer, each inside the screen rectangle of its bounding box.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

ELLIPSOID, FRUSTUM, BOX, PYRAMID, PRISM, TORUS = range(6)

Colour = tuple[float, float, float]
Maps = tuple[np.ndarray, np.ndarray, np.ndarray]
Hit = tuple[float, float, float, float]  # t along the ray (1e30: none) and a normal that is not unit
_NEAR, _FAR = 1e-3, 1e30
_TORUS_STEPS, _TORUS_TOLERANCE = 96, 1e-5

# Half-spaces (nx, ny, nz, h): n . p <= h. Rows 0-5 box, 6-10 pyramid, 11-15 prism (its ridge runs along x).
_PLANES = np.array(
    [
        *[(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)],
        *[(2, 0, 1, 1), (-2, 0, 1, 1), (0, 2, 1, 1), (0, -2, 1, 1), (0, 0, -1, 1)],
        *[(1, 0, 0, 1), (-1, 0, 0, 1), (0, 2, 1, 1), (0, -2, 1, 1), (0, 0, -1, 1)],
    ],
    dtype=np.float64,
)
_FACES = (0, 6, 11, 16)  # where those of a box, a pyramid and a prism begin and end


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


class Scene(NamedTuple):
    """P primitives packed for the kernel: shape [P], colour [P,3], both maps [P,3,4]; the rest [P]."""

    shape: np.ndarray
    colour: np.ndarray
    to_world: np.ndarray
    to_local: np.ndarray
    param: np.ndarray
    open_top: np.ndarray
    textured: np.ndarray


def place(
    shape: int,
    colour: Colour,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
    param: float = 1.0,
    open_top: bool = False,
) -> Primitive:
    """A primitive scaled by `half` along its own axes, turned by degrees about the world's x, then y, then z axis
    (counter-clockwise), and moved to `centre`.
    """
    cx, cy, cz = (math.cos(math.radians(angle)) for angle in turn)
    sx, sy, sz = (math.sin(math.radians(angle)) for angle in turn)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix = np.empty((3, 4))
    matrix[:, :3] = about_z @ about_y @ about_x * np.asarray(half)
    matrix[:, 3] = centre
    return Primitive(shape, colour, matrix, param, open_top)


def pack(primitives: list[Primitive]) -> Scene:
    """The arrays the kernel reads."""
    shape, colour, to_world, param, open_top, textured = map(np.array, zip(*primitives, strict=True))
    inverse = np.linalg.inv(to_world[:, :, :3])
    to_local = np.ascontiguousarray(np.concatenate([inverse, -inverse @ to_world[:, :, 3:]], axis=2))
    return Scene(shape, colour.astype(float), to_world, to_local, param.astype(float), open_top, textured)


@njit(cache=True, nogil=True)
def _ellipsoid(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    if disc <= 0.0:
        return _FAR, 0.0, 0.0, 1.0
    t = (-b - math.sqrt(disc)) / a
    return t, ox + t * dx, oy + t * dy, oz + t * dz


@njit(cache=True, nogil=True)
def _frustum(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, top: float, open_top: bool) -> Hit:
    mid, slope = 0.5 * (1.0 + top), 0.5 * (top - 1.0)
    best, nx, ny, nz = _FAR, 0.0, 0.0, 1.0
    r0, dr = mid + slope * oz, slope * dz
    a = dx * dx + dy * dy - dr * dr
    b = ox * dx + oy * dy - r0 * dr
    disc = b * b - a * (ox * ox + oy * oy - r0 * r0)
    if disc > 0.0 and abs(a) > 1e-12:
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            z = oz + t * dz
            if _NEAR < t < best and -1.0 <= z <= 1.0:
                best, nx, ny, nz = t, ox + t * dx, oy + t * dy, -slope * (mid + slope * z)
    if abs(dz) > 1e-12:
        for end in (-1.0, 1.0):
            t = (end - oz) / dz
            x, y = ox + t * dx, oy + t * dy
            radius = 1.0 if end < 0.0 else top
            if _NEAR < t < best and x * x + y * y <= radius * radius and not (open_top and end > 0.0):
                best, nx, ny, nz = t, 0.0, 0.0, end
    return best, nx, ny, nz


@njit(cache=True, nogil=True)
def _convex(first: int, last: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    enter, leave, face = -_FAR, _FAR, -1
    for i in range(first, last):
        speed = _PLANES[i, 0] * dx + _PLANES[i, 1] * dy + _PLANES[i, 2] * dz
        gap = _PLANES[i, 3] - (_PLANES[i, 0] * ox + _PLANES[i, 1] * oy + _PLANES[i, 2] * oz)
        if abs(speed) < 1e-12:
            if gap < 0.0:
                return _FAR, 0.0, 0.0, 1.0
        elif speed < 0.0:
            if gap / speed > enter:
                enter, face = gap / speed, i
        else:
            leave = min(leave, gap / speed)
    if face < 0 or enter >= leave:
        return _FAR, 0.0, 0.0, 1.0
    return enter, _PLANES[face, 0], _PLANES[face, 1], _PLANES[face, 2]


@njit(cache=True, nogil=True)
def _torus(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, tube: float) -> Hit:
    enter, leave = _NEAR, _FAR
    reach = 1.0 + tube
    for o, d, half in ((ox, dx, reach), (oy, dy, reach), (oz, dz, tube)):
        if abs(d) < 1e-12:
            if abs(o) > half:
                return _FAR, 0.0, 0.0, 1.0
        else:
            t0, t1 = (-half - o) / d, (half - o) / d
            enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
    per_unit = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    t = enter
    for _ in range(_TORUS_STEPS):
        if t > leave:
            break
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        rho = max(math.sqrt(x * x + y * y), 1e-9)
        gap = math.sqrt((rho - 1.0) ** 2 + z * z) - tube
        if gap < _TORUS_TOLERANCE:
            pull = 1.0 - 1.0 / rho
            return t, x * pull, y * pull, z
        t += gap * per_unit
    return _FAR, 0.0, 0.0, 1.0


@njit(cache=True, nogil=True)
def intersect(
    shape: int, param: float, open_top: bool, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> Hit:
    """First hit of a local ray with a canonical primitive: (t, nx, ny, nz), t = 1e30 on a miss; n is not unit."""
    if shape == ELLIPSOID:
        return _ellipsoid(ox, oy, oz, dx, dy, dz)
    if shape == FRUSTUM:
        return _frustum(ox, oy, oz, dx, dy, dz, param, open_top)
    if shape == TORUS:
        return _torus(ox, oy, oz, dx, dy, dz, param)
    return _convex(_FACES[shape - BOX], _FACES[shape - BOX + 1], ox, oy, oz, dx, dy, dz)


@njit(cache=True, nogil=True)
def _rectangle(
    matrix: np.ndarray, shape: int, param: float, c2w: np.ndarray, K: np.ndarray, height: int, width: int
) -> tuple[int, int, int, int]:
    """Sample bounds (x0, x1, y0, y1; ends excluded) of a primitive's bounding box on a screen of height x width."""
    half_xy = 1.0 + param if shape == TORUS else (max(1.0, param) if shape == FRUSTUM else 1.0)
    half_z = param if shape == TORUS else 1.0
    x0, x1, y0, y1 = _FAR, -_FAR, _FAR, -_FAR
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
                if t <= _NEAR or t >= depth[row, col]:
                    continue
                side = -1.0 if nx * dx + ny * dy + nz * dz > 0.0 else 1.0
                wx = W[0, 0] * nx + W[1, 0] * ny + W[2, 0] * nz
                wy = W[0, 1] * nx + W[1, 1] * ny + W[2, 1] * nz
                wz = W[0, 2] * nx + W[1, 2] * ny + W[2, 2] * nz
                scale = side / max(math.sqrt(wx * wx + wy * wy + wz * wz), 1e-12)
                depth[row, col], index[row, col] = t, p
                normal[row, col, 0], normal[row, col, 1], normal[row, col, 2] = wx * scale, wy * scale, wz * scale


def trace(scene: Scene, c2w: np.ndarray, K: np.ndarray, height: int, width: int) -> Maps:
    """The camera z [H,W], 1e30 on a miss; the primitive's index [H,W], -1 on a miss; and the unit normal in world axes,
    towards the camera [H,W,3], 0 on a miss, of one ray per sample. The camera is `c2w` [4,4] (OpenCV) and `K` [3,3].
    """
    depth = np.full((height, width), _FAR)
    index = np.full((height, width), -1, dtype=np.int64)
    normal = np.zeros((height, width, 3))
    _trace_view(scene, c2w, K, depth, index, normal)
    return depth, index, normal
