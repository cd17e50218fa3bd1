"""A discriminator on another network than the prior: the paper's released code has one that predicts v."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from support.four_views import drawn
from support.tiny import TEXT, loaded, ready, save_tiny_pipeline
from support.tiny_families import make

from asdkit import ASD, Embedding, LoRA, Pretrained, ReleasedASD, UNetCopy
from asdkit.rendering.cameras import ring
from asdkit.scores.equations import discriminator_loss, released_loss
from asdkit.scores.prior import Condition
from asdkit.scores.schedules import scaled_linear

Y = Condition(TEXT)
T = torch.tensor([20, 500, 979])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prior that predicts eps, and another model of the same latents that predicts v."""
    root = tmp_path_factory.mktemp("two")
    prior = save_tiny_pipeline(root / "eps", prediction="epsilon", camera=False)
    return prior, save_tiny_pipeline(root / "v", prediction="v_prediction", camera=False, seed=1)


@pytest.mark.parametrize("adapter", [LoRA, Embedding])
def test_phi_starts_as_the_other_model_and_stays_in_the_priors_space(adapter: type, folders: tuple) -> None:
    prior, other = loaded(folders[0]), loaded(folders[1])
    guidance = ready(ASD(7.5, -0.5, adapter(prior=Pretrained(str(folders[1])), camera=False)), prior)
    x = drawn(prior, ring(3))
    phi = guidance.second.field
    expected = other.predict(x, [Y])[0]
    assert torch.allclose(phi(x).detach(), expected, atol=1e-6)
    assert not torch.allclose(expected, x.predict(Y), atol=1e-2)
    with torch.no_grad():  # eps = alpha v + sigma x_t, from the network's own output
        other.prepare([Y])
        rows = other.prompts.rows(x, Y)
        v = other.family.call(other.network, x.x_t.float(), x.t, rows)
    assert torch.allclose(expected, x.alpha * v + x.sigma * x.x_t, atol=1e-6)
    guidance.loss(x).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in guidance.named_parameters() if "lora_A" not in n)
    assert not any(p.requires_grad for p in prior.parameters())


def test_the_other_model_hears_the_runs_words_is_in_no_checkpoint_and_moves_with_phi(folders: tuple) -> None:
    prior, other = loaded(folders[0]), loaded(folders[1])
    for model in (prior, other):
        model.take_prompt(TEXT, {"front": "a blue ball"})
    guidance = ready(ASD(adapter=LoRA(prior=Pretrained(str(folders[1])), camera=False)), prior)
    x = drawn(prior, ring(3))  # of which the first is the front
    e_phi = guidance.second.field(x).detach()
    assert torch.allclose(e_phi, other.predict(x, [Y])[0], atol=1e-6)
    assert not torch.allclose(e_phi[0], loaded(folders[1]).predict(x, [Y])[0][0], atol=1e-3)
    guidance = ready(ASD(adapter=LoRA(prior=Pretrained(str(folders[1])))), loaded(folders[0]))
    assert all("/lora_" in key or "camera" in key for key in guidance.state_dict())
    guidance.to("meta")
    assert {p.device.type for p in guidance.second.field.adapter._other_prior.parameters()} == {"meta"}
    assert guidance.spec["init_args"]["adapter"]["init_args"]["prior"]["class_path"] == "asdkit.Pretrained"


def test_a_model_of_other_levels_or_latents_is_refused(folders: tuple, tmp_path: Path) -> None:
    flow = make("sd3", tmp_path / "flow")[0]
    pixels = make("deepfloyd", tmp_path / "pixels")[0]
    channels, levels = loaded(folders[1]), loaded(folders[1])
    channels.channels = 16
    levels.schedule = scaled_linear(beta_end=0.0125, prediction="v_prediction")
    for other in (Pretrained(str(flow)), Pretrained(str(pixels)), channels, levels):
        with pytest.raises(ValueError, match="the prior's own latents and noise levels; choose one of the same family"):
            ready(ASD(adapter=LoRA(prior=other)), loaded(folders[0]))
    with pytest.raises(TypeError):  # a copy has no other model
        UNetCopy(prior=Pretrained())


@pytest.mark.parametrize("gamma", [-0.75, -0.25, 0.5])
def test_the_released_loss_is_the_released_codes(gamma: float) -> None:
    """Written as there: all in v, with diffusers' get_velocity(x0, e_y, t) as the penalty's target."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = scaled_linear(prediction="v_prediction")
    x0, eps, e_y, v_phi = torch.randn(4, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    x_t = schedule.add_noise(x0, T, eps)
    target, text = (scheduler.get_velocity(x0, noise, T) for noise in (eps, e_y))
    expected = ((v_phi - target) ** 2 + gamma * (v_phi - text) ** 2).flatten(1).sum(1).mean()
    e_phi = schedule.to_eps(v_phi, x_t, T)
    loss = released_loss(e_phi, eps.double(), e_y.double(), gamma, schedule.alpha(T))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_released_variant_has_its_own_name(folders: tuple) -> None:
    prior = loaded(folders[0])
    guidance = ready(ReleasedASD(adapter=LoRA(camera=False)), prior)
    x = drawn(prior, ring(3))
    phi = guidance.second.field
    assert (phi.gamma, phi.scale, guidance.first.scale) == (-0.75, 7.5, 7.5)
    e_y = x.predict(Y)
    expected = released_loss(e_y, x.eps, e_y, -0.75, x.alpha)  # e_phi = e_y at the start
    assert guidance.loss(x).item() == pytest.approx(expected.item())
    assert abs(expected.item() - discriminator_loss(e_y, x.eps, e_y, -0.75).item()) > 1
