"""gsplat without a GPU: all that it does in Python is its own, and its torch reference stands in for CUDA kernels.

What `rasterization` and `rasterization_2dgs` check, pad, sort and hand on runs as it is. The projections and spherical
harmonics are those of `gsplat.cuda._torch_impl` and `_torch_impl_2dgs`. Only blending is written here: every Gaussian
on every pixel, by the rules of RasterizeToPixels3DGSFwd.cu and RasterizeToPixels2DGSFwd.cu, one tile for each screen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from gsplat.cuda import _torch_impl as reference
from gsplat.cuda._torch_impl_2dgs import _fully_fused_projection_2dgs
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def gsplat_on_cpu() -> Iterator[None]:
    """Inside, gsplat draws tensors that are on the CPU, differentiably, in float32 and float64."""
    kernels = {
        "_FullyFusedProjection": _project,
        "_FullyFusedProjection2DGS": _project_discs,
        "_SphericalHarmonics": lambda degree, dirs, coeffs, masks: reference._spherical_harmonics(degree, dirs, coeffs),
        "_RasterizeToPixels": _draw,
        "_RasterizeToPixels2DGS": _draw_discs,
    }
    functions = {name: SimpleNamespace(apply=kernel) for name, kernel in kernels.items()}
    lists = {"intersect_tile": _intersections, "intersect_offset": _offsets}
    with mock.patch.multiple("gsplat.cuda._wrapper", _make_lazy_cuda_func=lists.__getitem__, **functions), _Cuda():
        yield


class _Cuda(TorchFunctionMode):
    """Device "cuda" is the CPU, and memory that nobody has filled holds NaN."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == "cuda":
            kwargs = kwargs | {"device": "cpu"}
        result = function(*args, **kwargs)
        return result.fill_(torch.nan) if function is torch.empty and result.is_floating_point() else result


def _project(
    means: Tensor, covars: None, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
    eps2d: float, near: float, far: float, radius_clip: float, compensate: bool, camera_model: str, opacities: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    covars, _ = reference._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    cameras = viewmats, Ks, width, height
    return reference._fully_fused_projection(means, covars, *cameras, eps2d, near, far, compensate, camera_model)


def _project_discs(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
    eps2d: float, near: float, far: float, radius_clip: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _fully_fused_projection_2dgs(means, quats, scales, viewmats, Ks, width, height, near, far)


def _intersections(means2d: Tensor, radii: Tensor, depths: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """How many tiles each Gaussian is on; the images and the flat indices of those on any, by image, near to far."""
    drawn = (radii > 0).all(-1)
    image = torch.arange(len(depths)).repeat_interleave(depths.shape[1])
    order = depths.flatten().argsort(stable=True)
    order = order[image[order].argsort(stable=True)]
    order = order[drawn.flatten()[order]]
    return drawn.int(), image[order], order


def _offsets(image: Tensor, images: int, tile_width: int, tile_height: int) -> Tensor:
    """Where the Gaussians of each tile begin in these lists."""
    starts = torch.searchsorted(image, torch.arange(images))
    return starts[:, None, None].expand(images, tile_height, tile_width)


def _draw(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor, masks: None,
    width: int, height: int, tile_size: int, offsets: Tensor, flat_ids: Tensor, absgrad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    def alphas(gaussians: Tensor, pixels: Tensor) -> Tensor:
        xx, xy, yy = conics.flatten(0, 1)[gaussians].unbind(-1)
        x, y = (means2d.flatten(0, 1)[gaussians] - pixels[:, None]).unbind(-1)
        sigma = 0.5 * (xx * x * x + yy * y * y) + xy * x * y
        return opacities.flatten()[gaussians] * (-sigma).exp() * (sigma >= 0)

    return _blended(alphas, colors, backgrounds, width, height, offsets, flat_ids)


def _draw_discs(
    means2d: Tensor, ray_transforms: Tensor, colors: Tensor, opacities: Tensor, normals: Tensor, densify: Tensor,
    backgrounds: Tensor, masks: None, width: int, height: int, tile_size: int, offsets: Tensor, flat_ids: Tensor,
    absgrad: bool, distloss: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    # The kernel gives `densify` the gradient of the matrix's last column times the depth.
    moved = ray_transforms[..., :2, 2] + densify * ray_transforms[..., 2, 2:].detach()
    column = torch.cat([moved, ray_transforms[..., 2, 2:]], dim=-1)
    matrices = torch.cat([ray_transforms[..., :2], column[..., None]], dim=-1)

    def alphas(gaussians: Tensor, pixels: Tensor) -> Tensor:
        rows = matrices.flatten(0, 1)[gaussians]
        h_u, h_v = (pixels[:, None, i, None] * rows[:, 2] - rows[:, i] for i in (0, 1))
        u, v, w = torch.linalg.cross(h_u, h_v).unbind(-1)
        meets = w != 0
        w = w.where(meets, 1)
        apart = means2d.flatten(0, 1)[gaussians] - pixels[:, None]
        sigma = 0.5 * torch.minimum((u / w).square() + (v / w).square(), 2 * apart.square().sum(-1))
        return opacities.flatten()[gaussians] * (-sigma).exp() * meets

    features, behind = torch.cat([colors, normals], dim=-1), F.pad(backgrounds, (0, 3))
    image, alpha = _blended(alphas, features, behind, width, height, offsets, flat_ids)
    return image[..., :-3], alpha, image[..., -3:], None, None


def _blended(
    alphas: Callable[[Tensor, Tensor], Tensor], colors: Tensor, backgrounds: Tensor, width: int, height: int,
    offsets: Tensor, flat_ids: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Colours on the backgrounds, and alpha, of the alphas that a function says of some Gaussians on all pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).to(colors)
    starts = [*offsets[:, 0, 0].tolist(), len(flat_ids)]
    images = []
    for background, start, end in zip(backgrounds, starts, starts[1:], strict=False):
        gaussians = flat_ids[start:end]
        alpha = alphas(gaussians, pixels).clamp(max=0.999)
        alpha = alpha.where(alpha >= 1 / 255, 0)
        left = torch.cumprod(1 - alpha, dim=1)
        arriving = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
        weights = alpha * arriving * (left > 1e-4)
        opaque = weights.sum(1, keepdim=True)
        blended = weights @ colors.flatten(0, 1)[gaussians] + (1 - opaque) * background
        images.append(torch.cat([blended, opaque], dim=1).view(height, width, -1))
    stacked = torch.stack(images)
    return stacked[..., :-1], stacked[..., -1:]
