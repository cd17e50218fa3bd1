"""Score fields: their algebra, their conventions, what they ask of the network, and where gradients go."""

from typing import Any

import pytest
import torch
from torch import Tensor

from asdkit.core.ramps import Ramp
from asdkit.discriminators.discriminator import Discriminator
from asdkit.lab import Affine, GaussianPrior, GaussianScore, ParticleScore
from asdkit.methods import ASD, SDS, VSD
from asdkit.rendering.cameras import ring
from asdkit.scores.conditions import NULL, Condition
from asdkit.scores.equations import discriminator_loss
from asdkit.scores.fields import CFG, Field, Noise, Null, Prompt
from asdkit.scores.prior import Noised

B = 4
Y, Z = Condition("y"), Condition("z")


@pytest.fixture
def prior() -> GaussianPrior:
    return GaussianPrior({"y": [1.0, -1.0], "z": [0.3, 0.6]}, null_mean=-0.2, spread=0.5, null_spread=0.9)


@pytest.fixture
def calls(prior: GaussianPrior) -> list[int]:
    """Rows of each network call."""
    rows: list[int] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def _draw(prior: GaussianPrior, seed: int = 0) -> Noised:
    random = torch.Generator().manual_seed(seed)
    x0, eps = (torch.randn(B, 2, 3, 3, generator=random) for _ in range(2))
    return prior.draw(x0, torch.tensor([20, 300, 700, 979]), eps)


def _ready(field: Field, prior: GaussianPrior) -> Field:
    field.bind("y")
    field.setup(prior)
    return field


def _phi(seed: int = 3) -> Affine:
    """An adapter that has left e_y."""
    adapter = Affine(channels=2)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        adapter.slope.copy_(0.1 * torch.randn(adapter.slope.shape, generator=random))
        adapter.offset.copy_(0.1 * torch.randn(adapter.offset.shape, generator=random))
    return adapter


def _exact(x: Noised, mean: Tensor | float, spread: float) -> Tensor:
    return x.sigma * (x.x_t - x.alpha * mean) / (x.alpha**2 * spread**2 + x.sigma**2)


def _e(x: Noised) -> tuple[Tensor, Tensor, Tensor]:
    """e_null, e_y, e_z by the formula."""
    y, z = (torch.tensor(mean).reshape(1, 2, 1, 1) for mean in ([1.0, -1.0], [0.3, 0.6]))
    return _exact(x, -0.2, 0.9), _exact(x, y, 0.5), _exact(x, z, 0.5)


def _e_phi(x: Noised, adapter: Affine) -> Tensor:
    return _e(x)[1] + adapter.slope[x.t] * x.x_t + adapter.offset[x.t]


def _close(value: Tensor, expected: Tensor) -> bool:
    return torch.allclose(value, expected, rtol=1e-5, atol=2e-6)


def test_noised_is_the_forward_process(prior: GaussianPrior) -> None:
    x = _draw(prior)
    assert torch.equal(x.x_t, prior.schedule.alpha(x.t) * x.x0 + prior.schedule.sigma(x.t) * x.eps)
    assert torch.allclose(x.to_x0(x.eps), x.x0.double(), atol=1e-12)


def test_on_and_at(prior: GaussianPrior) -> None:
    x, other = _draw(prior), torch.rand(B, 2, 3, 3, requires_grad=True)
    on, at = x.on(other), x.at(torch.tensor([5, 6, 7, 8]))
    assert torch.equal(on.x0, other) and not on.x0.requires_grad
    assert on.t is x.t and on.eps is x.eps
    assert torch.equal(on.x_t, x.alpha * other.detach() + x.sigma * x.eps)
    assert at.x0 is x.x0 and at.eps is x.eps and at.t.tolist() == [5, 6, 7, 8]
    assert torch.equal(at.x_t, prior.schedule.add_noise(x.x0, at.t, x.eps))
    x.predict(Y)
    assert _close(on.predict(Y), _e(on)[1]) and _close(at.predict(Y), _e(at)[1])


def test_on_and_at_keep_the_views(prior: GaussianPrior) -> None:
    x = prior.draw(torch.zeros(B, 2, 3, 3), torch.tensor([20, 300, 700, 979]), torch.zeros(B, 2, 3, 3), ring(B))
    assert x.on(x.x0).views is x.views and x.at(x.t).views is x.views and len(x.views) == B


def test_the_frozen_prior_never_records_a_graph(prior: GaussianPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its parameters say: only an adapter's prediction is differentiated, and only where gradients are on."""
    seen: list[bool] = []
    predict = prior.predict

    def watched(*args: Any) -> list[Tensor]:
        seen.append(torch.is_grad_enabled())
        return predict(*args)

    monkeypatch.setattr(prior, "predict", watched)
    _draw(prior).predict(Y)
    _draw(prior).predict(Y, _phi())
    with torch.no_grad():
        _draw(prior).predict(Y, _phi())
    assert seen == [False, True, False]


def test_leaves_are_the_formulas(prior: GaussianPrior) -> None:
    x = _draw(prior)
    null, y, z = _e(x)
    assert torch.equal(Noise()(x), x.eps)
    assert _close(Null()(x), null)
    assert _close(Prompt("y")(x), y)
    assert _close(Prompt("z")(x), z)


def test_algebra(prior: GaussianPrior) -> None:
    x, y, z, n = _draw(prior), Prompt("y"), Prompt("z"), Noise()
    assert torch.equal((y + z)(x), y(x) + z(x))
    assert torch.equal((y - z)(x), y(x) - z(x))
    assert torch.equal((2.5 * y)(x), 2.5 * y(x))
    assert torch.equal((y * 2.5)(x), 2.5 * y(x))
    assert torch.equal((-y)(x), -y(x))
    assert torch.equal((y - (z - n))(x), y(x) - (z(x) - n(x)))
    assert _close((3 * (y - z) + n - 0.5 * (y + n))(x), 2.5 * y(x) - 3 * z(x) + 0.5 * n(x))
    assert (y - y)(x).abs().max() == 0


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, -2.0])
def test_cfg_convention(prior: GaussianPrior, scale: float) -> None:
    x = _draw(prior)
    null, y, z = _e(x)
    assert torch.allclose(CFG("y", scale, allow_negative=True)(x), null + scale * (y - null), rtol=1e-5, atol=2e-5)
    assert torch.allclose(
        CFG("y", scale, negative="z", allow_negative=True)(x), z + scale * (y - z), rtol=1e-5, atol=2e-5
    )
    if scale in (0.0, 1.0):
        assert _close(CFG("y", scale, allow_negative=True)(x), (null, y)[int(scale)])


def test_each_method_is_its_formula(prior: GaussianPrior) -> None:
    x, adapter = _draw(prior), _phi()
    null, y, z = _e(x)
    e_phi = _e_phi(x, adapter)
    expected = {
        SDS(): null + 100 * (y - null) - x.eps,
        SDS(7.5): null + 7.5 * (y - null) - x.eps,
        SDS(7.5, negative="z"): z + 7.5 * (y - z) - x.eps,
        VSD(adapter=adapter): null + 7.5 * (y - null) - e_phi,
        VSD(3.0, adapter, negative="z"): z + 3 * (y - z) - e_phi,
        ASD(adapter=adapter): null + 7.5 * (y - null) - e_phi,
        ASD(2.0, -0.75, adapter, negative="z"): z + 2 * (y - z) - e_phi,
    }
    for field, value in expected.items():
        assert torch.allclose(_ready(field, prior)(x), value, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 2.0])
def test_the_loss_is_eq10(prior: GaussianPrior, gamma: float) -> None:
    x, adapter = _draw(prior), _phi()
    e_phi, y = _e_phi(x, adapter), _e(x)[1]
    expected = ((e_phi - x.eps) ** 2 + gamma * (y - e_phi) ** 2).sum() / B
    assert _ready(ASD(gamma=gamma, adapter=adapter), prior).loss(x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_vsd_is_asd_at_gamma_zero_bitwise(prior: GaussianPrior) -> None:
    adapter = _phi()
    x, z = _draw(prior), _draw(prior)
    vsd, asd = _ready(VSD(adapter=adapter), prior), _ready(ASD(gamma=0.0, adapter=adapter), prior)
    assert torch.equal(vsd(x), asd(z))
    assert torch.equal(vsd.loss(x), asd.loss(z))
    assert torch.equal(asd.loss(x), discriminator_loss(x.predict(Y, adapter), x.eps, x.predict(Y), 0.0))


def test_asd_starts_as_the_classifier_term(prior: GaussianPrior) -> None:
    """With e_phi = e_y bitwise the residual is (lambda - 1)(e_y - e_null)."""
    x = _draw(prior)
    asd = _ready(ASD(scale=7.5, adapter=Affine()), prior)
    assert torch.equal(x.predict(Y, asd.second.field.adapter), x.predict(Y))
    assert torch.allclose(asd(x), 6.5 * (x.predict(Y) - x.predict(NULL)), atol=1e-5)


def test_one_call_for_a_whole_expression(prior: GaussianPrior, calls: list[int]) -> None:
    x = _draw(prior)
    (CFG("y", 3.0) - Prompt("z") + 2 * (CFG("z", 2.0) - Noise()))(x)
    assert calls == [3 * B]
    (CFG("z", 9.0) + 0.5 * Prompt("y") + Null())(x)
    assert calls == [3 * B]


def test_calls_of_a_step_with_shared_noise(prior: GaussianPrior, calls: list[int]) -> None:
    x = _draw(prior)
    _ready(SDS(), prior)(x)
    assert calls == [2 * B]
    for method in (VSD, ASD):
        calls.clear()
        field, x = _ready(method(adapter=_phi()), prior), _draw(prior)
        field(x)
        assert calls == [2 * B, B]
        field.loss(x)
        assert calls == [2 * B, B]
        field.forget(x)
        field.loss(x)
        assert calls == [2 * B, B, B]


def test_calls_of_a_fresh_discriminator_draw(prior: GaussianPrior, calls: list[int]) -> None:
    field = _ready(ASD(adapter=_phi()), prior)
    field.loss(_draw(prior))
    assert calls == [B, B]


def test_forgetting_sees_the_new_phi(prior: GaussianPrior) -> None:
    adapter, other = _phi(), _phi(4)
    both = _ready(Discriminator(adapter) - Discriminator(other), prior)
    x = _draw(prior)
    before, kept = x.predict(Y, adapter), x.predict(Y, other)
    with torch.no_grad():
        adapter.offset += 1
    assert x.predict(Y, adapter) is before
    both.first.forget(x)
    assert torch.allclose(x.predict(Y, adapter), before + 1, atol=1e-5)
    assert x.predict(Y, other) is kept
    both.forget(x)
    assert x.predict(Y, other) is not kept


def test_gradients_reach_the_adapter_alone(prior: GaussianPrior) -> None:
    adapter = _phi()
    field = _ready(ASD(adapter=adapter), prior)
    x0 = torch.randn(B, 2, 3, 3, requires_grad=True)
    x = prior.draw(x0, torch.tensor([20, 300, 700, 979]), torch.randn(B, 2, 3, 3))
    assert not x.x0.requires_grad and not x.x_t.requires_grad
    assert not x.predict(Y).requires_grad and not x.predict(NULL).requires_grad
    assert x.predict(Y, adapter).requires_grad
    field.loss(x).backward()
    assert x0.grad is None
    for parameter in adapter.parameters():
        assert parameter.grad[x.t].abs().min() > 0
        assert parameter.grad.abs().sum().item() == pytest.approx(parameter.grad[x.t].abs().sum().item())


def test_without_gradient_nothing_is_kept(prior: GaussianPrior) -> None:
    adapter = _phi()
    field, x = _ready(ASD(adapter=adapter), prior), _draw(prior)
    with torch.no_grad():
        assert not field(x).requires_grad
    assert not x.predict(Y, adapter).requires_grad


def test_who_learns(prior: GaussianPrior) -> None:
    x = _draw(prior)
    assert _ready(SDS(), prior).loss(x) is None
    assert not list(SDS().parameters()) and Noise().loss(x) is None
    two = _ready(Discriminator(_phi(), 0.5, text="y") - Discriminator(_phi(4), 1.0, text="z"), prior)
    parts = [two.first.loss(x), two.second.field.loss(x)]
    assert torch.allclose(two.loss(x), sum(parts))
    same = Discriminator(_phi(), text="y")
    same.setup(prior)
    assert torch.equal((same + 2 * same).loss(x), same.loss(x))


def test_diagnostics(prior: GaussianPrior) -> None:
    adapter = _phi()
    field, x = _ready(ASD(adapter=adapter), prior), _draw(prior)
    e_phi, y = _e_phi(x, adapter), _e(x)[1]
    found = field.diagnostics(x)
    assert found["gap"] == pytest.approx(((e_phi - x.eps) ** 2 - (y - x.eps) ** 2).mean().item(), rel=1e-4)
    assert found["distance"] == pytest.approx(((e_phi - y) ** 2).mean().item(), rel=1e-4)
    assert _ready(SDS(), prior).diagnostics(x) == {}


def test_prompts_are_bound_once(prior: GaussianPrior) -> None:
    field = CFG() - Prompt("z")
    with pytest.raises(ValueError, match="no text"):
        field(_draw(prior))
    with pytest.raises(ValueError, match="no text"):
        Discriminator(Affine())(_draw(prior))
    field.bind("y")
    field.bind("z")
    assert [c.text for c in field.conditions()] == ["", "y", "z"]
    assert Prompt("y", view_dependent=False).conditions() == [Condition("y", False)]
    assert [leaf.text for leaf in ASD(adapter=Affine()).leaves() if isinstance(leaf, Discriminator)] == [None]


def test_setup_refuses_what_the_prior_does_not_know(prior: GaussianPrior) -> None:
    field = SDS()
    field.bind("a unicorn")
    with pytest.raises(ValueError, match="doesn't know 'a unicorn'; it knows y, z"):
        field.setup(prior)


def test_oracles(prior: GaussianPrior) -> None:
    x = _draw(prior)
    oracle = GaussianScore()
    oracle.follow(torch.tensor(0.4), 0.7)
    assert torch.allclose(oracle(x), _exact(x, 0.4, 0.7))
    one = prior.draw(x.x0[:1], x.t[:1], x.eps[:1])
    assert torch.allclose(ParticleScore()(one), one.eps.double(), atol=1e-4)


@pytest.mark.parametrize("scale", [-0.5, float("inf"), Ramp(7.5, -1.0, 10)])
def test_cfg_leads_to_the_prompt(scale: float | Ramp) -> None:
    with pytest.raises(ValueError, match="The CFG scale lambda must be a number of 0 or more; got"):
        SDS(scale)
    if scale != float("inf"):
        CFG(scale=scale, allow_negative=True)
