"""The CPU backend: alpha compositing compiled by numba, with a hand-written gradient.

Gaussians are walked front to back, each over the rows and columns of its ellipse; the gradient walks back to front
and replays the transmittance by division. Every view is computed by one thread in a fixed order, so results do not
depend on the number of threads. The compiled code is cached on disk (`NUMBA_CACHE_DIR` moves the cache).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from asdkit.rendering.projection import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, Projection

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "arcp", "contract"})


def composite(
    projection: Projection, features: Float[Tensor, "B N F"], width: int, height: int
) -> tuple[Float[Tensor, "B H W F"], Float[Tensor, "B H W 1"]]:
    """Blends features front to back; the arguments and results are those of `torch_raster.composite`."""
    means2d, conics, depths, opacities, radii = projection
    culled = (radii == 0).any(-1)
    order = depths.detach().masked_fill(culled, torch.inf).argsort(dim=1, stable=True)
    counts = (~culled).sum(1)
    orders = [order[view, :count] for view, count in enumerate(counts.tolist())]
    return _Composite.apply(means2d, conics, opacities, features, radii, orders, width, height)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        means2d: Float[Tensor, "B N 2"],
        conics: Float[Tensor, "B N 3"],
        opacities: Float[Tensor, "B N"],
        features: Float[Tensor, "B N F"],
        radii: Tensor,
        orders: list[Tensor],
        width: int,
        height: int,
    ) -> tuple[Tensor, Tensor]:
        inputs = [tensor.detach().contiguous() for tensor in (means2d, conics, opacities, features, radii)]
        batch = len(means2d)
        blended = features.new_zeros(batch, height, width, features.shape[2])
        transmittance = features.new_ones(batch, height, width)
        last = torch.full((batch, height, width), -1, dtype=torch.int32)
        _each_view(_forward, orders, *inputs, blended, transmittance, last)
        ctx.save_for_backward(*inputs, transmittance, last, *orders)
        return blended, transmittance[..., None].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_blended: Tensor, grad_transmittance: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, transmittance, last = ctx.saved_tensors[:7]
        orders = list(ctx.saved_tensors[7:])
        grads = [torch.zeros_like(tensor) for tensor in inputs[:4]]
        behind = grad_transmittance[..., 0].clone(memory_format=torch.contiguous_format)
        _each_view(_backward, orders, *inputs, transmittance.clone(), last, grad_blended.contiguous(), behind, *grads)
        return *grads, None, None, None, None


def _each_view(kernel: Callable[..., None], orders: list[Tensor], *tensors: Tensor) -> None:
    """Calls a kernel for each view, on as many threads as torch uses; a kernel writes into its own view only."""
    arrays = [tensor.numpy() for tensor in tensors]
    calls = [(order.numpy(), *(array[view] for array in arrays)) for view, order in enumerate(orders)]
    workers = min(len(calls), torch.get_num_threads())
    if workers < 2:
        for call in calls:
            kernel(*call)
        return
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(kernel, *call) for call in calls]:
            future.result()


@_jit
def _bounds(centre, half, size):
    """First and last pixel whose centre is within `half` of `centre`, on a line of `size` pixels."""
    low, high = centre - half - 0.5, centre + half - 0.5  # written so that NaN and infinity stay on the line
    first, last = 0, size - 1
    if low > 0:
        first = math.ceil(min(low, size))
    if high < size - 1:
        last = math.floor(max(high, -1.0))
    return first, last


@_jit
def _ellipse_row(xx, xy, determinant, limit, x, dy):
    """Centre and half length of the ellipse sigma <= limit / 2 on the row `dy` above the Gaussian's centre."""
    discriminant = xx * limit - determinant * dy * dy
    if discriminant <= 0:
        return x, x * 0 - 1
    return x + xy * dy / xx, math.sqrt(discriminant) / xx


@_jit
def _forward(order, means2d, conics, opacities, features, radii, blended, transmittance, last):
    height, width, channels = blended.shape
    real = means2d.dtype.type
    half, one = real(0.5), real(1)
    alpha_min, alpha_max, stop = real(ALPHA_MIN), real(ALPHA_MAX), real(TRANSMITTANCE_MIN)
    for rank in range(order.size):
        i = order[rank]
        x, y, opacity = means2d[i, 0], means2d[i, 1], opacities[i]
        xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
        determinant = xx * yy - xy * xy
        limit = real(2) * math.log(opacity / alpha_min) + real(0.02)  # a little wide: alpha decides below
        top, bottom = _bounds(y, real(radii[i, 1]), height)
        for row in range(top, bottom + 1):
            dy = y - (real(row) + half)
            centre, reach = _ellipse_row(xx, xy, determinant, limit, x, dy)
            left, right = _bounds(centre, reach, width)
            for column in range(left, right + 1):
                dx = x - (real(column) + half)
                sigma = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                alpha = min(alpha_max, opacity * math.exp(-sigma))
                arriving = transmittance[row, column]
                if sigma < 0 or alpha < alpha_min or arriving < 0:
                    continue
                passing = arriving * (one - alpha)
                if passing <= stop:
                    transmittance[row, column] = -arriving  # a negative sign marks a finished pixel
                    continue
                weight = alpha * arriving
                for channel in range(channels):
                    blended[row, column, channel] += weight * features[i, channel]
                transmittance[row, column] = passing
                last[row, column] = rank
    for row in range(height):
        for column in range(width):
            transmittance[row, column] = abs(transmittance[row, column])


@_jit
def _backward(
    order, means2d, conics, opacities, features, radii,
    transmittance, last, grad_blended, behind, grad_means2d, grad_conics, grad_opacities, grad_features,
):  # fmt: skip
    """Walks back to front. `behind` holds, per pixel, d loss / d (light that arrives behind the current Gaussian)."""
    height, width, channels = grad_blended.shape
    real = means2d.dtype.type
    half, one, zero = real(0.5), real(1), real(0)
    alpha_min, alpha_max = real(ALPHA_MIN), real(ALPHA_MAX)
    for rank in range(order.size - 1, -1, -1):
        i = order[rank]
        x, y, opacity = means2d[i, 0], means2d[i, 1], opacities[i]
        xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
        determinant = xx * yy - xy * xy
        limit = real(2) * math.log(opacity / alpha_min) + real(0.02)
        grad_opacity, sum_dx, sum_dy, sum_dxx, sum_dxy, sum_dyy = zero, zero, zero, zero, zero, zero
        top, bottom = _bounds(y, real(radii[i, 1]), height)
        for row in range(top, bottom + 1):
            dy = y - (real(row) + half)
            centre, reach = _ellipse_row(xx, xy, determinant, limit, x, dy)
            left, right = _bounds(centre, reach, width)
            for column in range(left, right + 1):
                if rank > last[row, column]:
                    continue
                dx = x - (real(column) + half)
                sigma = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                shape = math.exp(-sigma)
                alpha = min(alpha_max, opacity * shape)
                if sigma < 0 or alpha < alpha_min:
                    continue
                arriving = transmittance[row, column] / (one - alpha)
                weight = alpha * arriving
                here = zero
                for channel in range(channels):
                    grad = grad_blended[row, column, channel]
                    here += grad * features[i, channel]
                    grad_features[i, channel] += weight * grad
                contrast = here - behind[row, column]
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
