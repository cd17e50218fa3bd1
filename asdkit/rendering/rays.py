"""Volume rendering: rays, samples along them, and the sum of what they see (NeRF's quadrature)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.rendering.cameras import Views

RaySamples = Float[Tensor, "R S"]  # something for each of S samples along R rays
# Of points, the density (per world unit, at least 0) and the colour.
Radiance = Callable[[Float[Tensor, "N 3"]], tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]]


class Rays(NamedTuple):
    """R rays in world units; a direction has camera z 1, so that the distance along a ray is the depth."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    near: Float[Tensor, " R"]  # where the ray enters the box, in units of its direction
    far: Float[Tensor, " R"]  # where it leaves; at most `near` for a ray that misses


class Marched(NamedTuple):
    """What R rays have met at S samples each."""

    colour: Float[Tensor, "R 3"]  # on black
    alpha: Float[Tensor, " R"]  # opacity in [0,1]
    depth: Float[Tensor, " R"]  # sum of weight times distance
    weights: RaySamples  # share of each sample in its ray
    z: RaySamples  # distance of each sample along its ray


def rays_of(views: Views, half: float) -> Rays:
    """A ray through the centre of every pixel of every camera, row by row, cut to the box [-half, half]^3."""
    directions = views.directions()
    origins = views.c2w[:, None, :3, 3].expand_as(directions)
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    sloping = torch.where(directions == 0, torch.full_like(directions, 1e-12), directions)
    slabs = torch.stack([(side * half - origins) / sloping for side in (-1, 1)])
    near, far = slabs.amin(0).amax(1).clamp(min=0), slabs.amax(0).amin(1)
    return Rays(origins, directions, near, far)


def stratified(rays: Rays, count: int, jitter: RaySamples | float = 0.5) -> RaySamples:
    """RaySamples: one in each of `count` equal parts of [near, far], at a share `jitter` of the part."""
    shares = (torch.arange(count, device=rays.near.device) + jitter) / count
    return rays.near[:, None] + (rays.far - rays.near)[:, None] * shares


def refined(rays: Rays, z: RaySamples, weights: RaySamples, count: int, jitter: Tensor | float = 0.5) -> Tensor:
    """Importance samples: `count` more where the weights are, all S + `count` of them in order."""
    # Each of the S equal parts of the ray is drawn from in proportion to its weight, plus a small share for all alike.
    share = weights.detach() + 1e-3
    cdf = torch.cumsum(share / share.sum(1, keepdim=True), dim=1)
    u = ((torch.arange(count, device=z.device) + jitter) / count).expand(len(z), count).contiguous()
    part = torch.searchsorted(cdf, u).clamp(max=z.shape[1] - 1)
    before = torch.cat([torch.zeros_like(cdf[:, :1]), cdf[:, :-1]], dim=1).gather(1, part)
    inside = ((u - before) / (cdf.gather(1, part) - before)).clamp(0, 1)
    width = (rays.far - rays.near)[:, None] / z.shape[1]
    return torch.cat([z, rays.near[:, None] + (part + inside) * width], dim=1).sort(dim=1).values


def march(radiance: Radiance, rays: Rays, z: RaySamples, occupied: Callable[[Tensor], Tensor] | None = None) -> Marched:
    """NeRF's quadrature: alpha_i = 1 - exp(-sigma_i delta_i), weight_i = alpha_i prod_{j<i} (1 - alpha_j).

    A sample (z has them in order) stands for the part of its ray between the middles to its neighbours; the first and
    the last reach to where the ray enters and leaves the box. What is not `occupied` is not asked.
    """
    points = rays.origins[:, None] + z[..., None] * rays.directions[:, None]
    asked = (rays.far > rays.near)[:, None].expand(z.shape)
    if occupied is not None:
        asked = asked & occupied(points.reshape(-1, 3)).view(z.shape)
    sigma, colour = z.new_zeros(z.numel()), z.new_zeros(z.numel(), 3)
    places = asked.flatten().nonzero().squeeze(1)  # how many there are is what a GPU must be waited for
    if len(places):
        some_sigma, some_colour = radiance(points.flatten(0, 1).index_select(0, places))
        sigma, colour = sigma.index_copy(0, places, some_sigma), colour.index_copy(0, places, some_colour)
    sigma, colour = sigma.view(z.shape), colour.view(*z.shape, 3)
    edges = torch.cat([rays.near[:, None], (z[:, 1:] + z[:, :-1]) / 2, rays.far[:, None]], dim=1)
    optical = sigma * (edges[:, 1:] - edges[:, :-1]).clamp(min=0) * rays.directions.norm(dim=1, keepdim=True)
    before = torch.cumsum(optical, dim=1) - optical
    weights = torch.exp(-before) * -torch.expm1(-optical)
    seen = (weights[..., None] * colour).sum(1)
    return Marched(seen, -torch.expm1(-optical.sum(1)), (weights * z).sum(1), weights, z)


class Volume(NamedTuple):
    """An object as a function of space, which meshes are made from."""

    half: float  # half the side of the cube around the origin that holds it, in world units
    radiance: Radiance  # at points in world units on any device; colours in [0,1]
