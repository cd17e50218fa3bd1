"""Eq. 7's weights, Eq. 10 and the injected gradient against slow loops and autograd."""

import colorsys

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from asdkit import ASD, Discriminator, Ramp
from asdkit.lab import Affine
from asdkit.scores.equations import discriminator_loss, effective_scale, hsv_saturation, inject, sharpness, weight

GAMMAS = (-0.75, -0.5, 0.0, 0.5, 4.0)
B = 3


def _three() -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(B, 2, 3, 4, generator=random, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_eq10_is_the_slow_loop_and_pulls_to_the_extrapolated_target(gamma: float) -> None:
    """Its gradient is (1+gamma) 2 (e_phi - target) / B, target = (eps + gamma e_y) / (1+gamma); zero at the target."""
    e_phi, eps, e_y = _three()
    total = 0.0
    for row in range(B):
        for phi, noise, real in zip(e_phi[row].flatten(), eps[row].flatten(), e_y[row].flatten(), strict=True):
            total += (phi - noise).item() ** 2 + gamma * (real - phi).item() ** 2
    assert discriminator_loss(e_phi, eps, e_y, gamma).item() == pytest.approx(total / B, rel=1e-12)
    target = (eps + gamma * e_y) / (1 + gamma)
    e_phi.requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator_loss(e_phi, eps, e_y, gamma), e_phi)
    assert torch.allclose(gradient, (1 + gamma) * 2 * (e_phi.detach() - target) / B, atol=1e-12)
    (at_target,) = torch.autograd.grad(discriminator_loss(at := target.requires_grad_(), eps, e_y, gamma), at)
    assert at_target.abs().max() < 1e-12


def test_eq10_is_affine_at_gamma_minus_one() -> None:
    e_phi, eps, e_y = _three()
    direction = torch.ones_like(e_phi)
    low, middle, high = (discriminator_loss(e_phi + s * direction, eps, e_y, -1.0) for s in (-5.0, 0.0, 5.0))
    assert (low - 2 * middle + high).abs() < 1e-9
    assert (high - middle).abs() > 1e-2


def test_injected_gradient_is_exact() -> None:
    x0, gradient, _ = _three()
    x0.requires_grad_()
    gradient.requires_grad_()
    inject(x0, gradient).backward()
    assert torch.allclose(x0.grad, gradient.detach() / B, rtol=1e-15, atol=0)
    assert gradient.grad is None


def test_weights_and_the_effective_scale() -> None:
    alpha = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64).reshape(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    expected = {"uniform": torch.ones_like(alpha), "sigma2": 1 - alpha**2}
    expected |= {"sigma_over_alpha": sigma / alpha, "alpha_over_sigma": alpha / sigma}
    for name, value in expected.items():
        assert torch.allclose(weight(name, alpha, sigma), value, rtol=1e-14), name
    with pytest.raises((ValueError, TypeCheckError), match="sigma"):
        weight("sigma", alpha, sigma)
    for gamma, expected in ((0.0, 7.5), (-0.5, 4.25), (-0.75, 2.625), (-1.0, 1.0), (1.0, 14.0)):
        assert effective_scale(7.5, gamma) == pytest.approx(expected)
    assert effective_scale(1.0, 3.0) == 1.0


@pytest.mark.parametrize("gamma", [-1.0, -1.25, Ramp(0.0, -1.0, 10), Ramp(-2.0, 0.0, 10)])
def test_unbounded_gamma_is_refused_unless_meant(gamma: float | Ramp) -> None:
    for make in (Discriminator, lambda adapter, gamma: ASD(gamma=gamma, adapter=adapter)):
        with pytest.raises(ValueError, match="gamma must be above -1.* got .*allow_unbounded"):
            make(Affine(), gamma)
    assert Discriminator(Affine(), gamma, allow_unbounded=True).gamma == gamma
    ASD(gamma=gamma, adapter=Affine(), allow_unbounded=True)
    Discriminator(Affine(), -0.999)


def test_saturation_is_hsvs_and_sharpness_is_of_the_four_neighbours() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(B, 3, 4, 5, generator=random)
    images[0, :, :2] = 0
    expected = [sum(colorsys.rgb_to_hsv(*pixel)[1] for pixel in image.flatten(1).T.tolist()) / 20 for image in images]
    assert hsv_saturation(images).tolist() == pytest.approx(expected, abs=1e-6)
    grey, red, black = (torch.tensor(colour).reshape(1, 3, 1, 1) for colour in ([0.4] * 3, [1.0, 0, 0], [0.0] * 3))
    assert [hsv_saturation(picture).item() for picture in (grey, red, black)] == [0.0, 1.0, 0.0]
    image = torch.rand(1, 3, 5, 6)
    total = 0.0
    for c in range(3):
        for y in range(1, 4):
            for x in range(1, 5):
                near = [image[0, c, y + dy, x + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
                total += abs(float(image[0, c, y, x] - sum(near) / 4))
    assert sharpness(image).item() == pytest.approx(total / (3 * 3 * 4), rel=1e-5)
