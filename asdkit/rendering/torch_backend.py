"""The readable reference: alpha compositing of projected Gaussians in plain PyTorch, ordinary autograd, any device."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from asdkit.rendering.projection import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, Projection, footprints

Footprints = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # those of `projection` or of `surfels`


def composite(
    screens: Projection, features: Float[Tensor, "B N F"], width: int, height: int, footprints: Footprints = footprints
) -> tuple[Float[Tensor, "B H W F"], Float[Tensor, "B H W 1"]]:
    """Features blended front to back over nothing, and the transmittance that is left for a background."""
    # One view at a time is faster and takes half the memory.
    scenes = [Projection(*fields) for fields in zip(*screens, strict=True)]
    views = [_composite_view(*scene, width, height, footprints) for scene in zip(scenes, features, strict=True)]
    blended, transmittance = (torch.stack(parts) for parts in zip(*views, strict=True))
    return blended.unflatten(1, (height, width)), transmittance.view(len(features), height, width, 1)


def _composite_view(
    scene: Projection, features: Float[Tensor, "N F"], width: int, height: int, footprints: Footprints
) -> tuple[Float[Tensor, "P F"], Float[Tensor, " P"]]:
    """One view: every (Gaussian, pixel) pair becomes a row, sorted by pixel and then by depth."""

    def look(gaussian: Int64[Tensor, " M"], pixel: Int64[Tensor, " M"]) -> tuple[Tensor, Tensor]:
        means2d, shapes = scene.means2d.index_select(0, gaussian), scene.shapes.index_select(0, gaussian)
        sigma = footprints(means2d, shapes, pixel % width + 0.5, pixel // width + 0.5)
        return sigma, scene.opacities.index_select(0, gaussian) * (-sigma).exp()

    with torch.no_grad():
        gaussian, pixel = _pairs(scene, width, height)
        sigma, raw = look(gaussian, pixel)
        drawn = ((sigma >= 0) & (raw >= ALPHA_MIN)).nonzero().squeeze(1)
        drawn = drawn.index_select(0, pixel.index_select(0, drawn).argsort(stable=True))
        gaussian, pixel = gaussian.index_select(0, drawn), pixel.index_select(0, drawn)
        pairs_before = _exclusive_cumsum(torch.bincount(pixel, minlength=width * height)).index_select(0, pixel)
    alpha = look(gaussian, pixel)[1].clamp(max=ALPHA_MAX)

    # Transmittance is a product along each pixel's pairs: one running sum of logarithms in float64, less its value
    # at the pixel's first pair. Sums only decrease, so what is beyond the end of a pixel is a suffix of its pairs.
    absorbed = torch.log1p(-alpha.double())
    total = absorbed.cumsum(0)
    start = (total - absorbed).index_select(0, pairs_before)
    reached = (total - start).exp() > TRANSMITTANCE_MIN
    arriving = (total - absorbed - start).exp().to(alpha.dtype)
    weight = alpha * arriving * reached

    blended = features.new_zeros(width * height, features.shape[1])
    blended = blended.index_add(0, pixel, weight[:, None] * features.index_select(0, gaussian))
    return blended, absorbed.new_zeros(width * height).index_add(0, pixel, absorbed * reached).exp().to(alpha.dtype)


def _pairs(scene: Projection, width: int, height: int) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"]]:
    """All pixels of all footprint boxes: the Gaussian of each pair (front to back) and the pixel's index."""
    order = (scene.radii > 0).all(-1).nonzero().squeeze(1)
    order = order.index_select(0, scene.depths.index_select(0, order).argsort(stable=True))
    means2d, radii = scene.means2d.index_select(0, order), scene.radii.index_select(0, order)
    size = torch.tensor([width, height], device=radii.device)
    low = torch.minimum((means2d - radii - 0.5).floor().clamp(min=0), size).long()
    high = torch.minimum((means2d + radii + 0.5).ceil().clamp(min=0), size).long()
    columns, rows = (high - low).unbind(-1)
    which, place = repeated(columns * rows)
    columns = columns.index_select(0, which)
    x = low[:, 0].index_select(0, which) + place % columns
    y = low[:, 1].index_select(0, which) + place // columns
    return order.index_select(0, which), y * width + x


def repeated(counts: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"]]:
    """Every index as often as its count says, and how many times it stood there before."""
    which = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return which, torch.arange(len(which), device=counts.device) - _exclusive_cumsum(counts).index_select(0, which)


def _exclusive_cumsum(values: Int64[Tensor, " M"]) -> Int64[Tensor, " M"]:
    return values.cumsum(0) - values
