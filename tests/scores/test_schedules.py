"""The noise schedule against diffusers and against formulas."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import TypeCheckError
from torch import Tensor

from asdkit.scores.equations import weight
from asdkit.scores.schedules import ALPHA_FLOOR, Schedule, rectified_flow, scaled_linear, variance_preserving

T = torch.tensor([0, 1, 137, 500, 998, 999])
KINDS = ("epsilon", "v_prediction", "sample")
ALL_KINDS = (*KINDS, "flow_prediction")
CASES = [*((kind, False) for kind in KINDS), ("v_prediction", True)]


def _draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(len(T), 4, 3, 5, generator=random, dtype=torch.float64).to(dtype) for _ in range(3))


def _scheduler(kind: str, zero_snr: bool = False):
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDPMScheduler(**betas, prediction_type=kind, clip_sample=False, rescale_betas_zero_snr=zero_snr)


def _schedule(kind: str, zero_snr: bool = False) -> Schedule:
    if kind == "flow_prediction":
        return rectified_flow(torch.linspace(1, 1000, 1000) / 1000)
    return variance_preserving(_scheduler(kind, zero_snr).alphas_cumprod, kind)


def test_levels_are_diffusers_preserve_variance_and_keep_their_digits() -> None:
    schedule, reference = scaled_linear(), _scheduler("epsilon")
    assert len(schedule) == 1000
    assert schedule.alpha(T).shape == (6, 1, 1, 1)
    assert torch.allclose(schedule.alphas**2, reference.alphas_cumprod.double(), atol=1e-6)
    assert torch.allclose(schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2, torch.ones(6, 1, 1, 1).double(), atol=1e-12)
    assert schedule.alphas[-1].item() == pytest.approx(0.0683, abs=1e-4)
    assert (schedule.alphas.diff() < 0).all() and (schedule.sigmas.diff() > 0).all()
    assert torch.equal(schedule.times, torch.arange(1000))
    cumprod = torch.tensor([0.99915], dtype=torch.float32)
    expected = (1 - cumprod.double()).sqrt()
    assert torch.allclose(variance_preserving(cumprod).sigmas, expected, rtol=1e-15, atol=0)
    early = torch.tensor([0.001, 0.3], dtype=torch.float32)
    assert torch.equal(rectified_flow(early).alphas, 1 - early.double())


@pytest.mark.parametrize(("kind", "zero_snr"), CASES)
def test_noise_targets_and_conversions_are_diffusers(kind: str, zero_snr: bool) -> None:
    x0, eps, _ = _draw()
    schedule, reference = _schedule(kind, zero_snr), _scheduler(kind, zero_snr)
    assert (reference.alphas_cumprod[-1] == 0) == zero_snr
    assert torch.allclose(schedule.add_noise(x0, T, eps), reference.add_noise(x0, eps, T).double(), atol=2e-6)
    expected = {"epsilon": eps, "v_prediction": reference.get_velocity(x0, eps, T), "sample": x0}[kind]
    assert torch.allclose(schedule.target(x0, T, eps).double(), expected.double(), atol=2e-6)
    x_t, output, _ = _draw()
    x0 = schedule.eps_to_x0(schedule.to_eps(output, x_t, T), x_t, T)
    for row, t in enumerate(T.tolist()):
        expected = reference.step(output[row : row + 1], t, x_t[row : row + 1]).pred_original_sample[0]
        assert torch.allclose(x0[row], expected.double(), rtol=1e-4, atol=1e-4)


def test_a_flow_is_diffusers() -> None:
    """Levels, times and noising; and an Euler step of x_t along an output is a step of the schedule."""
    x0, eps, output = _draw()
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = rectified_flow(reference.sigmas.flip(0))
    assert len(schedule) == 1000 and (schedule.sigmas.diff() > 0).all()
    assert torch.allclose(schedule.alphas + schedule.sigmas, torch.ones(1000).double(), atol=1e-7)
    assert schedule.sigmas[499].item() == pytest.approx(0.75, abs=1e-6)  # 3 (1/2) / (1 + 2 (1/2))
    assert torch.allclose(schedule.times, reference.timesteps.flip(0), atol=1e-3)
    noised = reference.scale_noise(x0, reference.timesteps[999 - T], eps)
    assert torch.allclose(schedule.add_noise(x0, T, eps), noised.double(), atol=1e-6)
    assert torch.allclose(schedule.target(x0, T, eps), eps - x0)
    x_t, t, after = schedule.add_noise(x0, T, eps)[1:], T[1:], T[1:] - 1
    e = schedule.to_eps(output[1:], x_t, t)
    step = schedule.add_noise(schedule.eps_to_x0(e, x_t, t), after, e)
    s = reference.sigmas.flip(0).double()
    euler = x_t + (s[after] - s[t])[:, None, None, None] * output[1:]
    assert torch.allclose(step, euler, atol=1e-6)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_any_output_converts_by_the_affine_formula(kind: str) -> None:
    """eps = (alpha o - p x_t) / (alpha q - sigma p), for outputs that belong to no x0."""
    output, x_t, _ = _draw(torch.float64)
    schedule = _schedule(kind)
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    p, q = {"epsilon": (0, 1), "v_prediction": (-sigma, alpha), "sample": (1, 0), "flow_prediction": (-1, 1)}[kind]
    divisor = alpha * q - sigma * p
    eps = schedule.to_eps(output, x_t, T)
    assert torch.allclose(eps, (alpha * output - p * x_t) / divisor, rtol=1e-12, atol=1e-11)
    x0 = schedule.eps_to_x0(eps, x_t, T)
    assert torch.allclose(x0, (q * x_t - sigma * output) / divisor, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction"])
def test_a_difference_keeps_its_digits_up_to_no_signal_at_all(kind: str) -> None:
    """The residual in x0's units, (sigma / alpha) (e_one - e_two), is -(sigma / D) times that of the outputs, at every
    t of a schedule of zero terminal SNR; through predictions in single precision half of the digits would be lost.
    """
    t = torch.arange(1000)
    schedule = _schedule(kind, zero_snr=True)
    assert schedule.alphas[-1] == ALPHA_FLOOR
    random = torch.Generator().manual_seed(0)
    x_t, one, two = (torch.randn(1000, 1, 4, 4, generator=random) for _ in range(3))
    x_t = x_t.double()
    residual = schedule.to_eps(one, x_t, t) - schedule.to_eps(two, x_t, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    divisor = 1.0 if kind == "v_prediction" else alpha + sigma
    found = weight("sigma_over_alpha", alpha, sigma) * residual
    assert torch.allclose(found, sigma / divisor * (one.double() - two.double()), rtol=1e-6, atol=1e-6)
    assert torch.allclose(residual, alpha / divisor * (one.double() - two.double()), rtol=1e-6, atol=1e-15)


def test_casts_leave_the_levels_in_double() -> None:
    assert not scaled_linear().state_dict()  # no checkpoint holds them
    schedule = torch.nn.Sequential(scaled_linear()).to(torch.bfloat16)[0]
    assert schedule.alphas.dtype == schedule.sigmas.dtype == torch.float64
    assert torch.equal(schedule.alphas, scaled_linear().alphas) and schedule.times.dtype == torch.int64
    flow = torch.nn.Sequential(_schedule("flow_prediction")).to(torch.bfloat16)[0]
    assert torch.allclose(flow.times, torch.arange(1, 1001).float(), rtol=0, atol=1e-3)


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="velocity"):
        variance_preserving(torch.tensor([0.9, 0.5]), "velocity")
    for bad in ([1.1, 0.5], [0.9, float("nan")], [0.9, -0.1], [1.0, 0.5]):  # the last: no noise at all to predict
        with pytest.raises(ValueError, match="within"):
            variance_preserving(torch.tensor(bad))
