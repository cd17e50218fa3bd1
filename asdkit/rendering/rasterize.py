"""Rasterisers of 3D Gaussians: one function, three backends with the same conventions (those of gsplat).

gsplat draws on CUDA, a kernel compiled by numba on the CPU; plain PyTorch is the readable reference of both, and draws
surfels (2D Gaussians) on the CPU. gsplat and numba are imported when they are first used.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from asdkit.rendering import surfels as discs
from asdkit.rendering.cameras import Views
from asdkit.rendering.projection import Drawn, Scene, project, spherical_harmonics

Backend = Literal["auto", "torch", "numba", "gsplat"]
Mode = Literal["classic", "antialiased", "surfels"]


class Raster(NamedTuple):
    """What B cameras see, D features per pixel.

    Call `means2d.retain_grad()` before backward to read the gradient of the positions on the screen. That of gsplat's
    surfels is coarser: it leaves out a disc's tilt and the filter.
    """

    image: Float[Tensor, "B H W D"]  # features blended on the background
    alpha: Float[Tensor, "B H W 1"]  # opacity of the pixel in [0,1]
    depth: Float[Tensor, "B H W 1"]  # expected camera z in world units, 0 where nothing was drawn
    means2d: Float[Tensor, "B N 2"]  # screen positions in pixels, or zeros that have their gradient
    radii: Int32[Tensor, "B N 2"]  # half sizes of the footprints in pixels, 0 for a Gaussian that was not drawn


def rasterize(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "N D"] | Float[Tensor, "N K 3"],
    views: Views,
    background: Float[Tensor, " D"] | Float[Tensor, "B D"],
    sh_degree: int | None = None,
    mode: Mode = "classic",
    backend: Backend = "auto",
) -> Raster:
    """Draws Gaussians, differentiably in all tensors but the cameras'. float64 stays float64 (not with gsplat).

    Args:
        means, quats, scales, opacities: as in `Scene`; opacities below 1/255 are not drawn.
        colors: features [N,D], or coefficients of spherical harmonics [N,K,3] of degree `sh_degree`, 0 to 3.
        background: features behind the Gaussians, one for all B cameras or one for each.
        mode: "antialiased" dims Gaussians that are smaller than a pixel (Mip-Splatting); "surfels" draws flat discs
            (2DGS): the third scale is not looked at, nor is the Gaussian blurred; it gets no smaller than a blot on
            the screen instead.
        backend: "auto" is gsplat on CUDA devices, numba on the CPU, and torch elsewhere and for surfels on the CPU.
    """
    dtype = torch.float64 if means.dtype == torch.float64 else torch.float32
    backend = _chosen(backend, mode, means.device)
    with torch.autocast(means.device.type, enabled=False):
        given = means, quats, scales, opacities, colors, background, views.w2c, views.K, views.c2w[:, :3, 3]
        means, quats, scales, opacities, colors, background, w2c, K, eyes = (tensor.to(dtype) for tensor in given)
        if sh_degree is not None:
            colors = spherical_harmonics(sh_degree, means - eyes[:, None] if sh_degree else means, colors)
        colors = colors.expand(len(views), *colors.shape[-2:])
        background = background.expand(len(views), colors.shape[-1])
        scene = Scene(means, quats, scales, opacities, w2c, K, views.width, views.height)
        module = import_module(f"asdkit.rendering.{backend}_backend")
        render = module.render if backend == "gsplat" else partial(_render, module.composite)
        blended, alpha, means2d, radii = render(scene, colors, background, mode)
        image, weighted_depth = blended[..., :-1], blended[..., -1:]
        return Raster(image, alpha, weighted_depth / alpha.clamp(min=1e-10), means2d, radii)


def _chosen(backend: Backend, mode: Mode, device: torch.device) -> Backend:
    if backend == "auto":
        backend = {"cuda": "gsplat", "cpu": "torch" if mode == "surfels" else "numba"}.get(device.type, "torch")
    for name, value, kinds in (("mode", mode, Mode), ("backend", backend, Backend)):
        if value not in get_args(kinds):
            raise ValueError(f"the {name} of rasterize must be one of {', '.join(get_args(kinds))}, not {value!r}.")
    return backend


def _render(
    composite: Callable[..., Any], scene: Scene, colors: Float[Tensor, "B N D"], background: Tensor, mode: Mode
) -> Drawn:
    """The same as `gsplat_backend.render`, by the projection of this room and a backend's compositing."""
    if mode == "surfels":
        projection, means2d = discs.project(scene)
        composite = partial(composite, footprints=discs.footprints)
    else:
        projection = project(scene, mode == "antialiased")
        means2d = projection.means2d
    features = torch.cat([colors, projection.depths[..., None]], dim=-1)
    blended, transmittance = composite(projection, features, scene.width, scene.height)
    image = blended[..., :-1] + transmittance * background[:, None, None]
    return torch.cat([image, blended[..., -1:]], dim=-1), 1 - transmittance, means2d, projection.radii
