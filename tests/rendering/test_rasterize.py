"""The backends against a dense reference, against each other, and against what can be computed by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y
from support.scenes import by_torch_and_gsplat, cameras, composited, gradients, hard_scene, leaves, scene
from torch import Tensor

from asdkit.core.errors import CannotWrite
from asdkit.rendering import numba_backend
from asdkit.rendering.cameras import Views, ring
from asdkit.rendering.projection import Projection, Scene, project, sh_polynomials, spherical_harmonics
from asdkit.rendering.rasterize import rasterize

EACH = pytest.mark.parametrize(("backend", "mode"), [("torch", "classic"), ("numba", "classic"), ("torch", "surfels")])


def dense(inputs: list[Tensor], views: Views, background: Tensor, mode: str) -> tuple[np.ndarray, ...]:
    """Every Gaussian on every pixel, one after the other, straight from the definitions; numpy in float64."""
    means, quats, scales, opacities, colors = (tensor.double().numpy() for tensor in inputs)
    rotations = Rotation.from_quat(quats[:, [1, 2, 3, 0]]).as_matrix()
    height, width = views.height, views.width
    v, u = np.mgrid[:height, :width] + 0.5
    results = []
    for b in range(len(views)):
        w2c, K = np.linalg.inv(views.c2w[b].double().numpy()), views.K[b].double().numpy()
        camera, alphas = means @ w2c[:3, :3].T + w2c[:3, 3], np.zeros((len(means), height, width))
        for i, (x, y, z) in enumerate(camera):
            if z <= 0.01:
                continue
            rays = np.linalg.inv(K) @ np.array([[0, width, width / 2], [0, height, height / 2], [1, 1, 1]])
            low, high = rays[:2, 0], rays[:2, 1]
            slope = np.clip([x / z, y / z], low - 0.15 * (high - low), high + 0.15 * (high - low))
            jacobian = K[:2, :2] @ np.array([[1, 0, -slope[0]], [0, 1, -slope[1]]]) / z
            half = jacobian @ w2c[:3, :3] @ rotations[i] @ np.diag(scales[i])
            sharp = half @ half.T
            blurred = sharp + 0.3 * np.eye(2)
            opacity = opacities[i]
            if mode == "antialiased":
                opacity = opacity * math.sqrt(max(0.0, np.linalg.det(sharp) / np.linalg.det(blurred)))
            offset = np.stack([u, v], -1) - (K @ camera[i] / z)[:2]
            alphas[i] = opacity * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(blurred), offset))
        results.append(composited(alphas, camera[:, 2], colors, background.double().numpy()[b]))
    return tuple(map(np.stack, zip(*results, strict=True)))


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.slow
def test_matches_the_dense_reference(mode: str) -> None:
    views = cameras(3)
    inputs = hard_scene(views)
    background = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.2, 0.9]], dtype=torch.float64)
    raster = rasterize(*inputs, views, background, mode=mode, backend="torch")
    for ours, reference in zip(raster[:3], dense(inputs, views, background, mode), strict=True):
        np.testing.assert_allclose(ours.numpy(), reference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_any_number_of_features(backend: str, channels: int) -> None:
    views = cameras(2, size=10)
    inputs = [*scene(10)[:4], torch.randn(10, channels, dtype=torch.float64)]
    background = torch.linspace(-1, 2, channels, dtype=torch.float64)
    raster = rasterize(*inputs, views, background, backend=backend)
    reference = dense(inputs, views, background.expand(2, channels), "classic")
    np.testing.assert_allclose(raster.image.numpy(), reference[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("mode", "sh_degree", "size"),
    [("classic", 1, 0.25), ("antialiased", None, 0.25), ("surfels", None, 0.5), ("surfels", None, 0.01)],
)
@pytest.mark.slow
def test_gradcheck(mode: str, sh_degree: int | None, size: float) -> None:
    """Of discs, most are wider than the filter, or none. Numba's gradients are compared in `test_numba_is_torch`."""
    views = cameras(1, size=4)
    inputs = scene(3, seed=3, size=size)
    if sh_degree is not None:
        inputs[4] = 0.3 * torch.randn(3, (sh_degree + 1) ** 2, 3, dtype=torch.float64)
    inputs = leaves([*inputs, torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)])

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        *gaussians, behind = tensors
        return rasterize(*gaussians, views, behind, sh_degree, mode, "torch")[:3]

    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_numba_is_torch(dtype: torch.dtype, tolerance: float, mode: str) -> None:
    views = cameras(3, size=32)
    means, quats, scales, opacities, _ = hard_scene(views, dtype)
    sh = 0.3 * torch.randn(len(means), 16, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    background = torch.rand(3, 3, generator=torch.Generator().manual_seed(2)).to(dtype)
    results = []
    for backend in ("torch", "numba"):
        inputs = leaves([means, quats, scales, opacities, sh, background])
        raster = rasterize(*inputs[:5], views, inputs[5], 3, mode, backend)
        assert raster.image.dtype == dtype
        results.append([value.detach().double() for value in (*raster, *gradients(raster, inputs))])
    for reference, ours in zip(*results, strict=True):
        assert (ours - reference).norm() < tolerance * reference.norm()


def test_each_precision_has_compiled_files_of_its_own() -> None:
    """Or else two processes that compile for different types at once name a file for one the other's, for ever."""
    for kernels in (numba_backend._forward, numba_backend._backward):
        names = {kernel.py_func.__qualname__ for kernel in kernels.values()}
        assert len(names) == 2 and all(len(kernel.signatures) <= 1 for kernel in kernels.values())


def test_compiled_code_without_a_place_is_a_sentence() -> None:
    """A function that is in no file has none, as one in a folder that is read-only without a home."""
    exec("def function():\n    pass", functions := {})
    with pytest.raises(CannotWrite, match="no locator available .*; set NUMBA_CACHE_DIR to a folder that you may"):
        numba_backend._kernel(functions["function"])


def test_place_and_size_of_a_round_gaussian_in_closed_form() -> None:
    views = ring(1, elevation_deg=0.0, distance=3.0, fov_deg=40.0, size=9)
    shape = torch.zeros(1, 3), torch.tensor([[0.3, -2.0, 1.0, 0.1]]), torch.full((1, 3), 0.3), torch.tensor([0.7])
    raster = rasterize(*shape, torch.ones(1, 1), views, torch.zeros(1))
    variance = (4.5 / math.tan(math.radians(20)) * 0.3 / 3.0) ** 2 + 0.3
    torch.testing.assert_close(raster.means2d[0, 0], torch.tensor([4.5, 4.5]))
    assert raster.radii[0, 0].tolist() == [math.ceil(math.sqrt(2 * math.log(255 * 0.7) * variance))] * 2


@EACH
def test_culled_and_broken_gaussians_leave_the_others_alone(backend: str, mode: str) -> None:
    how = {"backend": backend, "mode": mode}
    views, nan, inf = cameras(2, dtype=torch.float32), float("nan"), float("inf")
    good, bad = scene(20, dtype=torch.float32), scene(7, seed=1, dtype=torch.float32)
    bad[0][0, 0], bad[2][1, 1], bad[3][2], bad[1][3, 0] = nan, nan, nan, nan
    bad[0][4, 1], bad[2][5] = inf, inf
    if mode == "classic":
        bad[0][6], bad[2][6] = 0.0, 1e9  # its determinant is infinite
    else:
        bad = [values[:6] for values in bad]
    both = leaves([torch.cat(pair) for pair in zip(good, bad, strict=True)])
    raster = rasterize(*both, views, torch.ones(3), **how)
    assert (raster.radii[:, 20:] == 0).all()
    alone = rasterize(*good, views, torch.ones(3), **how)
    torch.testing.assert_close(raster.image, alone.image)
    raster.image.sum().backward()
    assert all(tensor.grad[:20].isfinite().all() for tensor in both) and (alone.radii > 0).any()


@EACH
def test_nothing_to_draw(backend: str, mode: str) -> None:
    background = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    raster = rasterize(*scene(0, dtype=torch.float32), cameras(2), background, backend=backend, mode=mode)
    raster.image.sum().backward()
    assert (raster.image == background).all() and (raster.alpha == 0).all() and (raster.depth == 0).all()
    assert background.grad.tolist() == [2 * 20 * 24] * 3


def test_the_numba_kernel_does_not_depend_on_the_number_of_threads() -> None:
    from asdkit.rendering.numba_backend import composite

    views = cameras(3, size=24, dtype=torch.float32)
    inputs = scene(300, dtype=torch.float32)
    projection = project(Scene(*inputs[:4], views.w2c, views.K, views.width, views.height))
    features = inputs[4].expand(3, 300, 3)
    runs = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            means2d, conics, opacities, colors = leaves([*projection[:2], projection.opacities, features])
            leafed = Projection(means2d, conics, projection.depths, opacities, projection.radii)
            blended, transmittance = composite(leafed, colors, views.width, views.height)
            torch.autograd.backward([blended, transmittance], [blended.detach(), transmittance.detach()])
            runs.append([blended, transmittance, means2d.grad, conics.grad, opacities.grad, colors.grad])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("mode", ["classic", "surfels"])
def test_autocast_is_switched_off(mode: str) -> None:
    inputs, views = scene(30, dtype=torch.float32), cameras(1, dtype=torch.float32)
    plain = rasterize(*inputs, views, torch.ones(3), mode=mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rasterize(*inputs, views, torch.ones(3), mode=mode).image, plain.image)


def test_spherical_harmonics_are_those_of_scipy() -> None:
    dirs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, z = torch.nn.functional.normalize(dirs, dim=1).numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), theta, phi)
            expected.append(value.real if order == 0 else math.sqrt(2) * (value.imag if order < 0 else value.real))
    coeffs = torch.randn(50, 16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for degree in range(4):
        needed = (degree + 1) ** 2
        np.testing.assert_allclose(np.stack(sh_polynomials(degree, x, y, z)), expected[:needed], atol=1e-12)
        colors = np.maximum(np.einsum("kn,nkc->nc", np.stack(expected[:needed]), coeffs[:, :needed].numpy()) + 0.5, 0)
        np.testing.assert_allclose(spherical_harmonics(degree, dirs, coeffs).numpy(), colors, atol=1e-12)
        assert (colors == 0).any() and (colors > 1).any()


def test_unknown_modes_and_backends_are_told_in_a_sentence() -> None:
    for wrong in ({"mode": "surfel"}, {"backend": "opengl"}):
        with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):  # the latter where types are checked
            rasterize(*scene(4), cameras(1), torch.zeros(3), **wrong)


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, asdkit.generators.gaussians; print({'numba', 'gsplat', 'trimesh', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("mode", "sh_degree"), [("classic", None), ("antialiased", None), ("classic", 3)])
def test_gsplat_is_torch(mode: str, sh_degree: int | None) -> None:
    (reference, reference_grads), (ours, grads) = by_torch_and_gsplat(mode, sh_degree)
    assert torch.quantile((ours.image - reference.image).abs().flatten(), 0.999) < 1e-4
    assert torch.quantile((ours.alpha - reference.alpha).abs().flatten(), 0.999) < 1e-4
    assert torch.quantile((ours.depth - reference.depth).abs().flatten(), 0.99) < 1e-3
    for one, two in zip(grads, reference_grads, strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.9999
        assert abs(one.norm() / two.norm() - 1) < 1e-3
