"""What a model's folder says of its mathematics is honoured or refused: every scheduler of diffusers, and the latents'
mean and deviation."""

import math
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from support.tiny import loaded
from support.tiny_families import make

from asdkit.core.errors import PriorUnavailable
from asdkit.priors.families import noise_levels

_REFUSED = """Amused BlockRefinement CMStochasticIterative CosineDPMSolverMultistep DDPMWuerstchen DiscreteDDIM
EDMDPMSolverMultistep EDMEuler EntropyBound FlowMapEulerDiscrete HeliosDMD Helios IPNDM KarrasVe LTXEulerAncestralRF
MiniMaxH3 Piflow RFD4Proteina SCM ScoreSdeVe VQDiffusion"""
REFUSED = {f"{name}Scheduler" for name in _REFUSED.split()}  # continuous, of tokens, or of a mathematics of their own
# these add no noise, or need torchsde
UNMEASURED = {"DDIMInverseScheduler", "RePaintScheduler", "DPMSolverSDEScheduler"}
SCALED = ("Euler", "Heun", "KDPM2", "LMS")  # x_t is alpha x0 + sigma eps once scale_model_input has been called
NAMES = [name for name in dir(diffusers) if name.endswith("Scheduler")]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def _settings(name: str, **further: Any) -> dict[str, Any]:
    try:
        config = dict(getattr(diffusers, name)(**further).config)
    except (ImportError, TypeError):  # a package, or an argument, is missing
        config = further
    return config | {"_class_name": name}


def _noisy(scheduler: Any, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The scheduler's own x_t, sample by sample."""
    if hasattr(scheduler, "scale_noise"):
        return torch.cat([scheduler.scale_noise(x0[i : i + 1], t[i : i + 1], eps[i : i + 1]) for i in range(len(t))])
    noisy = scheduler.add_noise(x0, eps, t)
    if not type(scheduler).__name__.startswith(SCALED):
        return noisy
    rows = []
    for row, time in zip(noisy, t, strict=True):
        scheduler._step_index = None
        rows.append(scheduler.scale_model_input(row, time))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_has_its_own_levels_or_is_refused(name: str) -> None:
    settings = _settings(name)
    if name in REFUSED:
        with pytest.raises(PriorUnavailable, match=f"scheduler is {name}, .*; asdkit takes variance-preserving"):
            noise_levels(settings, 1024)
        return
    schedule = noise_levels(settings, 1024)
    if name in UNMEASURED:
        settings, name = settings | {"_class_name": "DDPMScheduler"}, "DDPMScheduler"
    scheduler = getattr(diffusers, name).from_config(settings)
    if name not in ("LCMScheduler", "TCDScheduler"):
        scheduler.set_timesteps(len(schedule))
    times = scheduler.timesteps.unique() if len(scheduler.timesteps) >= 1000 else torch.arange(1000)
    t = times[torch.tensor([100, 500, 900])]
    x0, eps = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    nearest = (schedule.times.double() - t.double()[:, None]).abs().argmin(1)
    tolerance = 2e-3 if "Inverse" in name else 1e-5  # whose own times are rounded differently
    if name == "FlowMatchHeunDiscreteScheduler":
        expected = (1 - t / 1000).reshape(-1, 1, 1, 1) * x0 + (t / 1000).reshape(-1, 1, 1, 1) * eps
    else:
        expected = _noisy(scheduler, x0, t, eps)
    assert torch.allclose(schedule.add_noise(x0, nearest, eps).float(), expected.float(), atol=tolerance)


def test_a_flow_of_fewer_steps_is_told_its_own_times() -> None:
    settings = _settings("FlowMatchEulerDiscreteScheduler", num_train_timesteps=500, shift=3.0)
    expected = diffusers.FlowMatchEulerDiscreteScheduler.from_config(settings).timesteps
    assert torch.allclose(noise_levels(settings, 64).times.flip(0), expected, atol=1e-3) and len(expected) == 500


@pytest.mark.parametrize("settings", [FLOW, FLOW | {"use_dynamic_shifting": True}], ids=["shifted", "by tokens"])
@pytest.mark.parametrize("name", ["DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"])
def test_flow_sigmas_of_other_classes(name: str, settings: dict[str, Any]) -> None:
    """At one half, 3 s / (1 + 2 s); shifted by tokens, it is exp(mu) that multiplies, mu being linear in them."""
    name = f"{name}Scheduler"
    scheduler, mu = getattr(diffusers, name)(**settings), 0.5 + 0.65 * (1024 - 256) / (4096 - 256)
    scheduler.set_timesteps(500, **({"mu": mu} if "use_dynamic_shifting" in settings else {}))
    schedule = noise_levels(_settings(name, **settings), 1024)
    assert schedule.prediction == "flow_prediction"
    for sigma in scheduler.sigmas[[0, 100, 400]].double():
        assert (schedule.sigmas - sigma).abs().min() < 1.5e-3
    shift = math.exp(mu) if "use_dynamic_shifting" in settings else 3.0
    assert schedule.sigmas[499] == pytest.approx(shift / (1 + shift), abs=1e-6)
    unshifted = {name: value for name, value in FLOW.items() if name != "flow_shift"} | {"_class_name": name}
    assert noise_levels(unshifted, 1024).sigmas[499] == pytest.approx(0.5)


OTHER: list[dict[str, Any]] = [
    _settings("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction"),
    _settings("DPMSolverMultistepScheduler", prediction_type="flow_prediction"),
    _settings("FlowMatchEulerDiscreteScheduler") | {"invert_sigmas": True},
    *(_settings("DDIMScheduler") | {"num_train_timesteps": steps} for steps in (10**12, "x")),
    *({"_class_name": "DDIMScheduler"} | bad for bad in ({"trained_betas": [math.nan]}, {"beta_start": -0.1})),
    _settings("FlowMatchEulerDiscreteScheduler", shift=3.0) | {"shift": None},
    *({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 0}, {"_class_name": "os"}, {}),
]


@pytest.mark.parametrize("settings", OTHER)
def test_other_mathematics_is_refused_in_a_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(PriorUnavailable, match="asdkit takes"):
        noise_levels(settings, 1024)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_flow_with_a_scheduler_of_no_flow_is_refused(family: str, tmp_path: Path) -> None:
    folder = make(family, tmp_path / "model")[0]
    diffusers.DPMSolverMultistepScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(PriorUnavailable, match="is a flow, and its scheduler, DPMSolver"):
        loaded(folder)
    shutil.rmtree(folder / "scheduler")
    diffusers.DPMSolverMultistepScheduler(**FLOW).save_pretrained(folder / "scheduler")
    assert loaded(folder).schedule.prediction == "flow_prediction"


def test_the_latents_mean_and_deviation_of_each_channel(tmp_path: Path) -> None:
    """As StableDiffusionXLPipeline decodes: z = x0 std / scale + mean."""
    folder, pipeline = make("sdxl", tmp_path / "model")
    mean, std = torch.tensor([0.5, -1.0, 2.0, 0.1]), torch.tensor([2.0, 0.5, 1.5, 3.0])
    pipeline.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    pipeline.vae.save_pretrained(folder / "vae")
    prior, scale = loaded(folder), pipeline.vae.config.scaling_factor
    x0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    z = x0 * std[:, None, None] / scale + mean[:, None, None]
    with torch.no_grad():
        expected = pipeline.vae.decode(z).sample / 2 + 0.5
        images = torch.rand(1, 3, 32, 32)
        encoded = pipeline.vae.encode(images * 2 - 1).latent_dist.mean
    assert torch.allclose(prior.decode(x0), expected.clamp(0, 1), atol=1e-5)
    expected = (encoded - mean[:, None, None]) / std[:, None, None] * scale
    assert torch.allclose(prior.encode(images), expected, atol=1e-5)
