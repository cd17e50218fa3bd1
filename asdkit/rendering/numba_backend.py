"""The CPU backend: alpha compositing compiled by numba, with a hand-written gradient.

Gaussians are walked front to back, each over its ellipse; the gradient walks back to front and replays the
transmittance by division. One thread computes a view in a fixed order, so results do not depend on their number.
The compiled code is cached on disk (`NUMBA_CACHE_DIR` moves the cache), in files of its own for each precision: two
processes that compile one function for different types at the same time would mix up its files for ever.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from asdkit.core.errors import CannotWrite
from asdkit.rendering.projection import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, Projection

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz", "arcp", "contract"}}
_part = njit(**_OPTIONS)  # of a kernel, whose cache holds it


def _kernel(function: Any) -> dict[torch.dtype, Any]:
    """The function compiled for each precision, as functions of different names, by which numba names its files."""
    compiled = {}
    for dtype in (torch.float32, torch.float64):
        own = FunctionType(function.__code__, function.__globals__)
        own.__qualname__ = f"{function.__name__}_{str(dtype).removeprefix('torch.')}"
        try:
            compiled[dtype] = njit(**_OPTIONS, cache=True)(own)
        except RuntimeError as error:  # neither the folder of this file nor one in the home may be written to
            raise CannotWrite(f"{error}; set NUMBA_CACHE_DIR to a folder that you may write to.") from error
    return compiled


def composite(projection: Projection, features: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Blends features front to back; the arguments and results are those of `torch_backend.composite`."""
    means2d, conics, depths, opacities, radii = projection
    culled = (radii == 0).any(-1)
    order = depths.detach().masked_fill(culled, torch.inf).argsort(dim=1, stable=True)
    orders = [order[view, :count] for view, count in enumerate((~culled).sum(1).tolist())]
    return _Composite.apply(means2d, conics, opacities, features, radii, orders, width, height)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, orders, width, height = arguments
        gaussians = [tensor.detach().contiguous() for tensor in tensors]
        features = gaussians[3]
        batch, _, channels = features.shape
        blended = features.new_zeros(batch, height, width, channels)
        transmittance = features.new_ones(batch, height, width)
        last = torch.full((batch, height, width), -1, dtype=torch.int32)
        _each_view(_forward, orders, gaussians, [blended, transmittance, last])
        transmittance.abs_()  # finished pixels have a sign
        ctx.save_for_backward(*gaussians, transmittance, last, *orders)
        return blended, transmittance[..., None].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_blended: Tensor, grad_transmittance: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: a step that renders again gives them once
        gaussians, (transmittance, last), orders = saved[:5], saved[5:7], saved[7:]
        grads = [torch.zeros_like(tensor) for tensor in gaussians[:4]]
        behind = grad_transmittance[..., 0].clone(memory_format=torch.contiguous_format)
        pixels = [transmittance.clone(), last, grad_blended.contiguous(), behind]
        _each_view(_backward, orders, gaussians, pixels, grads)
        return *grads, None, None, None, None


def _each_view(kernels: dict[torch.dtype, Any], orders: Sequence[Tensor], *groups: Sequence[Tensor]) -> None:
    """Calls a kernel for each view, on as many threads as torch uses; a kernel writes into its own view only."""
    kernel = kernels[groups[0][0].dtype]
    arrays = [[tensor.numpy() for tensor in group] for group in groups]

    def call(view: int) -> None:
        kernel(orders[view].numpy(), *(tuple(array[view] for array in group) for group in arrays))

    with ThreadPoolExecutor(min(len(orders), torch.get_num_threads())) as pool:
        list(pool.map(call, range(len(orders))))


@_part
def _bounds(centre, half, size):
    """First and last pixel whose centre is within `half` of `centre`, on a line of `size` pixels."""
    low, high = centre - half - 0.5, centre + half - 0.5  # written so that NaN and infinity stay on the line
    first, last = 0, size - 1
    if low > 0:
        first = math.ceil(min(low, size))
    if high < size - 1:
        last = math.floor(max(high, -1.0))
    return first, last


@_part
def _ellipse(gaussians, i, height):
    """Centre, inverse covariance and opacity of a Gaussian; twice the exponent where it ends; its rows."""
    means2d, conics, opacities, _, radii = gaussians
    x, y = means2d[i]
    xx, xy, yy = conics[i]
    real = means2d.dtype.type
    limit = real(2) * math.log(opacities[i] / real(ALPHA_MIN)) + real(0.02)  # a little wide: alpha decides
    top, bottom = _bounds(y, real(radii[i, 1]), height)
    return x, y, xx, xy, yy, opacities[i], limit, top, bottom


@_part
def _columns(xx, xy, yy, limit, x, dy, width):
    """First and last column of the ellipse sigma <= limit / 2 on the row `dy` above the Gaussian's centre."""
    discriminant = xx * limit - (xx * yy - xy * xy) * dy * dy
    if discriminant <= 0:
        return 0, -1
    return _bounds(x + xy * dy / xx, math.sqrt(discriminant) / xx, width)


@_kernel
def _forward(order: Any, gaussians: Any, pixels: Any) -> None:
    """Walks front to back. A pixel's `last` is the rank of the last Gaussian that was drawn on it."""
    features, (blended, transmittance, last) = gaussians[3], pixels
    height, width, channels = blended.shape
    real = features.dtype.type
    half, unit = real(0.5), real(1)
    alpha_min, alpha_max, stop = real(ALPHA_MIN), real(ALPHA_MAX), real(TRANSMITTANCE_MIN)
    for rank in range(order.size):
        i = order[rank]
        x, y, xx, xy, yy, opacity, limit, top, bottom = _ellipse(gaussians, i, height)
        for row in range(top, bottom + 1):
            dy = y - (real(row) + half)
            left, right = _columns(xx, xy, yy, limit, x, dy, width)
            for column in range(left, right + 1):
                arriving = transmittance[row, column]
                if arriving < 0:  # half of all, so before the exponential
                    continue
                dx = x - (real(column) + half)
                sigma = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                alpha = min(alpha_max, opacity * math.exp(-sigma))
                if sigma < 0 or alpha < alpha_min:
                    continue
                passing = arriving * (unit - alpha)
                if passing <= stop:
                    transmittance[row, column] = -arriving  # a negative sign marks a finished pixel
                    continue
                weight = alpha * arriving
                for channel in range(channels):
                    blended[row, column, channel] += weight * features[i, channel]
                transmittance[row, column] = passing
                last[row, column] = rank


@_kernel
def _backward(order: Any, gaussians: Any, pixels: Any, grads: Any) -> None:
    """Walks back to front. `behind` holds, per pixel, d loss / d (light that arrives behind the current Gaussian)."""
    features, (transmittance, last, grad_blended, behind) = gaussians[3], pixels
    grad_means2d, grad_conics, grad_opacities, grad_features = grads
    height, width, channels = grad_blended.shape
    real = features.dtype.type
    half, unit, zero = real(0.5), real(1), real(0)
    alpha_min, alpha_max = real(ALPHA_MIN), real(ALPHA_MAX)
    for rank in range(order.size - 1, -1, -1):
        i = order[rank]
        x, y, xx, xy, yy, opacity, limit, top, bottom = _ellipse(gaussians, i, height)
        grad_opacity, sum_dx, sum_dy, sum_dxx, sum_dxy, sum_dyy = zero, zero, zero, zero, zero, zero
        for row in range(top, bottom + 1):
            dy = y - (real(row) + half)
            left, right = _columns(xx, xy, yy, limit, x, dy, width)
            for column in range(left, right + 1):
                if rank > last[row, column]:
                    continue
                dx = x - (real(column) + half)
                sigma = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                shape = math.exp(-sigma)
                alpha = min(alpha_max, opacity * shape)
                if sigma < 0 or alpha < alpha_min:
                    continue
                arriving = transmittance[row, column] / (unit - alpha)
                weight = alpha * arriving
                own = zero
                for channel in range(channels):
                    grad = grad_blended[row, column, channel]
                    own += grad * features[i, channel]
                    grad_features[i, channel] += weight * grad
                contrast = own - behind[row, column]
                behind[row, column] += alpha * contrast
                transmittance[row, column] = arriving
                if opacity * shape <= alpha_max:
                    grad_shape = shape * arriving * contrast
                    grad_opacity += grad_shape
                    sum_dx += grad_shape * dx
                    sum_dy += grad_shape * dy
                    sum_dxx += grad_shape * dx * dx
                    sum_dxy += grad_shape * dx * dy
                    sum_dyy += grad_shape * dy * dy
        grad_opacities[i] = grad_opacity
        grad_means2d[i, 0] = -opacity * (xx * sum_dx + xy * sum_dy)
        grad_means2d[i, 1] = -opacity * (xy * sum_dx + yy * sum_dy)
        grad_conics[i, 0] = -half * opacity * sum_dxx
        grad_conics[i, 1] = -opacity * sum_dxy
        grad_conics[i, 2] = -half * opacity * sum_dyy
