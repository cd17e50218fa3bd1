"""Score fields: their algebra, their conventions, what they ask of the network, and where gradients go."""

from typing import Any

import pytest
import torch
from support.exact import LEVELS, B, bent, close, draw, e, randn, ready
from torch import Tensor

from asdkit import ASD, CFG, SDS, Discriminator, GaussianPrior, Noise, Null, Prompt, Ramp
from asdkit.lab import Affine
from asdkit.scores.prior import NULL, Condition

Y = Condition("y")


def test_a_draw_is_the_forward_process_on_another_x0_and_at_another_t_too(prior: GaussianPrior) -> None:
    x = draw(prior)
    assert torch.equal(x.x_t, prior.schedule.alpha(x.t) * x.x0 + prior.schedule.sigma(x.t) * x.eps)
    assert torch.allclose(x.to_x0(x.eps), x.x0, atol=1e-12)
    other = randn(B, 3, 2, 2, seed=5).requires_grad_()
    on, at = x.on(other), x.at(torch.tensor([5, 6, 7, 8]))
    assert torch.equal(on.x0, other) and not on.x0.requires_grad
    assert on.t is x.t and on.eps is x.eps
    assert torch.equal(on.x_t, x.alpha * other.detach() + x.sigma * x.eps)
    assert at.x0 is x.x0 and at.eps is x.eps and at.t.tolist() == [5, 6, 7, 8]
    assert torch.equal(at.x_t, prior.schedule.add_noise(x.x0, at.t, x.eps))
    x.predict(Y)
    assert close(on.predict(Y), e(on, "y")) and close(at.predict(Y), e(at, "y"))


def test_the_frozen_prior_never_records_a_graph(prior: GaussianPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its parameters say: only an adapter's prediction is differentiated, and only where gradients are on."""
    seen: list[bool] = []
    predict = prior.predict

    def watched(*args: Any) -> list[Tensor]:
        seen.append(torch.is_grad_enabled())
        return predict(*args)

    monkeypatch.setattr(prior, "predict", watched)
    draw(prior).predict(Y)
    draw(prior).predict(Y, bent())
    with torch.no_grad():
        draw(prior).predict(Y, bent())
    assert seen == [False, True, False]


def test_algebra(prior: GaussianPrior) -> None:
    x, y, z, n = draw(prior), Prompt("y"), Prompt("z"), Noise()
    assert torch.equal((y + z)(x), y(x) + z(x)) and torch.equal((y - z)(x), y(x) - z(x))
    assert torch.equal((2.5 * y)(x), 2.5 * y(x)) and torch.equal((y * 2.5)(x), 2.5 * y(x))
    assert torch.equal((-y)(x), -y(x)) and (y - y)(x).abs().max() == 0
    assert torch.equal((y - (z - n))(x), y(x) - (z(x) - n(x)))
    assert close((3 * (y - z) + n - 0.5 * (y + n))(x), 2.5 * y(x) - 3 * z(x) + 0.5 * n(x))


def test_one_call_for_a_whole_expression(prior: GaussianPrior, calls: list[float]) -> None:
    x = draw(prior)
    (CFG("y", 3.0) - Prompt("z") + 2 * (CFG("z", 2.0) - Noise()))(x)
    assert calls == [3]
    (CFG("z", 9.0) + 0.5 * Prompt("y") + Null())(x)
    assert calls == [3]


def test_forgetting_sees_the_new_phi(prior: GaussianPrior, calls: list[float]) -> None:
    """And asks for e_phi alone; what the frozen prior said stays."""
    field, x = ready(ASD(adapter=bent()), prior), draw(prior)
    field(x)
    field.forget(x)
    field.loss(x)
    assert calls == [2, 1, 1]
    adapter, other = bent(), bent(5)
    both = ready(Discriminator(adapter) - Discriminator(other), prior)
    x = draw(prior)
    before, kept = x.predict(Y, adapter), x.predict(Y, other)
    with torch.no_grad():
        adapter.offset += 1
    assert x.predict(Y, adapter) is before
    both.first.forget(x)
    assert close(x.predict(Y, adapter), before + 1)
    assert x.predict(Y, other) is kept
    both.forget(x)
    assert x.predict(Y, other) is not kept


def test_gradients_reach_the_adapter_alone(prior: GaussianPrior) -> None:
    adapter = bent()
    field = ready(ASD(adapter=adapter), prior)
    x0 = randn(B, 3, 2, 2).requires_grad_()
    x = prior.draw(x0, torch.tensor(LEVELS), randn(B, 3, 2, 2, seed=1))
    assert not x.x0.requires_grad and not x.x_t.requires_grad
    assert not x.predict(Y).requires_grad and not x.predict(NULL).requires_grad
    assert x.predict(Y, adapter).requires_grad
    field.loss(x).backward()
    assert x0.grad is None
    for parameter in adapter.parameters():
        assert parameter.grad[x.t].abs().min() > 0
        assert parameter.grad.abs().sum().item() == pytest.approx(parameter.grad[x.t].abs().sum().item())


def test_who_learns(prior: GaussianPrior) -> None:
    x = draw(prior)
    assert ready(SDS(), prior).loss(x) is None
    assert not list(SDS().parameters()) and Noise().loss(x) is None
    two = ready(Discriminator(bent(), 0.5, text="y") - Discriminator(bent(5), 1.0, text="z"), prior)
    parts = [two.first.loss(x), two.second.field.loss(x)]
    assert torch.allclose(two.loss(x), sum(parts))
    same = Discriminator(bent(), text="y")
    same.setup(prior)
    assert torch.equal((same + 2 * same).loss(x), same.loss(x))


def test_prompts_are_bound_once(prior: GaussianPrior) -> None:
    field = CFG() - Prompt("z")
    with pytest.raises(ValueError, match="no text"):
        field(draw(prior))
    with pytest.raises(ValueError, match="no text"):
        Discriminator(Affine())(draw(prior))
    field.bind("y")
    field.bind("z")
    assert [c.text for c in field.conditions()] == ["", "y", "z"]
    assert Prompt("y", view_dependent=False).conditions() == [Condition("y", False)]
    assert [leaf.text for leaf in ASD(adapter=Affine()).leaves() if isinstance(leaf, Discriminator)] == [None]


def test_what_cannot_be_is_said(prior: GaussianPrior) -> None:
    field = SDS()
    field.bind("a unicorn")
    with pytest.raises(ValueError, match="doesn't know 'a unicorn'; it knows y, z, ugly"):
        field.setup(prior)
    for scale in (-0.5, Ramp(7.5, -1.0, 10)):
        with pytest.raises(ValueError, match="The CFG scale lambda can't be negative; got"):
            CFG(scale=scale)
        CFG(scale=scale, allow_negative=True)
