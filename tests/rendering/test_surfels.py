"""Surfels: discs against ray casting from the paper's definition, and against gsplat."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.scenes import FACING_X, by_torch_and_gsplat, cameras, composited, hard_scene, leaves, scene
from torch import Tensor

from asdkit.rendering import surfels
from asdkit.rendering.cameras import Views, ring
from asdkit.rendering.projection import Scene
from asdkit.rendering.rasterize import rasterize


def alphas(inputs: list[Tensor], views: Views, b: int) -> np.ndarray:
    """Unclamped alpha of every disc on every pixel of a view, by casting lines in world space [N,H,W]; numpy, float64.

    Where the line through the eye and the pixel's centre meets the disc's plane, in front of or behind the eye, the
    Gaussian is looked up in the disc's own axes (Eq. 4 and 8 of arXiv 2403.17888). The filter (Eq. 11) is around the
    middle of the disc's box, whose sides are the vertical and horizontal tangents: roots of the dual conic.
    """
    means, quats, scales, opacities = (tensor.double().numpy() for tensor in inputs[:4])
    rotations = Rotation.from_quat(quats[:, [1, 2, 3, 0]]).as_matrix()
    c2w, K = views.c2w[b].double().numpy(), views.K[b].double().numpy()
    v, u = np.mgrid[: views.height, : views.width] + 0.5
    eye, w2c = c2w[:3, 3], np.linalg.inv(c2w)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T @ c2w[:3, :3].T
    results = []
    for mean, rotation, scale, opacity in zip(means, rotations, scales, opacities, strict=True):
        first, second, normal = rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            hits = eye + (normal @ (mean - eye) / (rays @ normal))[..., None] * rays - mean
            on_disc = (hits @ first / scale[0]) ** 2 + (hits @ second / scale[1]) ** 2
        corners = np.column_stack([scale[0] * first, scale[1] * second, mean])
        camera = K @ (w2c[:3, :3] @ corners + w2c[:3, 3:] * [0, 0, 1])
        dual = camera @ np.diag([1, 1, -1]) @ camera.T
        x, y = (np.roots([dual[2, 2], -2 * dual[i, 2], dual[i, i]]).mean().real for i in (0, 1))
        on_screen = 2 * ((u - x) ** 2 + (v - y) ** 2)
        results.append(opacity * np.exp(-np.fmin(on_disc, on_screen) / 2))
    return np.stack(results)


def dense(inputs: list[Tensor], views: Views, background: Tensor) -> tuple[np.ndarray, ...]:
    """Every disc on every pixel, one after the other; image, alpha and depth."""
    results = []
    for b in range(len(views)):
        camera = inputs[0] @ views.w2c[b, :3, :3].T + views.w2c[b, :3, 3]
        drawn = alphas(inputs, views, b)
        results.append(composited(drawn, camera[:, 2].numpy(), inputs[4].numpy(), background.numpy()[b]))
    return tuple(map(np.stack, zip(*results, strict=True)))


def nasty(views: Views, seed: int = 0) -> list[Tensor]:
    """Discs of all kinds: random, large, needles, edge-on, near the first camera and reaching behind it, off-screen."""
    inputs = hard_scene(views)
    means, quats, scales, opacities, _ = inputs
    draws = torch.Generator().manual_seed(seed)
    eye, right, forward = (views.c2w[0, :3, i] for i in (3, 0, 2))
    near = torch.rand(12, 3, generator=draws, dtype=torch.float64) - 0.5
    means[16:28] = eye + 0.2 * forward + near * torch.tensor([0.3, 0.3, 0.3])
    scales[16:28] = 0.05 + 0.1 * torch.rand(12, 3, generator=draws, dtype=torch.float64)
    scales[28:34, 0], scales[28:34, 1] = 0.4, 0.003
    means[34:38] = eye + forward + (right + 0.1 * forward) * torch.linspace(0.4, 1.2, 4, dtype=torch.float64)[:, None]
    scales[34:38] = 0.2
    across = Rotation.from_matrix(np.column_stack([right, forward, -views.c2w[0, :3, 1]]))  # its plane holds `forward`
    quats[38:42] = torch.from_numpy(across.as_quat()[[3, 0, 1, 2]])
    means[38:40] = eye + 1.5 * forward + 1e-4 * near[:2]
    scales[40:42] = 0.3
    return inputs


@pytest.mark.parametrize("seed", range(3))
def test_matches_ray_casting(seed: int) -> None:
    views = cameras(3)
    inputs = nasty(views, seed)
    background = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.2, 0.9]], dtype=torch.float64)
    raster = rasterize(*inputs, views, background, mode="surfels")
    for ours, reference in zip(raster[:3], dense(inputs, views, background), strict=True):
        np.testing.assert_allclose(ours.numpy(), reference, rtol=0, atol=1e-9)
    assert raster.image.requires_grad is False
    inputs[2][:, 2] *= 7
    assert torch.equal(rasterize(*inputs, views, background, mode="surfels").image, raster.image)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_visible_pixel_is_outside_its_box(dtype: torch.dtype) -> None:
    slack = 1e-9 if dtype == torch.float64 else 1e-4
    reached = 0
    for seed in range(6):
        views = cameras(2, size=16 + 5 * seed)
        inputs = nasty(views, seed)
        inputs[3][:4] = 1.0  # as opaque as can be
        means, quats, scales, opacities = (tensor.to(dtype) for tensor in inputs[:4])
        matrices = views.w2c.to(dtype), views.K.to(dtype)
        discs, _ = surfels.project(Scene(means, quats, scales, opacities, *matrices, views.width, views.height))
        centre, radii = discs.means2d[..., None, None, :].double(), discs.radii[..., None, None, :]
        v, u = torch.meshgrid(torch.arange(views.height) + 0.5, torch.arange(views.width) + 0.5, indexing="ij")
        inside = ((torch.stack([u, v], -1) - centre).abs() <= radii).all(-1) & (radii > 0).all(-1)
        for b in range(2):
            visible = torch.from_numpy(alphas(inputs, views, b)) >= 1 / 255 + slack
            visible &= (discs.depths[b] > 0.01)[:, None, None]
            assert not (visible & ~inside[b]).any()
            reached += int(visible.any(-1).any(-1).sum())
    assert reached > 300


def test_the_positions_gradient_is_that_of_moving_the_picture() -> None:
    views = cameras(1, size=12)
    inputs = scene(6, seed=2, size=0.2)
    inputs[2][:2] = 1e-3  # by the filter alone
    weights = torch.randn(2, 1, 12, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(some: list[Tensor], move: Tensor) -> tuple[Tensor, Tensor]:
        K = views.K.clone()
        K[:, :2, 2] += move
        moved = replace(views, K=K)
        raster = rasterize(*some, moved, torch.ones(3, dtype=torch.float64), mode="surfels")
        return (weights[0] * raster.image + weights[1] * raster.image.square()).sum(), raster.means2d

    still = torch.zeros(2, dtype=torch.float64)
    for one in [*(slice(i, i + 1) for i in range(6)), slice(6)]:
        some = leaves([tensor[one] for tensor in inputs])
        value, means2d = loss(some, still)
        (grad,) = torch.autograd.grad(value, means2d)
        numeric = torch.stack([
            (loss(some, step)[0] - loss(some, -step)[0]).detach() / 2e-6 for step in 1e-6 * torch.eye(2).double()
        ])  # fmt: skip
        assert (means2d == 0).all() and numeric.abs().min() > 1e-3
        torch.testing.assert_close(grad.sum((0, 1)), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("quat", "widths", "deviations"),
    [
        (FACING_X, [0.3, 0.5], [0.1, 1 / 6]),  # from the front, in shares of the distance
        (FACING_X, [1e-30, 1e-30], None),  # too small, which is a blot of the filter's size
        ([1.0, 0.0, 0.0, 0.0], [0.3, 0.3], None),  # a row of pixels looks along its edge, which is one, too
    ],
)
def test_a_disc_in_closed_form(quat: list[float], widths: list[float], deviations: list[float] | None) -> None:
    views = ring(1, elevation_deg=0.0, distance=3.0, fov_deg=40.0, size=9)  # from +x: right is +y, up is +z
    inputs = torch.zeros(1, 3), torch.tensor([quat]), torch.tensor([[*widths, 9.0]]), torch.tensor([0.7])
    inputs = leaves([*inputs, torch.tensor([[0.9, 0.2, 0.4]])])
    raster = rasterize(*inputs, views, torch.tensor([0.0, 1.0, 0.5]), mode="surfels")
    focal, extent = 4.5 / math.tan(math.radians(20)), math.sqrt(2 * math.log(255 * 0.7))
    across, along = [focal * share for share in deviations] if deviations else [math.sqrt(0.5)] * 2
    offset = torch.arange(9) + 0.5 - 4.5
    alpha = 0.7 * torch.exp(-((offset / across) ** 2 + (offset[:, None] / along) ** 2) / 2)[..., None]
    torch.testing.assert_close(raster.alpha[0], alpha * (alpha >= 1 / 255), atol=1e-5, rtol=0)
    if quat == FACING_X:
        assert raster.radii[0, 0].tolist() == [math.ceil(extent * across), math.ceil(extent * along)]
    raster.image.square().sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


def test_discs_at_the_limits_of_the_projection() -> None:
    views = ring(1, elevation_deg=0.0, distance=2.0, size=9)  # from +x, down the first axis
    means, quats = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, -0.2]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(2, 4)
    inputs = leaves([means, quats, torch.full((2, 3), 2.0), torch.full((2,), 0.9), torch.ones(2, 1)])
    raster = rasterize(*inputs, views, torch.zeros(1), mode="surfels")  # in the eye; one deviation reaches the eye
    raster.image.sum().backward()
    assert (raster.image == 0).all() and all((tensor.grad == 0).all() for tensor in inputs)
    width = 2 / math.sqrt(2 * math.log(255 * 0.9)) * (1 - 1e-13)  # what is barely visible almost reaches to the eye
    shape = [0.0, 0.0, -0.2], [1.0, 0.0, 0.0, 0.0], [width] * 3, 0.9, [1.0]
    disc = (torch.tensor([each], dtype=torch.float64) for each in shape)
    raster = rasterize(*disc, views, torch.zeros(1), mode="surfels")
    assert raster.radii.max() == 2**30 and raster.alpha.max() > 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gsplat_is_torch() -> None:
    (reference, reference_grads), (ours, grads) = by_torch_and_gsplat("surfels")
    assert (ours.image - reference.image).abs().mean() < 1e-4  # gsplat draws a disc on the tiles of a smaller box only
    assert (ours.alpha - reference.alpha).abs().mean() < 1e-4
    assert (ours.depth - reference.depth).abs().mean() < 1e-3
    for one, two in zip(grads[:-1], reference_grads[:-1], strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.999
    ranks = [each[-1].norm(dim=-1).flatten().argsort().argsort().double() for each in (grads, reference_grads)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.7  # gsplat's is coarse
