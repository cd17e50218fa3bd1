"""The noise schedule against diffusers and against formulas."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from asdkit.schedules import Schedule, scaled_linear

T = torch.tensor([0, 1, 137, 500, 998, 999])
KINDS = ("epsilon", "v_prediction", "sample")


def _draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(len(T), 4, 3, 5, generator=random, dtype=torch.float64).to(dtype) for _ in range(3))


def _scheduler(kind: str):
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind, clip_sample=False
    )


def _exact(kind: str) -> Schedule:
    """The schedule in float64."""
    return Schedule(scaled_linear().alphas.double().square(), kind)


def test_levels_are_diffusers_and_preserve_variance() -> None:
    schedule, reference = scaled_linear(), _scheduler("epsilon")
    assert len(schedule) == 1000
    assert schedule.alpha(T).shape == (6, 1, 1, 1)
    assert torch.allclose(schedule.alphas**2, reference.alphas_cumprod, atol=1e-6)
    assert torch.allclose(schedule.alpha(T).flatten() ** 2 + schedule.sigma(T).flatten() ** 2, torch.ones(6), atol=1e-6)
    assert schedule.alphas[-1].item() == pytest.approx(0.0683, abs=1e-4)
    assert (schedule.alphas.diff() < 0).all() and (schedule.sigmas.diff() > 0).all()


def test_small_sigma_keeps_its_digits() -> None:
    cumprod = torch.tensor([0.99915], dtype=torch.float32)
    expected = (1 - cumprod.double()).sqrt()
    assert torch.allclose(Schedule(cumprod).sigmas.double(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_targets_are_diffusers(kind: str) -> None:
    x0, eps, _ = _draw()
    schedule, reference = scaled_linear(prediction=kind), _scheduler(kind)
    assert torch.allclose(schedule.add_noise(x0, T, eps), reference.add_noise(x0, eps, T), atol=2e-6)
    expected = {"epsilon": eps, "v_prediction": reference.get_velocity(x0, eps, T), "sample": x0}[kind]
    assert torch.allclose(schedule.target(x0, T, eps), expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_are_those_of_diffusers_step(kind: str) -> None:
    x_t, output, _ = _draw()
    schedule, reference = scaled_linear(prediction=kind), _scheduler(kind)
    x0 = schedule.eps_to_x0(schedule.to_eps(output, x_t, T), x_t, T)
    for row, t in enumerate(T.tolist()):
        expected = reference.step(output[row : row + 1], t, x_t[row : row + 1]).pred_original_sample[0]
        assert torch.allclose(x0[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips_in_float64(kind: str) -> None:
    x0, eps, _ = _draw(torch.float64)
    schedule = _exact(kind)
    assert schedule.alphas.dtype == torch.float64
    x_t = schedule.add_noise(x0, T, eps)
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    assert torch.equal(x_t, alpha * x0 + sigma * eps)
    found = schedule.to_eps(schedule.target(x0, T, eps), x_t, T)
    assert torch.allclose(found, eps, atol=1e-11)
    assert torch.allclose(schedule.eps_to_x0(found, x_t, T), x0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_any_output_converts_by_the_affine_formula(kind: str) -> None:
    """eps = (alpha o - p x_t) / (alpha q - sigma p), for outputs that belong to no x0."""
    output, x_t, _ = _draw(torch.float64)
    schedule = _exact(kind)
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    p, q = {"epsilon": (0.0, 1.0), "v_prediction": (-sigma, alpha), "sample": (1.0, 0.0)}[kind]
    divisor = alpha * q - sigma * p
    eps = schedule.to_eps(output, x_t, T)
    assert torch.allclose(eps, (alpha * output - p * x_t) / divisor, atol=1e-11)
    assert torch.allclose(schedule.eps_to_x0(eps, x_t, T), (q * x_t - sigma * output) / divisor, atol=1e-11)


def test_wrong_schedules_are_refused() -> None:
    good = torch.tensor([0.9, 0.5])
    with pytest.raises((ValueError, TypeCheckError), match="flow"):
        Schedule(good, "flow")
    for bad in ([0.9, 0.0], [1.1, 0.5], [0.9, float("nan")]):
        with pytest.raises(ValueError, match="within"):
            Schedule(torch.tensor(bad))


def test_schedule_is_no_checkpoint_content() -> None:
    assert not scaled_linear().state_dict()
