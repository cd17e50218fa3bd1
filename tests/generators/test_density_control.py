"""Density control: decision for decision gsplat's DefaultStrategy, and MCMC by the closed forms of its paper."""

import copy
import math

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from support.gaussians import remembering_optimizer
from torch import Tensor

from asdkit.core.ramps import Ramp
from asdkit.generators.density_control import MCMC, Density, Fraction, Threshold, relocation
from asdkit.generators.gaussian_settings import GaussianPenalties, GaussianRates, Initial, Rounds
from asdkit.generators.gaussians import Gaussians
from asdkit.rendering.cameras import ring
from asdkit.rendering.projection import rotation_matrices

NAMES = ("means", "quats", "scales", "opacities", "sh")


def cloud(density: Density, **arguments) -> Gaussians:
    plain = {"count": 80, "capacity": 400, "initial": Initial(radius=0.6), "rounds": Rounds(every=10, first=10)}
    gaussians = Gaussians(density=density, **(plain | arguments))
    capacity = len(gaussians.alive)
    draws = torch.Generator().manual_seed(5)
    gaussians.log_scales.data[:] = (0.01 + 0.2 * torch.rand(capacity, 3, generator=draws)).log()
    gaussians.quats.data[:] = torch.randn(capacity, 4, generator=draws)
    gaussians.opacity_logits.data[:] = 3 * torch.randn(capacity, generator=draws)
    return gaussians


def logit(opacity: float) -> float:
    return math.log(opacity / (1 - opacity))


def rows(parts: list[Tensor]) -> Tensor:
    """Everything about each Gaussian in one row, in an order that does not depend on slots."""
    table = torch.cat([part.detach().reshape(len(part), -1) for part in parts], dim=1)
    return torch.tensor(sorted(table.tolist()))


def ours(gaussians: Gaussians, optimizer: torch.optim.Adam) -> Tensor:
    parts = list(gaussians.all_slots()) + [optimizer.state[p]["exp_avg"] for p in gaussians.all_slots()]
    return rows([part[gaussians.alive] for part in parts])


def theirs(gaussians: Gaussians, optimizer: torch.optim.Adam) -> tuple[dict, dict]:
    """The same Gaussians as gsplat's strategies want them: one optimiser for each parameter."""
    params, optimizers = {}, {}
    for name, parameter in zip(NAMES, gaussians.all_slots(), strict=True):
        params[name] = torch.nn.Parameter(parameter.detach()[gaussians.alive].clone())
        optimizers[name] = torch.optim.Adam([params[name]])
        state = optimizer.state[parameter]
        kept = {key: state[key][gaussians.alive].clone() for key in ("exp_avg", "exp_avg_sq")}
        optimizers[name].state[params[name]] = {"step": state["step"].clone(), **kept}
    return params, optimizers


@pytest.mark.parametrize("reset_rounds", [0, 2])
def test_threshold_decides_as_gsplat_does(reset_rounds: int) -> None:
    gaussians = cloud(Threshold(2.0, split_scale=0.15, prune_opacity=0.1, prune_scale=0.19, reset_rounds=reset_rounds))
    optimizer = remembering_optimizer(gaussians)
    strategy = DefaultStrategy(prune_opa=0.1, grow_grad2d=2.0, grow_scale3d=0.15, prune_scale3d=0.19, reset_every=1)
    counts, kinds = [], []
    for number in range(1, 5):
        draws = torch.Generator().manual_seed(number)
        gaussians.grad_sum[:] = (torch.rand(400, generator=draws) * 8 - 2).clamp(min=0)
        gaussians.grad_count[:] = torch.randint(1, 4, (400,), generator=draws).float()
        params, optimizers = theirs(gaussians, optimizer)
        state = {"grad2d": gaussians.grad_sum[gaussians.alive], "count": gaussians.grad_count[gaussians.alive]}
        state["scene_scale"] = 1.0
        torch.manual_seed(number)
        kinds.append(strategy._grow_gs(params, optimizers, state, step=100))
        strategy._prune_gs(params, optimizers, state, step=100)
        if reset_rounds and number % reset_rounds == 0:  # gsplat 1.5.3 never gets there by itself
            reset_opa(params, optimizers, {}, value=0.2)
        gaussians.after_step(optimizer, 10 * number - 1, torch.Generator().manual_seed(number))
        expected = [*params.values(), *(optimizers[name].state[params[name]]["exp_avg"] for name in NAMES)]
        torch.testing.assert_close(ours(gaussians, optimizer), rows(expected), rtol=1e-5, atol=1e-6)
        counts.append(gaussians.num_alive)
        pulled_down = (gaussians.opacities[gaussians.alive] <= 0.2001).all()
        assert bool(pulled_down) == bool(reset_rounds and number >= reset_rounds)  # nothing makes them rise again
    assert all(min(kind) > 0 for kind in kinds) and len(set(counts)) > 1


def test_threshold_keeps_to_the_capacity_and_takes_the_largest_first() -> None:
    gaussians = cloud(Threshold(1.0, prune_opacity=0.0, prune_scale=9.0), count=80, capacity=83)
    gaussians.grad_count[:80] = 1.0
    gaussians.grad_sum[:80] = torch.linspace(2, 3, 80)
    before = gaussians.sh.detach().clone()
    gaussians.after_step(remembering_optimizer(gaussians), 9, torch.Generator())
    assert gaussians.num_alive == 83 and torch.equal(gaussians.sh[80:], before[77:80])


def test_a_reset_happens_within_the_rounds_time_alone() -> None:
    density = Threshold(1e6, prune_opacity=0.01, prune_scale=9.0, reset_rounds=2)
    gaussians = cloud(density, rounds=Rounds(every=10, first=10, last=40), rates=GaussianRates(opacities=1e-12))
    optimizer = remembering_optimizer(gaussians)
    for step in range(80):
        gaussians.opacity_logits.data[:] = 1.0
        gaussians.after_step(optimizer, step, torch.Generator())
        assert bool((gaussians.opacity_logits == 1.0).all()) == (step + 1 not in (20, 40))
    state = optimizer.state[gaussians.opacity_logits]
    assert (state["exp_avg"] == 0).all() and (state["exp_avg_sq"] == 0).all()
    assert (optimizer.state[gaussians.means]["exp_avg"] != 0).any()


@pytest.mark.parametrize("ratio", [1, 2, 3, 7, 51, 80])
@pytest.mark.parametrize("opacity", [0.02, 0.4, 0.95])
def test_relocation_keeps_opacity_and_what_a_line_through_it_absorbs(ratio: int, opacity: float) -> None:
    new, shrink = relocation(torch.tensor([opacity], dtype=torch.float64), torch.tensor([ratio]))
    ratio = min(ratio, 51)
    assert 1 - (1 - float(new)) ** ratio == pytest.approx(opacity, abs=1e-12)
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    one = opacity * (-x.square() / 2).exp()
    many = 1 - (1 - new * (-(x / shrink).square() / 2).exp()) ** ratio
    assert float(torch.trapezoid(many, x)) == pytest.approx(float(torch.trapezoid(one, x)), rel=1e-6)
    assert (ratio == 1) == (float(shrink) == pytest.approx(1.0, abs=1e-12))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_relocation_is_gsplats() -> None:
    from gsplat.relocation import compute_relocation

    opacity = torch.linspace(0.01, 0.98, 60, device="cuda")
    ratio = 1 + torch.arange(60, device="cuda") % 12
    binoms = torch.tensor([[float(math.comb(n, k)) for k in range(51)] for n in range(51)], device="cuda")
    new, scales = compute_relocation(opacity, torch.ones(60, 3, device="cuda"), ratio.clone(), binoms)
    expected, shrink = relocation(opacity, ratio)
    torch.testing.assert_close(expected, new, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(shrink[:, None].expand(-1, 3), scales, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("growth", [0.0, 0.25])
def test_mcmc_moves_the_faint_to_the_opaque_or_adds_up_to_the_capacity(growth: float) -> None:
    gaussians = cloud(MCMC(growth=growth, min_opacity=0.05, noise=0.0), capacity=110)
    gaussians.opacity_logits.data[:] = logit(0.06)
    gaussians.opacity_logits.data[:30] = logit(0.8)
    if not growth:
        gaussians.opacity_logits.data[70:80] = logit(0.0499)
    gaussians.opacity_logits.data[100:] = -9.0  # dead slots are not faint ones
    before = [parameter.detach().clone() for parameter in gaussians.all_slots()]
    optimizer, views = remembering_optimizer(gaussians), ring(3, distance=2.5, size=32)
    image = gaussians.render(views).image
    image.sum().backward()
    assert gaussians._step_statistics.sum() == 0, "nobody asks for the gradients on the screen"
    gaussians.after_step(optimizer, 9, torch.Generator().manual_seed(0))
    moved = torch.arange(80, 100) if growth else torch.arange(70, 80)
    assert gaussians.num_alive == (100 if growth else 80) and gaussians.alive[moved].all()
    parents = (gaussians.sh[moved][:, None] == before[4][None]).all(-1).all(-1).long().argmax(1)
    assert torch.equal(before[0][parents], gaussians.means[moved])
    assert torch.equal(before[1][parents], gaussians.quats[moved]) and (parents < moved[0]).all()
    assert (parents < 30).float().mean() > 0.7  # they have nine tenths of the opacity
    for parent in parents.unique():
        family = torch.cat([parent[None], moved[parents == parent]])
        assert (gaussians.opacity_logits[family] == gaussians.opacity_logits[parent]).all()
        both = 1 - (1 - gaussians.opacities[family].double()).prod()
        each = max(1 - (1 - float(before[3][parent].sigmoid())) ** (1 / len(family)), 0.05)
        assert float(both) == pytest.approx(1 - (1 - each) ** len(family), abs=1e-5)
        assert (gaussians.log_scales[family] == gaussians.log_scales[parent]).all()
        for parameter in gaussians.all_slots():
            assert (optimizer.state[parameter]["exp_avg"][family] == 0).all()
    untouched = torch.tensor([slot for slot in range(int(moved[0])) if slot not in parents])
    for parameter, old in zip(gaussians.all_slots(), before, strict=True):
        assert torch.equal(parameter[untouched], old[untouched])
        assert (optimizer.state[parameter]["exp_avg"][untouched] != 0).any()
    assert (gaussians.render(views).image - image).abs().mean() < 0.02
    gaussians.after_step(optimizer, 19, torch.Generator().manual_seed(1))
    assert gaussians.num_alive == (110 if growth else 80)
    assert gaussians.grad_sum.sum() == 0


@pytest.mark.slow
def test_mcmc_trembles_along_the_covariance_and_less_the_more_opaque() -> None:
    never, density = Rounds(every=10, first=10, last=0), MCMC(noise=2.0, min_opacity=0.01)
    gaussians = cloud(density, count=20_000, capacity=20_001, rounds=never)
    gaussians.rates = GaussianRates(means=Ramp(0.5, 0.1, steps=0, begin=1))  # the rate of the step that has ended
    gaussians.log_scales.data[:] = torch.tensor([0.3, 0.1, 0.02]).log()
    gaussians.quats.data[:] = torch.tensor([math.cos(0.25), 0.0, 0.0, math.sin(0.25)])
    gaussians.opacity_logits.data[:10_000] = logit(0.004)
    gaussians.opacity_logits.data[10_000:] = logit(0.02)
    before = gaussians.means.detach().clone()
    gaussians.after_step(torch.optim.Adam(gaussians.parameter_groups()), 0, torch.Generator().manual_seed(0))
    offset = (gaussians.means.detach() - before)[:20_000] @ rotation_matrices(gaussians.quats.data[:1])[0]
    for part, opacity in ((offset[:10_000], 0.004), (offset[10_000:], 0.02)):
        gate = 1 / (1 + math.exp(-100 * ((1 - opacity) - 0.995)))  # gsplat's
        expected = torch.tensor([0.09, 0.01, 0.0004]) * 0.5 * 2.0 * gate
        torch.testing.assert_close(part.std(0), expected, rtol=0.05, atol=1e-6)
    assert torch.equal(gaussians.means[20_000], before[20_000])  # a dead slot lies still
    once = gaussians.means.detach().clone()
    gaussians.means.data[:] = before
    gaussians.after_step(torch.optim.Adam(gaussians.parameter_groups()), 0, torch.Generator().manual_seed(0))
    assert torch.equal(gaussians.means, once), "the draws are the step's own"


def test_by_default_faint_gaussians_stay_near_the_object_and_move_into_it() -> None:
    """Of gsplat's own numbers, 0.005 and 5e5, the spread is ten times as large and nothing is moved."""
    gaussians = cloud(MCMC(growth=0.0), count=200, capacity=201, rounds=Rounds(every=100, first=100))
    gaussians.means.data.zero_()
    gaussians.log_scales.data[:] = math.log(0.05)  # a tenth of the ball that an object starts as
    gaussians.opacity_logits.data[:] = logit(0.03)
    optimizer = torch.optim.Adam(gaussians.parameter_groups())
    for step in range(99):
        gaussians.after_step(optimizer, step, torch.Generator().manual_seed(step))
    gate = 1 / (1 + math.exp(100 * (0.03 - 0.005)))
    walk = 99**0.5 * 0.001 * 5e4 * gate * 0.05**2
    assert gaussians.means[:200].std().item() == pytest.approx(walk, rel=0.1) and walk < 0.1
    gaussians.opacity_logits.data[:50] = logit(0.015)
    gaussians.after_step(optimizer, 99, torch.Generator().manual_seed(99))
    assert (gaussians.opacities[:200] >= 0.0199).all()


@pytest.mark.parametrize("density", [Fraction(0.2, 0.1), Threshold(1.0, 0.1), MCMC(0.2, 0.1)])
def test_a_round_draws_from_what_it_is_given_alone(density: Density) -> None:
    states = []
    for seed in (1, 2):
        gaussians = cloud(density)
        gaussians.grad_sum[:80], gaussians.grad_count[:80] = torch.linspace(2, 3, 80), 1.0
        torch.manual_seed(seed)
        gaussians.after_step(remembering_optimizer(gaussians), 9, torch.Generator().manual_seed(7))
        states.append(gaussians.state_dict())
    assert int(states[0]["alive"].sum()) != 80
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_mcmc_without_anything_to_move_to_does_nothing() -> None:
    gaussians = cloud(MCMC(growth=0.0, noise=0.0))
    gaussians.opacity_logits.data[:] = -20.0
    before = copy.deepcopy(gaussians.state_dict())
    gaussians.after_step(remembering_optimizer(gaussians), 9, torch.Generator())
    torch.testing.assert_close(gaussians.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("opacity", "scale"), [(3.0, 5.0), (3.0, 0.0), (0.0, 5.0)])
def test_the_weights_are_of_mean_opacity_and_size(opacity: float, scale: float) -> None:
    gaussians = cloud(MCMC(), penalties=GaussianPenalties(opacity=opacity, scale=scale))
    faint, size = gaussians.opacity_logits[:80].sigmoid().mean(), gaussians.log_scales[:80].exp().mean()
    torch.testing.assert_close(gaussians.regularizer(), opacity * faint + scale * size)
    assert cloud(MCMC()).regularizer() == 0


@pytest.mark.parametrize("prune_opacity", [0.0, 0.5])
def test_a_reset_needs_an_opacity_to_prune_that_is_neither_zero_nor_half(prune_opacity: float) -> None:
    with pytest.raises(ValueError, match="prune_opacity"):
        Threshold(prune_opacity=prune_opacity, reset_rounds=3)
