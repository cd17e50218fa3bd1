"""Gaussians as a density in space."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from asdkit.formats.splats import Splats, activate
from asdkit.rendering.projection import ALPHA_MAX, SH_0, rotation_matrices, visible_extent
from asdkit.rendering.rays import Volume
from asdkit.rendering.torch_backend import repeated

_CELLS = 32  # along each axis of the cube, in which Gaussians are looked up


class _Blobs(NamedTuple):
    """N Gaussians as densities peak * exp(-m^2 / 2), m the Mahalanobis distance, where m is at most `reach`."""

    means: Float[Tensor, "N 3"]  # centres in world units
    whiten: Float[Tensor, "N 3 3"]  # matrices that make the distance from the centre a Mahalanobis distance
    peak: Float[Tensor, " N"]  # density at the centre, per world unit
    reach: Float[Tensor, " N"]  # in standard deviations
    extent: Float[Tensor, "N 3"]  # half sizes of the box around it, in world units
    colours: Float[Tensor, "N 3"]  # at least 0

    def some(self, chosen: Bool[Tensor, " N"] | Int64[Tensor, " M"]) -> "_Blobs":
        return _Blobs(*(values[chosen] for values in self))


def volume_of(splats: Splats) -> Volume:
    """The density whose optical depth along a ray through the centre of a Gaussian of opacity o is -log(1 - o).

    This is exact for round Gaussians; others get the peak of the round one of the same volume. Colours are means
    weighted by density, those that don't depend on the direction of view, and black where there is nothing. Like on a
    screen, a Gaussian ends where its opacity falls to 1/255. Beyond the cube, which leaves out what is far from most of
    the mass, the density is 0.
    """
    means, quats, scales, opacities, sh = activate(splats)
    opacities = opacities.clamp(max=ALPHA_MAX)
    rotations, mean_scale = rotation_matrices(quats), splats.log_scales.mean(1).exp()
    depth = -torch.log1p(-opacities)
    reach = visible_extent(opacities)
    blobs = _Blobs(
        means, rotations.mT / scales[:, :, None], depth / (math.sqrt(2 * math.pi) * mean_scale), reach,
        reach[:, None] * (rotations * scales[:, None]).norm(dim=2), (0.5 + SH_0 * sh[:, 0]).clamp(min=0),
    )  # fmt: skip
    furthest = (means.abs() + blobs.extent).amax(1)
    half = _half(furthest[reach > 0], (depth * mean_scale**2)[reach > 0])
    blobs = blobs.some((reach > 0) & (furthest <= half))
    members, starts = _cells(blobs, half)
    return Volume(half, lambda points: _radiance(points, blobs, half, members, starts))


def _half(furthest: Float[Tensor, " N"], mass: Float[Tensor, " N"]) -> float:
    """The cube that holds everything but what reaches further than twice the cube of nine tenths of the mass."""
    if not len(furthest):
        return 1.0
    ordered, order = furthest.sort()
    most = ordered[int((mass[order].cumsum(0) / mass.sum() < 0.9).sum())]
    return float(ordered[ordered <= 2 * most][-1])


def _cells(blobs: _Blobs, half: float) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " S"]]:
    """The Gaussians of each cell, one cell after the other, and where each cell's begin."""
    low, high = (_cell(blobs.means + sign * blobs.extent, half) for sign in (-1, 1))
    span = high - low + 1
    member, step = repeated(span.prod(1))
    _, y, z = span[member].unbind(1)
    cell = _flat(low[member] + torch.stack([step // (y * z), step // z % y, step % z], dim=1))
    order = cell.argsort(stable=True)
    return member[order], torch.searchsorted(cell[order], torch.arange(_CELLS**3 + 1))


def _cell(points: Float[Tensor, "N 3"], half: float) -> Int64[Tensor, "N 3"]:
    return ((points / half * 0.5 + 0.5) * _CELLS).long().clamp(0, _CELLS - 1)


def _flat(cell: Int64[Tensor, "N 3"]) -> Int64[Tensor, " N"]:
    return (cell[:, 0] * _CELLS + cell[:, 1]) * _CELLS + cell[:, 2]


@torch.no_grad()
def _radiance(
    points: Float[Tensor, "N 3"], blobs: _Blobs, half: float, members: Int64[Tensor, " M"], starts: Int64[Tensor, " S"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    device, points = points.device, points.detach().cpu().float()
    density, colour = torch.zeros(len(points)), torch.zeros(len(points), 3)
    cells, order = _flat(_cell(points, half)).sort(stable=True)
    cells, counts = cells.unique_consecutive(return_counts=True)
    for cell, chosen in zip(cells.tolist(), order.split(counts.tolist()), strict=True):
        inside = members[starts[cell] : starts[cell + 1]]
        if len(inside):
            near = blobs.some(inside)
            shift = (near.whiten @ near.means[:, :, None]).flatten()
            away = (points[chosen] @ near.whiten.flatten(0, 1).T - shift).unflatten(1, (-1, 3))
            squared = away.square().sum(2)
            each = (near.peak * torch.exp(-squared / 2)).where(squared <= near.reach**2, 0)
            density[chosen], colour[chosen] = each.sum(1), each @ near.colours
    colour = (colour / density.clamp(min=1e-20)[:, None]).clamp(max=1)
    density[points.abs().amax(1) > half] = 0
    return density.to(device), colour.to(device)
