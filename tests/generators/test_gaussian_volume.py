"""Gaussians as a density, against a slow loop and against their own renders."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from asdkit import Gaussians
from asdkit.formats.splats import Splats
from asdkit.generators.gaussian_volume import volume_of
from asdkit.rendering.cameras import ring


def some_splats(count: int = 40) -> Splats:
    """Gaussians of all shapes, opacities and colours."""
    draws = np.random.default_rng(1)
    values = (
        draws.uniform(-0.5, 0.5, (count, 3)), draws.normal(size=(count, 4)), draws.uniform(-3.5, -1.6, (count, 3)),
        draws.uniform(-4, 4, count), draws.normal(size=(count, 4, 3)),
    )  # fmt: skip
    return Splats(*(value.astype(np.float32) for value in values))


def test_gaussians_as_a_solid_by_a_slow_loop() -> None:
    """Covariances, their inverses and rotations by other libraries, in float64."""
    splats = some_splats()
    volume = volume_of(splats.tensors())
    points = np.random.default_rng(2).uniform(-0.6, 0.6, (300, 3))
    density, colour = np.zeros(300), np.zeros((300, 3))
    for mean, quat, log_scale, logit, sh in zip(*(np.float64(values) for values in splats), strict=True):
        rotation = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
        covariance = rotation @ np.diag(np.exp(2 * log_scale)) @ rotation.T
        away = points - mean
        squared = (away @ np.linalg.inv(covariance) * away).sum(1)
        opacity = 1 / (1 + np.exp(-logit))
        peak = -np.log(1 - opacity) / (np.sqrt(2 * np.pi) * np.linalg.det(covariance) ** (1 / 6))
        each = peak * np.exp(-squared / 2) * (opacity * np.exp(-squared / 2) >= 1 / 255)
        density += each
        colour += each[:, None] * np.maximum(0.5 + sh[0] / np.sqrt(4 * np.pi), 0)
    found_density, found_colour = volume.radiance(torch.from_numpy(points).float())
    seen = density > 1e-6
    assert 200 < seen.sum() < 300
    np.testing.assert_allclose(found_density, density, rtol=2e-3, atol=2e-3)
    expected = np.minimum(colour[seen] / density[seen, None], 1)
    np.testing.assert_allclose(found_colour[seen], expected, atol=2e-3)
    assert 0 < (expected == 1).mean() < 1 and not found_colour[~seen].any()


def one(opacity: float, scale: float, mean: tuple[float, float, float] = (0, 0, 0)) -> Gaussians:
    generator = Gaussians(count=1, capacity=3)  # what is not alive lies at the origin
    generator.means.data[0] = torch.tensor(mean)
    generator.log_scales.data[0] = math.log(scale)
    generator.opacity_logits.data[0] = math.log(opacity / (1 - opacity))
    return generator


@pytest.mark.parametrize("opacity", [0.2, 0.7, 0.99])
def test_a_round_gaussian_is_as_opaque_as_on_the_screen(opacity: float) -> None:
    generator = one(opacity, 0.2)
    volume, views = generator.volume(), ring(1, 0.0, size=65)
    along = torch.linspace(-1, 1, 4001)[:, None] * torch.tensor([0.6, 0.0, 0.8])
    depth = float(torch.trapezoid(volume.radiance(along)[0], dx=2 / 4000))
    assert 1 - math.exp(-depth) == pytest.approx(opacity, abs=0.005)
    with torch.no_grad():
        assert float(generator.render(views).alpha[0, 0, 32, 32]) == pytest.approx(opacity, abs=0.005)


def test_the_cube_holds_what_matters() -> None:
    """A Gaussian of opacity o reaches sqrt(2 log(255 o)) standard deviations along an axis."""
    reach = math.sqrt(2 * math.log(255 * 0.7))
    assert one(0.7, 0.1, (0.1, -0.5, 0.2)).volume().half == pytest.approx(0.5 + 0.1 * reach, rel=1e-5)
    splats = some_splats()
    alone = volume_of(splats.tensors())
    for place, logit, grows in ((30.0, 3.0, False), (1.3, 3.0, True), (1.3, -7.0, False)):
        means, logits, scales = (values.copy() for values in (splats.means, splats.opacity_logits, splats.log_scales))
        means[7], logits[7], scales[7] = [0, 0, -place], logit, math.log(0.05)
        volume = volume_of(splats._replace(means=means, opacity_logits=logits, log_scales=scales).tensors())
        reach = math.sqrt(2 * max(math.log(255 / (1 + math.exp(-logit))), 0))
        assert volume.half == pytest.approx(place + 0.05 * reach if grows else alone.half, rel=1e-4)
        density, _ = volume.radiance(torch.tensor([[0.0, 0.0, -place], [volume.half * 1.001, 0, 0]]))
        assert (density[0] > 1) == grows and density[1] == 0


def test_opacity_near_one_is_finite_and_nothing_is_nothing() -> None:
    generator = one(0.5, 0.1)
    generator.opacity_logits.data[0] = 60
    density, _ = generator.volume().radiance(torch.zeros(1, 3))
    assert float(density) == pytest.approx(-math.log(0.001) / (math.sqrt(2 * math.pi) * 0.1), rel=1e-3)
    volume = one(0.003, 0.1).volume()
    assert volume.half == 1 and not volume.radiance(torch.rand(9, 3))[0].any()
