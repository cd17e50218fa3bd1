"""A density's surface as a mesh: marching cubes at the density that looks most like the renders."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from asdkit.core.optional import require_package
from asdkit.rendering.cameras import Views
from asdkit.rendering.rays import Rays, Volume, march, rays_of, stratified

_POINTS = 1 << 18  # that a volume is asked for at a time
_LAYERS = 6  # of the skin
Alpha = Float[Tensor, "B 1 H W"]
Places = Float32[np.ndarray, "N 3"]


class Mesh(NamedTuple):
    """A closed surface of triangles."""

    vertices: Float32[np.ndarray, "V 3"]  # world units
    faces: Int64[np.ndarray, "F 3"]  # indices of vertices, counter-clockwise seen from outside
    normals: Float32[np.ndarray, "V 3"]  # unit vectors that point outwards
    colours: Float32[np.ndarray, "V 3"]  # in [0,1], as displays take them (sRGB)


def extract(volume: Volume, views: Views, alpha: Alpha, resolution: int = 128, faces: int = 0) -> Mesh:
    """The surface of a volume, at the density that gives it the silhouettes of its renders; its largest connected part.

    There are `resolution` points along each axis, and `faces` are the most that are made, 0 for no limit.
    """
    smooth = require_package("scipy.ndimage", "mesh").gaussian_filter
    density = density_grid(volume, resolution)
    # Densities have no surface, and span such a range that straight lines between grid points miss it. So the density d
    # is squeezed to d / (d + t), t the `threshold`, smoothed over a grid step, and cut at the threshold of that.
    filled = torch.from_numpy(smooth((density / (density + threshold(density, volume.half, views, alpha))).numpy(), 1))
    model = surface(filled, threshold(filled, volume.half, views, alpha), volume.half)
    if 0 < faces < len(model.faces):
        simplify = require_package("fast_simplification", "mesh").simplify
        model = _model(*simplify(model.vertices.astype(np.float32), model.faces, target_count=faces))
    vertices, normals = (np.asarray(array, np.float32) for array in (model.vertices, model.vertex_normals))
    return Mesh(vertices, np.asarray(model.faces, np.int64), normals, skin(volume, vertices, normals))


def _model(vertices: np.ndarray, faces: np.ndarray) -> Any:
    return require_package("trimesh", "mesh").Trimesh(vertices, faces, process=False)


@torch.no_grad()
def density_grid(volume: Volume, resolution: int) -> Float[Tensor, "R R R"]:
    """The density, which must be finite, at resolution^3 points of the cube, x first, from face to face."""
    axis = torch.linspace(-volume.half, volume.half, resolution)
    density = torch.cat([volume.radiance(part)[0] for part in torch.cartesian_prod(axis, axis, axis).split(_POINTS)])
    if not bool(density.isfinite().all()):
        raise ValueError("there is nothing to make a mesh of: the density is not finite everywhere.")
    return density.view(resolution, resolution, resolution)


def threshold(grid: Float[Tensor, "R R R"], half: float, views: Views, alpha: Alpha) -> float:
    """The value of a cube's grid whose silhouettes agree best with the pixels of opacity above 1/2."""
    # A pixel belongs to a silhouette if the largest value along its ray reaches the threshold. All are tried; the best
    # one has the largest intersection over union, which must not be zero.
    covered = alpha.detach().cpu().flatten() > 0.5
    peaks, order = _peaks(grid, half, views.to("cpu")).sort(descending=True)
    both = covered[order].double().cumsum(0)
    either = torch.arange(1, len(peaks) + 1) + covered.sum() - both
    following = torch.cat([peaks[1:], peaks.new_zeros(1)])
    iou = (both / either).where(peaks > following, 0)  # equal peaks are reached together
    best = int(iou.argmax())
    if iou[best] == 0:
        raise ValueError("there is nothing to make a mesh of: no camera sees anything more than half opaque.")
    return float(peaks[best] + following[best]) / 2


def _peaks(grid: Float[Tensor, "R R R"], half: float, views: Views) -> Float[Tensor, " N"]:
    """The largest value along the ray of each pixel; 0 for rays that miss the cube."""
    rays = rays_of(views, half)
    peaks, hits = torch.zeros_like(rays.near), (rays.far > rays.near).nonzero().squeeze(1)
    values = grid.permute(2, 1, 0)[None, None]  # grid_sample's last axis is x
    for part in hits.split(1 << 13):
        chosen = Rays(*(values[part] for values in rays))
        points = chosen.origins[:, None] + stratified(chosen, 2 * len(grid))[..., None] * chosen.directions[:, None]
        peaks[part] = grid_sample(values, (points / half)[None, None], align_corners=True)[0, 0, 0].amax(1)
    return peaks


def surface(grid: Float[Tensor, "R R R"], level: float, half: float) -> Any:
    """The closed surface where a cube's grid has the value `level`, as trimesh's mesh: the part of largest volume."""
    closed = torch.nn.functional.pad(grid, (1,) * 6).numpy()
    cut = require_package("skimage.measure", "mesh").marching_cubes
    vertices, faces, _, _ = cut(closed, level, gradient_direction="ascent")
    whole = _model((vertices - 1) * (2 * half / (len(grid) - 1)) - half, faces)
    return max(whole.split(only_watertight=False), key=lambda part: part.volume)  # a cavity's is negative


@torch.no_grad()
def skin(volume: Volume, points: Places, normals: Places) -> Places:
    """The colours of a volume's surface, seen straight on through a thin layer; where it is empty, the nearest's."""
    depth, colours, alphas = volume.half / 32, [], []  # the depth on both sides of the surface
    places, directions = (torch.from_numpy(array).split(_POINTS // _LAYERS) for array in (points, normals))
    for place, outwards in zip(places, directions, strict=True):
        near = torch.zeros(len(place))
        rays = Rays(place + depth * outwards, -outwards, near, near + 2 * depth)
        seen = march(volume.radiance, rays, stratified(rays, _LAYERS), lambda at: at.abs().amax(1) <= volume.half)
        colours.append((seen.colour / seen.alpha.clamp(min=1e-10)[:, None]).clamp(0, 1))
        alphas.append(seen.alpha)
    result, full = torch.cat(colours).numpy(), (torch.cat(alphas) > 1e-3).numpy()
    if full.any() and not full.all():
        nearest = require_package("scipy.spatial", "mesh").cKDTree(points[full]).query(points[~full])[1]
        result[~full] = result[full][nearest]
    return result
