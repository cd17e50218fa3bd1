"""Surfels: 2D Gaussians, flat discs in space (2DGS, arXiv 2403.17888), with gsplat's conventions."""

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from asdkit.rendering.projection import NEAR, Pairs, Pixels, Projection, Scene, boxes, rotation_matrices, visible_extent

Matrices = Float[Tensor, "B N 3 3"]
Numbers = Float[Tensor, "B N"]
FILTER = 2.0  # 1/pixel^2; no footprint is narrower than a Gaussian of this inverse variance


def project(scene: Scene) -> tuple[Projection, Pixels]:
    """Projects discs, in which the first two axes of a rotation lie, to the screens, differentiably but for the radii.

    The second result are zeros that were added to the screen positions, and get their gradient. `means2d` is the middle
    of the box around one standard deviation, for the filter; `shapes` holds, row by row, the matrix from (u, v, 1) to
    homogeneous pixels, u and v in standard deviations [B,N,9]. The box of `radii` holds all visible pixels.
    """
    means, quats, scales, opacities, w2c, K, width, height = scene
    bottom = means.new_tensor([0.0, 0.0, 1.0]).expand(len(means), 1, 3)
    discs = torch.cat([rotation_matrices(quats)[:, :, :2] * scales[:, None, :2], means[:, :, None]], dim=2)
    matrices = torch.einsum("bij,njk->bnik", K @ w2c[:, :3], torch.cat([discs, bottom], dim=1))
    shift = torch.zeros_like(matrices[:, :, :2, 2], requires_grad=matrices.requires_grad)
    xy_rows, w_row = matrices[:, :, :2], matrices[:, :, 2:]
    matrices = torch.cat([xy_rows + shift[..., None] * w_row, w_row], dim=2)
    depths, opacities = matrices[:, :, 2, 2], opacities.expand(len(w2c), len(means))
    centres, _ = _box(matrices, torch.ones_like(depths))
    radii = _radii(matrices, centres, opacities, means.new_tensor([width, height]))
    return Projection(centres, matrices.flatten(2), depths, opacities, radii), shift


def _box(matrices: Matrices, sigmas: Numbers) -> tuple[Pixels, Pixels]:
    """Middle and half size in pixels of the box around the outline, if it is an ellipse, at standard deviations."""
    depth, slope = matrices[:, :, 2, 2], matrices[:, :, 2, :2]  # depth = camera z, and how it changes along u and v
    depth = depth.where(depth > NEAR, torch.ones_like(depth))
    mean = matrices[:, :, :2, 2] / depth[..., None]
    axes = matrices[:, :, :2, :2] - mean[..., None] * slope[:, :, None]
    clear = depth.square() - sigmas.square() * slope.square().sum(-1)
    clear = clear.where(clear.abs() > 1e-12, torch.full_like(clear, 1e-12))
    stretch = (sigmas.square() / clear)[..., None]
    middle = -stretch * (axes * slope[:, :, None]).sum(-1)
    return mean + middle, (middle.square() + stretch * axes.square().sum(-1)).sqrt()


@torch.no_grad()
def _radii(
    matrices: Matrices, centres: Pixels, opacities: Numbers, size: Float[Tensor, " 2"]
) -> Int32[Tensor, "B N 2"]:
    """Half sizes in pixels of a box around the centre outside of which alpha is below ALPHA_MIN; 0 where nothing is."""
    extent = visible_extent(opacities)
    middle, half = _box(matrices, extent)
    reach = torch.maximum((middle - centres).abs() + half, (extent / FILTER**0.5)[..., None])
    depth, slope = matrices[:, :, 2, 2], matrices[:, :, 2, :2]
    everywhere = (centres - size / 2).abs() + size  # a disc that reaches behind the camera has no outline
    in_front = depth > extent * slope.norm(dim=-1)
    return boxes(centres, reach.where(in_front[..., None], everywhere), (extent > 0) & (depth > NEAR), size)


def footprints(means2d: Float[Tensor, "M 2"], shapes: Float[Tensor, "M 9"], x: Pairs, y: Pairs) -> Pairs:
    """The exponent of each pair of a disc and a pixel, whose centre is at x, y."""
    # The ray through the pixel's centre, in which two planes meet, hits the disc at (u, v) standard deviations.
    x_row, y_row, w_row = shapes.unflatten(1, (3, 3)).unbind(1)
    meeting = torch.linalg.cross(x[:, None] * w_row - x_row, y[:, None] * w_row - y_row)
    meets = meeting[:, 2] != 0
    u, v = (meeting[:, :2] / meeting[:, 2:].where(meets[:, None], 1)).unbind(1)
    on_disc = (u.square() + v.square()).where(meets, torch.inf)
    # A disc that looks too thin, or none at all, is a blot of the filter's size.
    centre_x, centre_y = means2d.unbind(1)
    on_screen = FILTER * ((centre_x - x).square() + (centre_y - y).square())
    return 0.5 * torch.minimum(on_disc, on_screen)
