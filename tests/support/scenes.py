"""Scenes that are hard to draw, and what is compared of their pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from asdkit.rendering.cameras import Views, orbit, ring
from asdkit.rendering.rasterize import Raster, rasterize

FACING_X = [0.5, 0.5, 0.5, 0.5]  # x -> y, y -> z, z -> x: the disc's axes are y and z, its normal is x


def cameras(count: int = 2, size: int = 20, distance: float = 2.0, dtype: torch.dtype = torch.float64) -> Views:
    """Cameras of different azimuths and elevations, wider than high, with the principal point off the centre."""
    azimuth = torch.linspace(0.3, 4.0, count, dtype=dtype)
    elevation = torch.linspace(-0.4, 0.6, count, dtype=dtype)
    views = orbit(azimuth, elevation, torch.full((count,), distance, dtype=dtype), 0.8, size, size + 4)
    K = views.K.clone()
    K[:, 0, 2] += 1.3
    K[:, 1, 2] -= 0.8
    return replace(views, K=K)


def scene(count: int, seed: int = 0, size: float = 0.08, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random anisotropic Gaussians: means, quaternions of any norm, scales, opacities, colours."""
    draws = torch.Generator().manual_seed(seed)
    means = 0.35 * torch.randn(count, 3, generator=draws, dtype=torch.float64)
    quats = 2 * torch.randn(count, 4, generator=draws, dtype=torch.float64)
    scales = size * (0.2 + torch.rand(count, 3, generator=draws, dtype=torch.float64))
    opacities = 0.1 + 0.85 * torch.rand(count, generator=draws, dtype=torch.float64)
    colors = torch.rand(count, 3, generator=draws, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (means, quats, scales, opacities, colors)]


def hard_scene(views: Views, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random Gaussians, and: a huge one, one behind a camera, one off the screen, faint ones, an opaque wall."""
    means, quats, scales, opacities, colors = scene(60)
    eye, right, forward = (views.c2w[0, :3, i].double() for i in (3, 0, 2))
    means[0], scales[0], opacities[0] = 0.1, 1.5, 0.6
    means[1] = eye - 0.5 * forward
    means[2] = eye + forward + 3 * right
    means[3], scales[3], opacities[3] = eye + 0.5 * forward + 0.6 * right, 0.25, 0.9  # where the slope is clamped
    opacities[4:8] = torch.tensor([0.0, 0.0039, 0.004, 0.006])
    means[8:12] = torch.tensor([0.0, 0.05, 0.0]) - torch.arange(4)[:, None] * 0.01 * forward
    scales[8:11], scales[11] = 0.4, 3.0
    opacities[8:12] = torch.tensor([0.9999, 0.9995, 0.99, 0.9999], dtype=torch.float64)
    scales[12:16] = torch.tensor([0.3, 0.002, 0.001])
    return [tensor.to(dtype) for tensor in (means, quats, scales, opacities, colors)]


def gradients(raster: Raster, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a random projection of image, alpha and depth; the screen positions' gradient comes last."""
    draws = torch.Generator().manual_seed(5)
    raster.means2d.retain_grad()
    loss = sum((torch.randn(out.shape, generator=draws).to(out) * out).sum() for out in raster[:3])
    loss.backward()
    return [tensor.grad for tensor in inputs] + [raster.means2d.grad]


def composited(alphas: np.ndarray, z: np.ndarray, colors: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, ...]:
    """Image, alpha and depth of a view, by the definition: unclamped alphas [H,W] one after the other, near to far."""
    light, going = np.ones(alphas.shape[1:]), np.ones(alphas.shape[1:], dtype=bool)
    image, depth = np.zeros((*light.shape, colors.shape[1])), np.zeros_like(light)
    for i in np.argsort(z, kind="stable"):
        if z[i] <= 0.01:
            continue
        alpha = np.where(alphas[i] < 1 / 255, 0, np.minimum(alphas[i], 0.999))
        going &= light * (1 - alpha) > 1e-4
        alpha = np.where(going, alpha, 0)
        image += (alpha * light)[..., None] * colors[i]
        depth += alpha * light * z[i]
        light = light * (1 - alpha)
    opaque = (1 - light)[..., None]
    return image + light[..., None] * background, opaque, depth[..., None] / np.maximum(opaque, 1e-10)


def by_torch_and_gsplat(mode: str, sh_degree: int | None = None) -> list[tuple[Raster, list[Tensor]]]:
    """Two thousand Gaussians on a GPU by either backend, and the gradients of a weighted sum of squares."""
    pytest.importorskip("gsplat")
    views, inputs = ring(3, distance=2.0, size=64).to("cuda"), scene(2000, size=0.05, dtype=torch.float32)
    if sh_degree is not None:
        inputs[4] = 0.3 * torch.randn(2000, 16, 3, generator=torch.Generator().manual_seed(1))
    background = torch.tensor([[1.0, 0.5, 0.2], [0.0, 1.0, 0.3], [0.2, 0.2, 0.9]])
    results = []
    for backend in ("torch", "gsplat"):
        tensors = leaves([tensor.cuda() for tensor in (*inputs, background)])
        raster = rasterize(*tensors[:5], views, tensors[5], sh_degree, mode, backend)
        weights = [torch.linspace(0.5, 1.5, out.numel(), device="cuda").view_as(out) for out in raster[:2]]
        raster.means2d.retain_grad()
        sum((weight * out.square()).sum() for weight, out in zip(weights, raster[:2], strict=True)).backward()
        results.append((raster, [tensor.grad for tensor in tensors] + [raster.means2d.grad]))
    return results


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]
