"""Gammas that depend on the draw: their values, the CFG scale that they amount to, and the feedback of one of them."""

import math
from collections.abc import Sequence

import pytest
import torch
from support.exact import B, bent, close, draw, e, e_phi, exact_prior, randn, ready
from support.quiet import quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader

from asdkit import Discriminator, DiscriminatorSteps, Distillation, GaussianRates, Gaussians, Ramp, Rendering, Rounds
from asdkit.discriminators.gammas import Alpha2, Gamma, SpreadControl, TargetScale
from asdkit.lab import Affine, FiniteSetPrior, GaussianPrior
from asdkit.methods import ASD, LODS, SDS, VSD, ASDEdit, ReleasedASD
from asdkit.rendering.cameras import Batch, ring
from asdkit.scores.equations import effective_scale
from asdkit.scores.prior import Condition, Noised

Y = Condition("y")


@pytest.fixture
def prior() -> GaussianPrior:
    return exact_prior()


class Fixed(Gamma):
    """A different gamma for every sample, which counts what it observes."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[Noised] = []
        self.scales: list[float] = []

    def observe(self, draws: Sequence[Noised]) -> None:
        self.observed += draws

    def forward(self, x: Noised, scale: float) -> Tensor:
        self.scales.append(scale)
        return torch.tensor([-0.5, 0.0, 1.0, 4.0]).to(x.alpha).reshape(-1, 1, 1, 1)


def test_each_sample_has_its_own_gamma_and_diagnostics_have_their_mean(prior: GaussianPrior) -> None:
    x, phi = draw(prior), bent()
    fake, text, distance = e_phi(x, phi) - x.eps, e(x, "y") - x.eps, e_phi(x, phi) - e(x, "y")
    rows = enumerate((-0.5, 0.0, 1.0, 4.0))
    expected = sum((fake[b] ** 2 + gamma * distance[b] ** 2).sum() for b, gamma in rows)
    field = ready(ASD(9.0, Fixed(), phi), prior)
    assert close(field.loss(x), expected / B)
    found = field.diagnostics(x)
    assert found["gamma"] == pytest.approx(1.125) and found["lambda_eff"] == pytest.approx(1 + 2.125 * 8)
    assert found["rho"] == pytest.approx((distance.norm() / fake.norm()).item(), rel=1e-9)
    assert found["gap"] == pytest.approx((fake.square() - text.square()).mean().item(), rel=1e-9)
    assert found["distance"] == pytest.approx(distance.square().mean().item(), rel=1e-9)
    assert ready(SDS(), prior).diagnostics(x) == {}


def test_it_observes_what_was_learned_on_alone(prior: GaussianPrior) -> None:
    gamma = Fixed()
    field, x, other = ready(ASD(Ramp(1.0, 9.0, 4), gamma, bent()), prior), draw(prior, step=1), draw(prior, 1, step=3)
    field(x)
    field.diagnostics(x)
    assert not gamma.observed
    field.loss(x)
    field.loss(other)
    assert not gamma.observed
    field.observe([x, other])
    assert gamma.observed == [x, other] and gamma.scales == [3.0, 3.0, 7.0]


def test_two_that_learn_are_told_apart_and_each_is_told_its_scale(prior: GaussianPrior) -> None:
    """Of ASDEdit phi is logged as the first, psi as the second."""
    field, x = ready(ASDEdit(adapter=bent(), source_adapter=bent(8)), prior), draw(prior)
    found, phi = field.diagnostics(x), ready(ASD(gamma=-1.0, adapter=bent(), allow_unbounded=True), prior)
    assert {key: found[f"{key}_1"] for key in phi.diagnostics(x)} == pytest.approx(phi.diagnostics(x))
    assert (found["gamma_1"], found["lambda_eff_1"]) == (-1.0, 1.0)
    assert (found["gamma_2"], found["lambda_eff_2"]) == (1.0, 14.0) and "real_clipped_2" in found
    edit = ASDEdit(3.0, 0.0, adapter=bent(), source_adapter=bent(8))
    cases = [(VSD(3.0, bent()), "", 3.0), (LODS(3.0, bent()), "", 3.0), (edit, "_1", 3.0), (edit, "_2", 5.0)]
    for field, end, expected in cases:
        assert ready(field, prior).diagnostics(x)[f"lambda_eff{end}"] == expected


@pytest.mark.parametrize(("step", "gamma", "scale"), [(0, 1.0, 5.0), (5, 0.25, 7.0), (10, -0.5, 9.0)])
def test_ramps_are_eq10_at_their_value(prior: GaussianPrior, step: int, gamma: float, scale: float) -> None:
    x, moving = draw(prior, step=step), ready(ASD(Ramp(5.0, 9.0, 10), Ramp(1.0, -0.5, 10), bent()), prior)
    found = moving.diagnostics(x)
    assert found["gamma"] == pytest.approx(gamma)
    assert found["lambda_eff"] == pytest.approx(effective_scale(scale, gamma))
    assert close(moving.loss(x), ready(ASD(7.5, gamma, bent()), prior).loss(draw(prior)))


@pytest.mark.parametrize("gamma", [-0.75, -0.5, 0.0, 3.0])
def test_alpha2_is_k_times_alpha_squared_and_as_measured(prior: GaussianPrior, gamma: float) -> None:
    """gamma_t / (1 + gamma_t) = alpha_t^2 gamma / (1 + gamma): the extrapolation shrinks with the signal.

    And lambda_eff at lambda 7.5 of the released code's gamma -0.75, as measured there.
    """
    x = draw(prior)
    found = Alpha2(gamma)(x, 7.5)
    assert close(found / (1 + found), x.alpha**2 * gamma / (1 + gamma), 1e-12)
    assert (found > -1).all() and found.shape == (B, 1, 1, 1)
    for t, expected in ((50, 2.69), (250, 3.15), (500, 4.55), (750, 6.56), (950, 7.34)):
        found = Alpha2()(draw(prior, levels=(t,) * B), 7.5)
        assert effective_scale(7.5, found[0].item()) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("target", [1.5, 4.25, 7.5, 12.0])
@pytest.mark.parametrize("scale", [3.0, 7.5])
def test_target_scale_is_what_comes_out_and_follows_ramps(prior: GaussianPrior, target: float, scale: float) -> None:
    found = ready(ASD(scale, TargetScale(target), bent()), prior).diagnostics(draw(prior))
    assert found["lambda_eff"] == pytest.approx(target) and found["gamma"] > -1
    with pytest.raises(ValueError, match="needs a CFG scale above 1; got 1.0"):
        ready(ASD(1.0, TargetScale(target), bent()), prior).loss(draw(prior))
    gamma = TargetScale(target)(draw(prior), scale)
    assert gamma.flatten().tolist() == pytest.approx([(target - scale) / (scale - 1)] * B)
    field = ready(ASD(Ramp(3.0, 7.0, 4), TargetScale(Ramp(6.0, 2.0, 4)), bent()), prior)
    found = [field.diagnostics(draw(prior, step=step))["lambda_eff"] for step in range(6)]
    assert found == pytest.approx([6.0, 5.0, 4.0, 3.0, 2.0, 2.0])


def sample(prior: GaussianPrior, std: float) -> Noised:
    """A draw whose samples each have this standard deviation."""
    x0 = randn(B, 3, 4, 4)
    x0 = x0 / x0.flatten(1).std(1)[:, None, None, None] * std + 7
    return prior.draw(x0, torch.tensor([20, 300, 700, 979]), torch.zeros_like(x0))


def control(start: float = -0.5, target: float = 0.4, **options: float) -> SpreadControl:
    return SpreadControl(start, target, **options).double()


def value(gamma: Gamma, prior: GaussianPrior) -> float:
    found = gamma(draw(prior), 7.5)
    assert found.shape == (B, 1, 1, 1) and (found == found[0]).all()
    return found[0].item()


def test_control_starts_where_it_is_told_and_does_not_learn_by_gradient(prior: GaussianPrior) -> None:
    field = ready(ASD(7.5, control(), bent()), prior)
    assert len(list(field.parameters())) == 2 and not field.second.field.gamma.log1p.requires_grad
    for start in (-0.9, -0.5, 0.0, 3.0):
        assert value(control(start), prior) == pytest.approx(start, abs=1e-6)
    for start in (-0.95, 4.0):
        with pytest.raises(ValueError, match=f"needs lowest <= start <= highest; got -0.9, {start} and 3.0"):
            SpreadControl(start)


def test_control_integrates_the_ratios_logarithm(prior: GaussianPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its limits, and of the mean spread of all ranks."""
    for std in (0.1, 0.4, 2.0):
        gamma = control(rate=0.1)
        for steps in range(1, 4):
            gamma.observe([sample(prior, std)])
            expected = 0.5 * (0.4 / std) ** (0.1 * steps) - 1
            assert value(gamma, prior) == pytest.approx(expected, abs=1e-6)
    gamma = control(rate=1.0, lowest=-0.8, highest=0.5)
    for std, limit in ((40.0, -0.8), (0.001, 0.5)):
        for _ in range(10):
            gamma.observe([sample(prior, std)])
        assert value(gamma, prior) == pytest.approx(limit, abs=1e-6)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda spread: spread.add_(0.6))  # of the other rank
    gamma = control(rate=0.1, target=0.8)
    gamma.observe([sample(prior, 0.2)])
    assert value(gamma, prior) == pytest.approx(0.5 * (0.8 / 0.4) ** 0.1 - 1, abs=1e-6)


@pytest.mark.parametrize(("steps", "shared"), [(1, True), (2, False)])
def test_control_sees_each_step_once_however_it_is_split(steps: int, shared: bool) -> None:
    """With a spread that stays where it is, log(1 + gamma) moves by rate log(target / spread) for each step."""
    moved = []
    for chunk in (0, 1, 2):
        gamma = SpreadControl(-0.5, 0.3, rate=0.1)
        generator = Gaussians(count=20, capacity=20, rounds=Rounds(every=0), rates=GaussianRates(*[1e-9] * 5))
        run = Distillation(
            "y", GaussianPrior({"y": 1.0}), generator, ASD(7.5, gamma, Affine(channels=3)),
            discriminator=DiscriminatorSteps(steps, share_noise=shared), rendering=Rendering(chunk=chunk),
        )  # fmt: skip
        quiet_trainer(3, log_every_n_steps=1).fit(run, DataLoader([Batch(ring(4, size=16))] * 3, batch_size=None))
        moved.append(gamma.log1p.item() - math.log(0.5))
        spread = run.generator.render(ring(4, size=16), torch.full((3,), 0.85)).image.flatten(1).std(1).mean()
    assert moved == pytest.approx([3 * steps * 0.1 * math.log(0.3 / spread.item())] * 3, rel=1e-4)


def test_the_released_loss_logs_the_scale_that_its_own_minimiser_amounts_to(prior: GaussianPrior) -> None:
    """e_phi* = eps + alpha^2 k (e_y - eps), k = gamma / (1 + gamma): written as Eq. 10's it has another gamma."""
    x = draw(prior, levels=(50, 250, 500, 950))
    numbers = ready(ReleasedASD(7.5, -0.75, bent()), prior).diagnostics(x)
    assert numbers["gamma"] == -0.75
    assert numbers["lambda_eff"] == pytest.approx((2.69 + 3.15 + 4.55 + 7.34) / 4, abs=0.006)  # measured in that code


@pytest.mark.parametrize(("spread", "null_spread", "means", "zero"), [
    (0.25, 0.25, 1.0, 0), (0.5, 0.5, 1.0, 0.0), (0.25, 2.0, 1.0, 0), (0.25, 0.25, [-1.0, 0.0, 1.0], 0),
])  # fmt: skip
def test_control_measures_the_prior(spread: float, null_spread: float, means: float | list[float], zero: float) -> None:
    """A value of the samples is N(mu, s^2), whatever the null condition is, so the deviation over a sample is s; with
    three channels at -1, 0 and 1 it is the root of s^2 + 2/3.
    """
    gamma = SpreadControl(target=zero, steps=250, samples=32)
    Discriminator(bent(), gamma, text="y").setup(GaussianPrior({"y": means}, 0.0, spread, null_spread))
    assert gamma.target.item() == pytest.approx((spread**2 + (2 / 3 if means != 1.0 else 0)) ** 0.5, rel=0.05)


def test_control_measures_the_same_in_every_run() -> None:
    """Unless a target is given, an integer too."""
    for target in (2, 2.0):
        gamma = SpreadControl(target=target)
        gamma.setup(GaussianPrior({"y": 1.0}), Y)
        assert gamma.target.item() == 2.0 and gamma.target.dtype == torch.float32
    held = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before, gamma = torch.random.get_rng_state(), SpreadControl()
        gamma.setup(GaussianPrior({"y": 1.0}), Y)
        held.append(gamma.target.item())
        assert torch.equal(before, torch.random.get_rng_state())
    assert held[0] == held[1]


def test_control_is_part_of_a_checkpoint(prior: GaussianPrior) -> None:
    field = ready(ASD(7.5, control(), bent()), prior)
    field.observe([sample(prior, 0.8)])
    state = field.state_dict()
    other = ready(ASD(7.5, control(0.5, 0.9), bent(9)), prior)
    other.load_state_dict(state)
    assert torch.equal(other.second.field.gamma.log1p, field.second.field.gamma.log1p)
    assert torch.equal(other.second.field.gamma.target, field.second.field.gamma.target)
    early = SpreadControl()
    early.load_state_dict({key.split("gamma.")[1]: v for key, v in state.items() if "gamma." in key})
    early.setup(FiniteSetPrior(), Y)  # which has no samples to measure
    assert early.target.item() == pytest.approx(0.4)
