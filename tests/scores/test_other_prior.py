"""Two priors of one x0 in one expression: the sum of their scores, at the same noise level, each loaded once."""

from pathlib import Path

import pytest
import torch
from support.gaussian_world import LEVELS, draw, ready
from support.tiny import TEXT, loaded, save_tiny_pipeline
from support.tiny import ready as tiny_ready

from asdkit import ASD, CFG, SDS, Field, GaussianPrior, LoRA, Noise, OtherPrior, Pretrained, Scaled, Sum
from asdkit.lab import Affine, gaussian_eps
from asdkit.rendering.cameras import ring
from asdkit.scores.prior import Condition
from asdkit.scores.schedules import rectified_flow, scaled_linear
from asdkit.testing import check_field
from asdkit.testing.templates.prior import Template

K, MU, SPREAD, OTHER_MU, OTHER_SPREAD = 0.5, 1.0, 0.5, -0.75, 0.25
T = torch.tensor([20, 500, 979])


def priors() -> tuple[GaussianPrior, GaussianPrior]:
    """Two worlds of Gaussians; the other has twice the levels, of which each second one is the first's."""
    other = GaussianPrior({"y": OTHER_MU}, spread=OTHER_SPREAD, steps=20)
    return GaussianPrior({"y": MU}, spread=SPREAD, steps=10).double(), other.double()


def pull(scale: float = 1.0) -> Field:
    return CFG(scale=scale) - Noise()


def test_the_value_is_the_sum_of_both_closed_forms() -> None:
    prior, other = priors()
    x = draw(prior, 0.3, 0.6)
    field = ready(pull() + K * OtherPrior(pull(), other), prior)
    first, second = (
        gaussian_eps(x.x_t, x.alpha, x.sigma, mean, spread) - x.eps
        for mean, spread in ((MU, SPREAD), (OTHER_MU, OTHER_SPREAD))
    )
    assert torch.allclose(field(x), first + K * second, rtol=0, atol=1e-12)


def test_the_nearest_level_by_a_slow_loop() -> None:
    flow, diffusion = rectified_flow(torch.linspace(0.001, 1, 50)), scaled_linear()
    for t in (0, 13, 49):
        ratio = flow.alphas[t] / flow.sigmas[t]
        distances = [abs((a / s / ratio).log().item()) for a, s in zip(diffusion.alphas, diffusion.sigmas, strict=True)]
        assert diffusion.nearest(ratio.reshape(1, 1, 1, 1)).item() == distances.index(min(distances))
    for t in range(0, 1000, 99):
        assert diffusion.nearest((diffusion.alphas[t] / diffusion.sigmas[t]).reshape(1, 1, 1, 1)).item() == t


def test_what_learns_inside_learns_as_on_the_other_prior_alone() -> None:
    prior, other = priors()
    alone = ready(ASD(gamma=-0.25, adapter=Affine(20)), other)
    field = ready(pull() + K * OtherPrior(ASD(gamma=-0.25, adapter=Affine(20)), priors()[1]), prior).double()
    x, beside = draw(prior, 0.3, 0.6), draw(other, 0.3, 0.6, 2 * LEVELS + 1)
    loss, expected = field.loss(x), alone.double().loss(beside)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    for parameter, reference in zip(field.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(parameter.grad, reference.grad, rtol=1e-9) and parameter.grad.any()
    assert field.diagnostics(x)["gap"] == pytest.approx(alone.diagnostics(beside)["gap"])


def test_networks_of_two_kinds_are_each_loaded_once_and_in_no_checkpoint(four_folder: Path, tiny_folder: Path) -> None:
    prior, (own, other) = loaded(four_folder), map(str, (four_folder, tiny_folder))
    of_other, of_own = (OtherPrior(CFG(scale=1), Pretrained(path)) for path in (other, own))
    adapter = LoRA(prior=Pretrained(other), camera=False)
    guidance = tiny_ready(ASD(adapter=adapter) + 2 * of_other + of_own, prior)
    assert of_own.prior is prior and adapter.model(prior) is of_other.prior
    assert [model.path for model in prior.models] == [own, other] and of_other.prior.models is prior.models
    assert all("/lora_" in key for key in guidance.state_dict())
    x, y = prior.draw(torch.randn(3, 4, 8, 8), T, torch.randn(3, 4, 8, 8), ring(3)), Condition(TEXT)
    e_y = loaded(tiny_folder, y).predict(x, [y])[0]
    assert torch.allclose(of_other(x), e_y, atol=1e-6) and torch.equal(of_own(x), x.predict(y))
    guidance.to("meta")
    assert {p.device.type for model in prior.models for p in model.parameters()} == {"meta"}


def test_a_prior_of_another_x0_is_refused(four_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_pipeline(tmp_path / "other", scaling_factor=3.0)
    with pytest.raises(ValueError, match="The other prior makes another x0 of the same picture, .* autoencoder"):
        tiny_ready(OtherPrior(CFG(), Pretrained(str(other))), loaded(four_folder))


def test_a_sum_is_rebuilt_from_its_spec_and_passes_the_checks() -> None:
    expression = Sum(ASD(gamma=-0.25), Scaled(OtherPrior(SDS(7.5), Pretrained(use_camera=False)), 0.3))
    second = expression.spec["init_args"]["second"]["init_args"]
    assert second["scale"] == 0.3 and second["field"]["class_path"] == "asdkit.OtherPrior"
    assert second["field"]["init_args"]["prior"]["init_args"]["use_camera"] is False
    check_field(lambda: SDS(7.5) + 0.5 * OtherPrior(ASD(), Template(seed=1)))
