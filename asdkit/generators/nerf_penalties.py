"""What a radiance field is held to beside its guidance: one number for each ray."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import NonNegative, settings
from asdkit.core.ramps import Ramp, value_at
from asdkit.rendering.rays import Marched, Rays

Density = Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]]
_VISIBLE = 1e-3  # weight below which a sample's slope is not looked at
_EPSILON = 1e-4


@settings
class NeRFPenalties:
    """The weights of terms that are added to the loss of a NeRF. All of them may move with the iterations.

    The terms are summed over the rays of an image, as Eq. 7's residual is summed over its latents. So weights keep
    their meaning at other sizes.

    Args:
        opacity: the weight of opacity; raise it against fog.
        entropy: the weight of the binary entropy of opacity; raise it where the object is half transparent.
        z_variance: the weight of the variance of depth along a ray (HiFA); raise it for thin surfaces.
        orientation: the weight of surfaces that face away from the camera (Ref-NeRF). It costs six more evaluations of
            the field for each visible sample.
    """

    opacity: NonNegative | Ramp = 0.06
    entropy: NonNegative | Ramp = 0.0
    z_variance: NonNegative | Ramp = 0.0
    orientation: NonNegative | Ramp = 0.0

    def total(self, iteration: int, marched: Marched, rays: Rays, density: Density, step: float) -> Tensor | int:
        """The weighted sum of the terms over all rays at an iteration; the others are `orientation`'s arguments."""
        terms: dict[str, Callable[[], Float[Tensor, " R"]]] = {
            "opacity": lambda: opacity(marched),
            "entropy": lambda: entropy(marched),
            "z_variance": lambda: z_variance(marched),
            "orientation": lambda: orientation(marched, rays, density, step),
        }
        weights = {name: value_at(getattr(self, name), iteration) for name in terms}
        return sum(weight * terms[name]().sum() for name, weight in weights.items() if weight)


def opacity(marched: Marched) -> Float[Tensor, " R"]:
    """The opacity itself, against fog that fills the box."""
    return _inside(marched.alpha)


def entropy(marched: Marched) -> Float[Tensor, " R"]:
    """The binary entropy of the opacity in nats, against what is neither there nor not."""
    alpha = _inside(marched.alpha)
    return -(alpha * alpha.log() + (1 - alpha) * (-alpha).log1p())


def z_variance(marched: Marched) -> Float[Tensor, " R"]:
    """The variance of depth along the ray (HiFA, arXiv 2305.18766, Eq. 13), for thin surfaces."""
    alpha = _inside(marched.alpha)
    mean = (marched.depth / alpha)[:, None]
    return (marched.weights * (marched.z - mean).square()).sum(1) / alpha


def orientation(marched: Marched, rays: Rays, density: Density, step: float) -> Float[Tensor, " R"]:
    """Weight of what faces away: sum of w max(0, n d)^2 (Ref-NeRF, arXiv 2112.03907, Eq. 11; d leads into the scene).

    The slope of the density is taken over twice the `step`, in world units.
    """
    visible = marched.weights > _VISIBLE
    points = (rays.origins[:, None] + marched.z[..., None] * rays.directions[:, None])[visible]
    directions = torch.nn.functional.normalize(rays.directions, dim=1)[:, None].expand(*visible.shape, 3)[visible]
    facing = (normals(density, points, step) * directions).sum(1).clamp(min=0).square()
    return (marched.weights * torch.zeros_like(marched.weights).masked_scatter(visible, facing)).sum(1)


def normals(density: Density, points: Float[Tensor, "N 3"], step: float) -> Float[Tensor, "N 3"]:
    """Unit vectors down the slope of the density, by central differences; 0 where there is none."""
    offsets = step * torch.eye(3, device=points.device, dtype=points.dtype)
    ahead, behind = (density((points[:, None] + side * offsets).reshape(-1, 3)).view(-1, 3) for side in (1, -1))
    return torch.nn.functional.normalize(behind - ahead, dim=1)


def _inside(alpha: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    return alpha.clamp(_EPSILON, 1 - _EPSILON)
