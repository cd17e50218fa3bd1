"""Perspective projection of Gaussians (EWA splatting) and spherical-harmonic colours, with gsplat's conventions."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional as F

SH_0 = 0.28209479177387814  # the spherical harmonic of degree 0: colour = 0.5 + SH_0 * coefficient
ALPHA_MIN = 1 / 255  # a Gaussian is not drawn on a pixel where its alpha is lower
ALPHA_MAX = 0.999  # alpha is clamped here; gsplat from 1.6 on clamps at 0.99
TRANSMITTANCE_MIN = 1e-4  # a pixel is finished before the Gaussian that would let less light than this through
BLUR = 0.3  # squared pixels added to each variance on the screen (gsplat's eps2d)
NEAR = 0.01  # world units; Gaussians nearer to the camera plane are not drawn
EXTENT_MAX = 3.33  # standard deviations that a footprint covers at most
TANGENT_MARGIN = 0.3  # the projection is linearised within 1 + this times the field of view
RADIUS_LIMIT = 2.0**30  # pixels; keeps the integer radii in range


Pairs = Float[Tensor, " M"]  # of a Gaussian and a pixel
Numbers = Float[Any, "*batch"]  # of torch or numpy
Pixels = Float[Tensor, "B N 2"]  # of Gaussians on screens
# Features and depth blended on the background, alpha, screen positions and radii.
Drawn = tuple[Float[Tensor, "B H W F"], Float[Tensor, "B H W 1"], Pixels, Int32[Tensor, "B N 2"]]


class Scene(NamedTuple):
    """N Gaussians and the B cameras that see them."""

    means: Float[Tensor, "N 3"]  # centres in world units
    quats: Float[Tensor, "N 4"]  # rotations wxyz of any norm but zero
    scales: Float[Tensor, "N 3"]  # standard deviations in world units, > 0
    opacities: Float[Tensor, " N"]  # in (0,1)
    w2c: Float[Tensor, "B 4 4"]  # world-to-camera, OpenCV axes
    K: Float[Tensor, "B 3 3"]  # intrinsics in pixels
    width: int  # of the screens, in pixels
    height: int  # of the screens, in pixels


class Projection(NamedTuple):
    """Gaussians on the screens of B cameras."""

    means2d: Float[Tensor, "B N 2"]  # centres in pixels, x right and y down
    shapes: Float[Tensor, "B N S"]  # inverse 2D covariance (xx, xy, yy) in 1/pixel^2; see there for surfels'
    depths: Float[Tensor, "B N"]  # camera z in world units
    opacities: Float[Tensor, "B N"]  # in [0,1], compensated for the blur when antialiased
    radii: Int32[Tensor, "B N 2"]  # half sizes of the footprint's box in pixels, both 0 for what is not drawn


def rotation_matrices(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Rotation matrices of quaternions wxyz of any norm but zero."""
    return torch.stack(rotation_entries(*F.normalize(quats, dim=-1).unbind(-1)), dim=-1).unflatten(-1, (3, 3))


def rotation_entries(w: Any, x: Any, y: Any, z: Any) -> list[Any]:
    """The rotation matrix of unit quaternions, number by number and row by row, of numbers or tensors."""
    return [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip


def camera_depths(means: Float[Tensor, "N 3"], w2c: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B N"]:
    """Camera z of world points, in world units."""
    return w2c[:, 2, :3] @ means.T + w2c[:, 2, 3:]


def project(scene: Scene, antialiased: bool = False) -> Projection:
    """Projects Gaussians, differentiably but for radii; `antialiased` dims what the blur enlarges (Mip-Splatting)."""
    means, quats, scales, opacities, w2c, K, width, height = scene
    batch, count = len(w2c), len(means)
    x, y = (torch.addmm(w2c[:, i, 3:], w2c[:, i, :3], means.T) for i in range(2))
    z = camera_depths(means, w2c)
    in_front = z > NEAR
    z = z.where(in_front, torch.ones_like(z))
    focal_x, focal_y, centre_x, centre_y = (K[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    slope_x, slope_y = x / z, y / z
    means2d = torch.stack([focal_x * slope_x + centre_x, focal_y * slope_y + centre_y], dim=-1)

    # Rows of rotation * scale in camera axes, then the Jacobian of the projection: cov = u u^T is never indefinite.
    factor = (rotation_matrices(quats) * scales[:, None, :]).permute(1, 0, 2).reshape(3, count * 3)
    row_x, row_y, row_z = (w2c[:, :3, :3].reshape(batch * 3, 3) @ factor).view(batch, 3, count, 3).unbind(1)
    slope_x = _clamp_slope(slope_x, focal_x, centre_x, width)
    slope_y = _clamp_slope(slope_y, focal_y, centre_y, height)
    u_x = (focal_x / z)[..., None] * (row_x - slope_x[..., None] * row_z)
    u_y = (focal_y / z)[..., None] * (row_y - slope_y[..., None] * row_z)
    cov_xx, cov_xy, cov_yy = (u_x * u_x).sum(-1), (u_x * u_y).sum(-1), (u_y * u_y).sum(-1)

    sharp_determinant = cov_xx * cov_yy - cov_xy * cov_xy
    cov_xx, cov_yy = cov_xx + BLUR, cov_yy + BLUR
    determinant = cov_xx * cov_yy - cov_xy * cov_xy
    drawable = in_front & (determinant > 0) & determinant.isfinite()
    determinant = determinant.where(drawable, torch.ones_like(determinant))
    conics = torch.stack([cov_yy, -cov_xy, cov_xx], dim=-1) / determinant[..., None]
    if antialiased:
        opacities = opacities * (sharp_determinant / determinant).clamp(min=1e-12).sqrt()
    else:
        opacities = opacities.expand(batch, count)
    with torch.no_grad():
        deviations = torch.stack([cov_xx, cov_yy], dim=-1).sqrt()
        reach = visible_extent(opacities).clamp(max=EXTENT_MAX)[..., None] * deviations
        radii = boxes(means2d, reach, drawable, means2d.new_tensor([width, height]))
    return Projection(means2d, conics, z, opacities, radii)


def _clamp_slope(
    slope: Float[Tensor, "B N"], focal: Float[Tensor, "B 1"], centre: Float[Tensor, "B 1"], size: int
) -> Float[Tensor, "B N"]:
    """Keeps x/z (or y/z) near the field of view, where linearising the projection makes sense."""
    margin = TANGENT_MARGIN * 0.5 * size / focal
    return torch.minimum(torch.maximum(slope, -centre / focal - margin), (size - centre) / focal + margin)


def visible_extent(opacities: Float[Tensor, "*B N"]) -> Float[Tensor, "*B N"]:
    """How many standard deviations from its centre the alpha of a Gaussian is at least ALPHA_MIN."""
    return (2 * (opacities / ALPHA_MIN).clamp(min=1).log()).sqrt()


def boxes(centres: Pixels, reach: Pixels, drawable: Tensor, size: Float[Tensor, " 2"]) -> Int32[Tensor, "B N 2"]:
    """Whole half sizes in pixels of boxes that reach so far from their centres; 0 for those off the screen."""
    radii = reach.ceil().clamp(max=RADIUS_LIMIT)
    on_screen = ((centres + radii > 0) & (centres - radii < size) & (radii > 0)).all(-1)
    return radii.where((drawable & on_screen)[..., None], 0).to(torch.int32)


def footprints(means2d: Float[Tensor, "M 2"], shapes: Float[Tensor, "M 3"], x: Pairs, y: Pairs) -> Pairs:
    """The exponent sigma of each pair of a Gaussian and a pixel, whose centre is at x, y; alpha is opacity e^-sigma."""
    dx, dy = (means2d - torch.stack([x, y], dim=1)).unbind(1)
    xx, xy, yy = shapes.unbind(1)
    return 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy


def sh_polynomials(degree: int, x: Numbers, y: Numbers, z: Numbers) -> list[Numbers]:
    """The (degree+1)^2 real harmonics at directions of unit length, of numpy or torch; degree 0 to 3.

    Order and signs are those of 3DGS (Condon-Shortley phase).
    """
    basis = [SH_0 + 0 * x]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return basis


def spherical_harmonics(
    degree: int, dirs: Float[Tensor, "*batch 3"], coeffs: Float[Tensor, "*coeffs K 3"]
) -> Float[Tensor, "*out 3"]:
    """Colours seen along directions: clamp_min(sum of coefficient * basis + 0.5, 0), for degree 0 to 3.

    `dirs` lead from the camera to the Gaussian in world axes, with any norm; degree 0 doesn't look at them. Their batch
    dimensions broadcast with those of the coefficients, whose first (degree+1)^2 are used.
    """
    if degree == 0:
        return (SH_0 * coeffs[..., 0, :] + 0.5).clamp(min=0)
    basis = torch.stack(sh_polynomials(degree, *F.normalize(dirs, dim=-1).unbind(-1)), dim=-1)
    return ((basis[..., None] * coeffs[..., : (degree + 1) ** 2, :]).sum(-2) + 0.5).clamp(min=0)
