"""Rasterisers of 3D Gaussians: one function, three backends with the same conventions (those of gsplat).

On a CUDA device gsplat draws; on the CPU a kernel compiled by numba does; the plain PyTorch backend is the readable
reference of both, and draws surfels (2D Gaussians) on the CPU. gsplat and numba are imported when they are first used.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from asdkit.rendering import surfels as discs
from asdkit.rendering.cameras import Views
from asdkit.rendering.projection import Scene, project, spherical_harmonics

Backend = Literal["auto", "torch", "numba", "gsplat"]
Mode = Literal["classic", "antialiased", "surfels"]


class Raster(NamedTuple):
    """What B cameras see, D features per pixel.

    Shapes:
        image: features blended on the background [B,H,W,D].
        alpha: opacity of the pixel in [0,1] [B,H,W,1].
        depth: expected camera z in world units, 0 where nothing was drawn [B,H,W,1].
        means2d: screen positions in pixels; call `retain_grad()` before backward to read their gradient [B,N,2].
            Of surfels, zeros with that gradient; gsplat's is coarser: it leaves out a disc's tilt and the filter.
        radii: half sizes of the footprints in pixels, 0 for a Gaussian that was not drawn [B,N,2].
    """

    image: Float[Tensor, "B H W D"]
    alpha: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    means2d: Float[Tensor, "B N 2"]
    radii: Int32[Tensor, "B N 2"]


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
        means: centres in world units.
        quats: rotations wxyz, any norm but zero.
        scales: standard deviations in world units, > 0.
        opacities: in (0,1); those below 1/255 are not drawn.
        colors: features [N,D], or coefficients of spherical harmonics [N,K,3] with `sh_degree`.
        views: B cameras.
        background: features behind the Gaussians, one for all cameras or one for each.
        sh_degree: degree 0 to 3 of the spherical harmonics; None when `colors` are features.
        mode: "antialiased" dims Gaussians that are smaller than a pixel (Mip-Splatting); "surfels" draws flat discs
            (2DGS): the third scale is not looked at, nor is the Gaussian blurred; it gets no smaller than a blot on
            the screen instead.
        backend: "auto" chooses gsplat on CUDA devices, numba on the CPU and torch elsewhere and for surfels, which
            numba doesn't draw.

    Raises:
        ValueError: shapes that do not fit together, a degree outside 0 to 3, an unknown mode or backend, or numba for
            surfels.
        RuntimeError: the backend is not installed, or cannot work on the tensors' device.
    """
    _check(means, quats, scales, opacities, colors, sh_degree)
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
        if backend == "gsplat":
            from asdkit.rendering.gsplat_backend import render
        else:
            render = partial(_draw, _composite(backend, means.device))
        blended, alpha, means2d, radii = render(scene, colors, background, mode)
        image, weighted_depth = blended[..., :-1], blended[..., -1:]
        return Raster(image, alpha, weighted_depth / alpha.clamp(min=1e-10), means2d, radii)


def _chosen(backend: Backend, mode: Mode, device: torch.device) -> Backend:
    """The backend that "auto" means on a device; refuses what does not go together."""
    if backend == "auto":
        backend = {"cuda": "gsplat", "cpu": "torch" if mode == "surfels" else "numba"}.get(device.type, "torch")
    if mode not in get_args(Mode):
        raise ValueError(f"the mode of rasterize must be one of {', '.join(get_args(Mode))}, not {mode!r}.")
    if mode == "surfels" and backend == "numba":
        raise ValueError("surfels do not go with the numba backend; torch draws them on the CPU.")
    return backend


def _draw(
    composite: Callable[..., tuple[Tensor, Tensor]],
    scene: Scene,
    colors: Float[Tensor, "B N D"],
    background: Float[Tensor, "B D"],
    mode: Mode,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colours with the weighted depth as their last channel, alpha, screen positions and radii, without gsplat."""
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


def _composite(backend: Backend, device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    """The compositing function of a backend, imported on first use."""
    if backend == "torch":
        from asdkit.rendering.torch_backend import composite

        return composite
    if backend != "numba":
        raise ValueError(f'the backend of rasterize must be "auto", "torch", "numba" or "gsplat", not {backend!r}.')
    if device.type != "cpu":
        raise RuntimeError(f"The numba backend draws on the CPU only, but the Gaussians are on {device}.")
    try:
        from asdkit.rendering.numba_backend import composite
    except ImportError as error:
        raise RuntimeError("Drawing Gaussians on the CPU needs numba: install it with `pip install numba`.") from error
    return composite


def _check(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, sh_degree: int | None
) -> None:
    """Kernels do not look at shapes; a wrong one must not reach them."""
    count = len(means)
    given = {"means": (means, [3]), "quats": (quats, [4]), "scales": (scales, [3]), "opacities": (opacities, [])}
    for name, (tensor, numbers) in given.items():
        if list(tensor.shape) != [count, *numbers]:
            raise ValueError(f"{name} must have the shape {[count, *numbers]}, not {list(tensor.shape)}.")
    dimensions = 2 if sh_degree is None else 3
    if colors.dim() != dimensions or len(colors) != count:
        wanted = "[N,D] features" if sh_degree is None else "[N,K,3] coefficients"
        raise ValueError(f"colors must be {wanted} of {count} Gaussians, but the shape is {list(colors.shape)}.")
