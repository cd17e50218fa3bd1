"""What a radiance field is held to beside its guidance: one number for each ray."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.rendering.rays import Rays, Seen

_VISIBLE = 1e-3  # weight below which a sample's slope is not looked at
_EPSILON = 1e-4


def opacity(seen: Seen) -> Float[Tensor, " R"]:
    """The opacity itself, against fog that fills the box."""
    return _inside(seen.alpha)


def entropy(seen: Seen) -> Float[Tensor, " R"]:
    """The binary entropy of the opacity in nats, against what is neither there nor not."""
    alpha = _inside(seen.alpha)
    return -(alpha * alpha.log() + (1 - alpha) * (-alpha).log1p())


def z_variance(seen: Seen) -> Float[Tensor, " R"]:
    """The variance of depth along the ray (HiFA, arXiv 2305.18766, Eq. 13), for thin surfaces."""
    alpha = _inside(seen.alpha)
    mean = (seen.depth / alpha)[:, None]
    return (seen.weights * (seen.z - mean).square()).sum(1) / alpha


def orientation(
    seen: Seen, rays: Rays, density: Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]], step: float
) -> Float[Tensor, " R"]:
    """Weight of what faces away: sum of w max(0, n d)^2 (Ref-NeRF, arXiv 2112.03907, Eq. 11; d leads into the scene).

    Args:
        seen: what the rays have seen.
        rays: the rays.
        density: at points in world units.
        step: half the distance over which its slope is taken, in world units.
    """
    visible = seen.weights > _VISIBLE
    points = (rays.origins[:, None] + seen.z[..., None] * rays.directions[:, None])[visible]
    directions = torch.nn.functional.normalize(rays.directions, dim=1)[:, None].expand(*visible.shape, 3)[visible]
    facing = (normals(density, points, step) * directions).sum(1).clamp(min=0).square()
    return (seen.weights * torch.zeros_like(seen.weights).masked_scatter(visible, facing)).sum(1)


def normals(
    density: Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]], points: Float[Tensor, "N 3"], step: float
) -> Float[Tensor, "N 3"]:
    """Unit vectors down the slope of the density, by central differences; 0 where there is none."""
    offsets = step * torch.eye(3, device=points.device, dtype=points.dtype)
    ahead, behind = (density((points[:, None] + side * offsets).reshape(-1, 3)).view(-1, 3) for side in (1, -1))
    return torch.nn.functional.normalize(behind - ahead, dim=1)


def _inside(alpha: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    return alpha.clamp(_EPSILON, 1 - _EPSILON)
