"""The gsplat backend on the CPU: gsplat's own functions, their kernels replaced, against the torch backend."""

from collections.abc import Iterator

import gsplat
import pytest
import torch
from support.gsplat_on_cpu import gsplat_on_cpu
from support.scenes import cameras, gradients, hard_scene, leaves
from torch import Tensor

from asdkit.rendering.rasterize import Mode, Raster, rasterize

Drawn = tuple[Raster, list[Tensor]]

pytestmark = pytest.mark.parametrize("mode", ["classic", "antialiased", "surfels"])


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with gsplat_on_cpu():
        yield


def scene(*shape: int) -> list[Tensor]:
    """Gaussians of all kinds, some at the edge or behind a camera, with colours of this shape, and backgrounds."""
    draws = torch.Generator().manual_seed(1)
    *gaussians, _ = hard_scene(cameras(3))
    gaussians[2][11] = 1.0  # gsplat draws no disc that reaches the camera's plane within one standard deviation
    colors = torch.randn(60, *shape, generator=draws, dtype=torch.float64)
    return [*gaussians, colors, torch.rand(3, shape[-1], generator=draws, dtype=torch.float64)]


def by_asdkit(inputs: list[Tensor], mode: Mode, backend: str, degree: int | None = None) -> Drawn:
    tensors = leaves(inputs)
    raster = rasterize(*tensors[:5], cameras(3), tensors[5], degree, mode, backend)
    return raster, gradients(raster, tensors)


def by_gsplat(inputs: list[Tensor], mode: Mode, degree: int) -> Drawn:
    """What gsplat's documentation says to call: it looks up the colours, and divides the depth by alpha."""
    tensors, views = leaves(inputs), cameras(3)
    scene = *tensors[:5], views.w2c, views.K, views.width, views.height
    options = {"sh_degree": degree, "packed": False, "backgrounds": tensors[5], "render_mode": "RGB+ED"}
    if mode == "surfels":
        drawn, alpha, *_, meta = gsplat.rasterization_2dgs(*scene, **options)
    else:
        drawn, alpha, meta = gsplat.rasterization(*scene, **options, rasterize_mode=mode)
    positions = meta["gradient_2dgs" if mode == "surfels" else "means2d"]
    raster = Raster(drawn[..., :3], alpha, drawn[..., 3:], positions, meta["radii"])
    return raster, gradients(raster, tensors)


def assert_same(drawn: Drawn, expected: Drawn) -> None:
    """The pictures agree, and the gradients of all that was given; in float64, for in float32 a pixel may flip."""
    for ours, reference in zip((*drawn[0][:3], *drawn[1][:6]), (*expected[0][:3], *expected[1][:6]), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-7, atol=1e-9)


def test_gsplat_draws_what_the_torch_backend_draws(mode: Mode) -> None:
    inputs = scene(4)  # with depth five features, which gsplat's surfels would fill up with what is in memory
    ours, reference = (by_asdkit(inputs, mode, backend) for backend in ("gsplat", "torch"))
    assert_same(ours, reference)
    moved, reference_moved = ours[1][-1], reference[1][-1]  # the gradients of the positions on the screen
    radii, reference_radii = ours[0].radii, reference[0].radii
    if mode == "surfels":  # gsplat's gradient is another quantity, which leaves out the tilt and the filter
        assert (ours[0].means2d == 0).all() and moved.any()
        assert ((radii > 0) >= (reference_radii > 0)).all()  # faint discs are not left out
    else:
        torch.testing.assert_close(moved, reference_moved, rtol=1e-7, atol=1e-9)
        assert (radii >= reference_radii).all()  # gsplat's torch code takes everything for opaque


@pytest.mark.parametrize("degree", range(4))
def test_colours_and_depth_are_gsplats(mode: Mode, degree: int) -> None:
    inputs = scene(16, 3)
    expected = by_gsplat(inputs, mode, degree)
    for backend in ("gsplat", "torch"):
        assert_same(by_asdkit(inputs, mode, backend, degree), expected)
