"""Every method of asdkit.methods is its formula, written out by hand, and asks the network for no more than it needs.

test_redrawn.py has what methods are made of, tests/proofs where they lead.
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from support.exact import B, Brightness, bent, cfg, close, draw, e, e_phi, ready, state
from torch import Tensor

import asdkit
from asdkit import GaussianPrior
from asdkit import methods as guidance
from asdkit.core.names import PUBLIC_NAMES
from asdkit.scores.prior import Noised


def on_source(x: Noised) -> SimpleNamespace:
    return state(x, x0=x.source)


def dds(x: Noised, scale: float) -> Tensor:
    return cfg(x, scale) - cfg(on_source(x), scale, "z")


def pull(x: Noised) -> Tensor:
    return x.x0 - x.source


def vsd(x: Noised, scale: float = 7.5, negative: str = "") -> Tensor:
    return cfg(x, scale, "y", negative) - e_phi(x, bent())


def edit(x: Noised, scale: float = 7.5) -> Tensor:
    return dds(x, scale) - e_phi(x, bent()) + e_phi(on_source(x), bent(8), "z")


def both() -> dict[str, asdkit.Adapter]:
    return {"adapter": bent(), "source_adapter": bent(8)}


def above(x: Noised, first: int, value: Tensor) -> Tensor:
    return torch.stack([value[b] if x.t[b] >= first else torch.zeros_like(value[b]) for b in range(B)])


Make = Callable[[], asdkit.Field]
METHODS: list[tuple[str, Make, Callable[[Noised], Tensor], list[float]]] = [
    # name, method, formula, conditions in each network call of one residual
    ("SDS", asdkit.SDS, lambda x: e(x) + 100 * (e(x, "y") - e(x)) - x.eps, [2]),
    ("SDS 3, negative", lambda: asdkit.SDS(3.0, "ugly"), lambda x: cfg(x, 3, "y", "ugly") - x.eps, [2]),
    ("SDS 1", lambda: asdkit.SDS(1.0), lambda x: e(x, "y") - x.eps, [1]),
    ("SDS 0", lambda: asdkit.SDS(0.0), lambda x: e(x) - x.eps, [1]),
    ("SDS to 0", lambda: asdkit.SDS(asdkit.Ramp(5.0, 0.0, 3)), lambda x: e(x) - x.eps, [1]),
    ("SJC", asdkit.SJC, lambda x: cfg(x, 101) - x.eps, [2]),
    ("SJC, raw", lambda: asdkit.SJC(5.0, False), lambda x: cfg(x, 5), [2]),
    ("VSD", lambda: asdkit.VSD(adapter=bent()), vsd, [2, 1]),
    ("VSD, negative", lambda: asdkit.VSD(2.0, bent(), "ugly"), lambda x: vsd(x, 2, "ugly"), [2, 1]),
    ("ASD", lambda: asdkit.ASD(adapter=bent()), vsd, [2, 1]),
    ("ASD 1", lambda: asdkit.ASD(1.0, adapter=bent()), lambda x: vsd(x, 1), [1, 1]),
    ("ASD 2", lambda: asdkit.ASD(2.0, 3.0, bent(), "ugly"), lambda x: vsd(x, 2, "ugly"), [2, 1]),
    ("CSD", asdkit.CSD, lambda x: e(x, "y") - e(x), [2]),
    ("CSD 40", lambda: asdkit.CSD(40.0), lambda x: 40 * (e(x, "y") - e(x)), [2]),
    ("CSD 3", lambda: asdkit.CSD(3.0, 0.5, "ugly"), lambda x: 3 * (e(x, "y") - e(x)) + (e(x) - e(x, "ugly")) / 2, [3]),
    ("CSD, later", lambda: asdkit.CSD(1.0, asdkit.Ramp(0.0, 1.0, 9, 3), "ugly"), lambda x: e(x, "y") - e(x), [2]),
    ("NFSD", lambda: asdkit.NFSD(negative="ugly"), lambda x: cfg(x, 7.5) - above(x, 200, e(x, "ugly")), [3]),
    ("NFSD 3", lambda: asdkit.NFSD(3.0, "ugly", 0.5), lambda x: cfg(x, 3) - above(x, 500, e(x, "ugly")), [3]),
    ("NFSD, never", lambda: asdkit.NFSD(negative="ugly", t_from=0.99), lambda x: cfg(x, 7.5), [2]),
    ("Bridge, first", lambda: asdkit.Bridge("ugly", at=4), lambda x: cfg(x, 100) - x.eps, [2]),
    ("Bridge, second", lambda: asdkit.Bridge("ugly", 30.0, 2.5, 3), lambda x: 2.5 * (e(x, "y") - e(x, "ugly")), [2]),
    ("ReleasedASD", lambda: asdkit.ReleasedASD(adapter=bent()), vsd, [2, 1]),
    (
        "ReleasedASD 2",
        lambda: asdkit.ReleasedASD(2.0, negative="ugly", adapter=bent()),
        lambda x: vsd(x, 2, "ugly"),
        [2, 1],
    ),
    ("GAN", lambda: asdkit.GAN(adapter=bent()), vsd, [2, 1]),
    ("DMD2, no head", lambda: asdkit.DMD2(2.0, 0.0, adapter=bent()), lambda x: vsd(x, 2), [2, 1]),
    ("JSD, flat", lambda: asdkit.JSD(sharpness=1e-300, adapter=bent()), vsd, [2, 1]),
    ("FDistill", lambda: asdkit.FDistill(2.0, "reverse_kl", 0.0, adapter=bent()), lambda x: vsd(x, 2), [2, 1, 1]),
    ("DDS", asdkit.DDS, lambda x: dds(x, 7.5), [2, 2]),
    ("DDS 2", lambda: asdkit.DDS(2.0), lambda x: dds(x, 2), [2, 2]),
    ("PDS", asdkit.PDS, lambda x: dds(x, 7.5) + 0.1 * pull(x), [2, 2]),
    ("PDS 3", lambda: asdkit.PDS(3.0, 2.0), lambda x: dds(x, 3) + 2 * pull(x), [2, 2]),
    ("LODS", lambda: asdkit.LODS(adapter=bent()), lambda x: 40 * e(x, "y") - 39 * e_phi(x, bent(), "") - x.eps, [1, 1]),
    ("ASDEdit", lambda: asdkit.ASDEdit(**both()), edit, [2, 2, 1, 1]),
    ("ASDEdit 2", lambda: asdkit.ASDEdit(2.0, pull=0.5, **both()), lambda x: edit(x, 2) + pull(x) / 2, [2, 2, 1, 1]),
    ("DeltaASD", lambda: asdkit.DeltaASD(pull=3.0, **both()), lambda x: edit(x) + 3 * pull(x), [2, 2, 1, 1]),
]


@pytest.mark.parametrize(("method", "formula", "asked"), [row[1:] for row in METHODS], ids=[row[0] for row in METHODS])
def test_a_method_is_its_formula(
    prior: GaussianPrior, calls: list, method: Make, formula: Callable, asked: list
) -> None:
    x = draw(prior, step=3)
    assert close(ready(method(), prior)(x), formula(x)) and calls == asked


def test_all_methods_are_tested() -> None:
    here = {name.split()[0].strip(",") for name, *_ in METHODS} | {"ISM", "SDI", "AsynchronousSD", "RewardSDS"}
    assert here == {name for name, module in PUBLIC_NAMES.items() if module == "asdkit.methods"}


@pytest.mark.parametrize(("step", "now"), [(0, 1.0), (5, 2.0), (10, 3.0)])
def test_ramps_move_the_coefficients(prior: GaussianPrior, step: int, now: float) -> None:
    x, ramp = draw(prior, step=step), asdkit.Ramp(1.0, 3.0, 10)
    csd = ready(asdkit.CSD(asdkit.Ramp(0.0, 4.0, 10), ramp, "ugly"), prior)
    assert close(csd(x), (2 * now - 2) * (e(x, "y") - e(x)) + now * (e(x) - e(x, "ugly")))
    assert close(ready(asdkit.SDS(ramp), prior)(x), cfg(x, now) - x.eps)
    assert close(ready(asdkit.ASD(ramp, adapter=bent()), prior)(x), vsd(x, now))
    pds = ready(asdkit.PDS(ramp, asdkit.Ramp(3.0, 1.0, 10)), prior)
    assert close(pds(x), dds(x, now) + (4 - now) * pull(x))


def test_nfsd_on_either_side_of_its_threshold(prior: GaussianPrior) -> None:
    for levels, subtracted in (((0, 50, 100, 199), 0.0), ((200, 201, 500, 999), 1.0)):
        x = draw(prior, levels=levels)
        assert close(ready(asdkit.NFSD(negative="ugly"), prior)(x), cfg(x, 7.5) - subtracted * e(x, "ugly"))


def test_the_negative_prompts_of_the_papers() -> None:
    prior = GaussianPrior({"y": 1.0, "z": 0.0, guidance._UGLY: -1.0, guidance._UNREAL: -2.0}).double()
    x = draw(prior)
    gain = x.sigma / (0.25 * x.alpha**2 + x.sigma**2)
    null, y, ugly, unreal = (gain * (x.x_t - x.alpha * mean) for mean in (0.0, 1.0, -1.0, -2.0))
    assert close(ready(asdkit.CSD(1.0, 1.0), prior)(x), y - ugly)
    assert close(ready(asdkit.NFSD(t_from=0.0), prior)(x), null + 7.5 * (y - null) - unreal)


def invert(x: Noised, times: list[list[float]], scale: float) -> list[SimpleNamespace]:
    """DDIM from x0 along e_lambda through rows of times, a row for each sample: every state on the way."""
    levels = [torch.tensor(row).round().long() for row in zip(*times, strict=True)]
    here, states = state(x, t=levels[0], eps=torch.zeros_like(x.eps)), []
    for t in levels[1:]:
        states.append(here)
        eps = cfg(here, scale)
        x0 = (here.x_t - here.sigma * eps) / here.alpha
        x_t = state(x, x0=x0, t=t, eps=eps).x_t
        here = state(x, t=t)
        here.x_t, here.eps = x_t, (x_t - here.alpha * x.x0) / here.sigma
    return [*states, here]


@pytest.mark.parametrize(("method", "scale", "steps"), [(asdkit.ISM(), 7.5, 5), (asdkit.ISM(3.0, 0.05, 2), 3.0, 2)])
def test_ism_is_its_formula(prior: GaussianPrior, calls: list, method: asdkit.Field, scale: float, steps: int) -> None:
    """e_lambda(x_t) - e_null(x_s): five even steps to s = t - delta, one to t, all of them along e_null."""
    x = draw(prior)
    times = [[max(0.0, t - 0.05 * 999) * k / steps for k in range(steps + 1)] + [t] for t in x.t.tolist()]
    *_, before, here = invert(x, times, 0.0)
    assert torch.equal(here.t, x.t) and before.t.tolist() == [0, 250, 650, 929]
    assert close(ready(method, prior)(x), cfg(here, scale) - e(before)) and calls == [1] * (steps + 1) + [2]


@pytest.mark.parametrize(
    ("arguments", "asked"), [((7.5, -7.5, 10), [2] * 10), ((2.0, 0.5, 3), [2] * 3), ((7.5, 1.0, 4), [1] * 4)]
)
def test_sdi_is_its_formula(prior: GaussianPrior, calls: list, arguments: tuple, asked: list) -> None:
    """e_lambda(x_t) - eps of the inversion: ten even steps along e at lambda -7.5, where nothing else is said."""
    x, (scale, inversion_scale, steps) = draw(prior), arguments
    method = asdkit.SDI() if steps == 10 else asdkit.SDI(*arguments)
    *_, here = invert(x, [[t * k / steps for k in range(steps + 1)] for t in x.t.tolist()], inversion_scale)
    assert close(ready(method, prior)(x), cfg(here, scale) - here.eps) and calls == [*asked, 2]


@pytest.mark.parametrize(("ratio", "t_min"), [(0.1, 0.02), (0.5, 0.25)])
def test_asynchronous_sd_is_its_formula(prior: GaussianPrior, calls: list, ratio: float, t_min: float) -> None:
    """e_lambda(x_t, t) - e_y(x_t+, t+) with t+ = t + u ratio (t - t_min), the same x0 and eps."""
    x = draw(prior)
    u = torch.rand(B, generator=torch.Generator().manual_seed(1)).tolist()
    room = [ratio * max(0.0, t - t_min * 999) for t in x.t.tolist()]
    shifted = [min(999, round(t + share * most)) for t, share, most in zip(x.t.tolist(), u, room, strict=True)]
    later = state(x, t=torch.tensor(shifted))
    assert shifted != x.t.tolist()
    assert close(ready(asdkit.AsynchronousSD(7.5, ratio, t_min), prior)(x), cfg(x, 7.5) - e(later, "y"))
    assert calls == [2, 1]


@pytest.mark.parametrize("scale", [30.0, 1.0])
def test_reward_sds_is_a_loop_over_draws(prior: GaussianPrior, calls: list, scale: float) -> None:
    x, draws, temperature, scorer = draw(prior), 3, 0.05, Brightness()
    fresh = torch.randn((draws - 1) * B, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.zeros_like(x.eps)
    states = [state(x, eps=eps) for eps in (x.eps, *fresh.chunk(draws - 1))]
    for b in range(B):
        pictures = [((s.x_t - s.sigma * cfg(s, 4.0)) / s.alpha)[b].clamp(0, 1) for s in states]
        weights = torch.stack([picture.mean() / temperature for picture in pictures]).softmax(0)
        for weight, s in zip(weights, states, strict=True):
            expected[b] += weight * (cfg(s, scale) - s.eps)[b]
    assert close(ready(asdkit.RewardSDS(scorer, scale, draws, temperature, judged_scale=4.0), prior)(x), expected)
    assert scorer.heard == {"y": draws * B} and calls == [2 * draws]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: asdkit.VSD(3.0, bent(), "ugly"), lambda: asdkit.ASD(3.0, 0.0, bent(), "ugly")),
        (lambda: asdkit.SJC(9.0), lambda: asdkit.SDS(9.0)),
        (lambda: asdkit.SDS(9.0), lambda: asdkit.SDS(asdkit.Ramp(9.0, 9.0, 5))),
        (lambda: asdkit.Bridge("ugly", 9.0, at=4), lambda: asdkit.SDS(9.0)),
        (lambda: asdkit.NFSD(9.0, "ugly", 1.0), lambda: asdkit.SJC(9.0, False)),
        (lambda: asdkit.PDS(3.0, 0.0), lambda: asdkit.DDS(3.0)),
        (lambda: asdkit.CSD(2.0, asdkit.Ramp(0.0, 1.0, 9, begin=4), "ugly"), lambda: asdkit.CSD(2.0)),
    ],
)
def test_special_cases_are_and_learn_the_same_bits(prior: GaussianPrior, one: Make, other: Make) -> None:
    first, second = ready(one(), prior), ready(other(), prior)
    assert torch.equal(first(draw(prior, step=3)), second(draw(prior, step=3)))
    assert first.loss(draw(prior)) == second.loss(draw(prior))


def test_nothing_to_edit_is_exactly_zero(prior: GaussianPrior) -> None:
    """DDS and PDS of the source image with the source's words."""
    x = draw(prior)
    same = prior.draw(x.source, x.t, x.eps, source=x.source)
    for field in (asdkit.DDS(), asdkit.PDS(), asdkit.DeltaASD(adapter=bent(), source_adapter=bent())):
        field.bind("y", "y")
        field.setup(prior)
        assert torch.equal(field(same), torch.zeros_like(x.eps))


def test_what_asdedit_deltaasd_and_lods_minimise(prior: GaussianPrior) -> None:
    """ASDEdit: phi by Eq. 10 at gamma -1, psi by Eq. 9 at gamma 1, eta 0 with the image as fake and the source as real.
    DeltaASD: Eq. 10 twice, phi of the image and its words, psi of the source image and its own. LODS: the denoising
    loss of the null condition.
    """
    x, phi, psi = draw(prior), bent(), bent(8)
    other = on_source(x)
    eq10 = (e_phi(x, phi) - x.eps) ** 2 - (e(x, "y") - e_phi(x, phi)) ** 2
    fake = (e_phi(x, psi, "z") - x.eps) ** 2 + (e(x, "z") - e_phi(x, psi, "z")) ** 2
    error, prior_error = (((value - x.eps) ** 2).flatten(1).sum(1) for value in (e_phi(other, psi, "z"), e(other, "z")))
    expected = (eq10 + fake).sum() / B - torch.minimum(error, 2 * prior_error).mean()
    assert close(ready(asdkit.ASDEdit(**both()), prior).loss(x), expected)
    first = (e_phi(x, phi) - x.eps) ** 2 + 0.25 * (e(x, "y") - e_phi(x, phi)) ** 2
    second = (e_phi(other, psi, "z") - x.eps) ** 2 + 0.25 * (e(other, "z") - e_phi(other, psi, "z")) ** 2
    assert close(ready(asdkit.DeltaASD(gamma=0.25, **both()), prior).loss(x), (first + second).sum() / B)
    lods = ready(asdkit.LODS(adapter=bent()), prior)
    assert close(lods.loss(x), ((e_phi(x, phi, "") - x.eps) ** 2).sum() / B)


def test_deltaasd_at_its_optima_is_dds_at_lambda_eff(prior: GaussianPrior) -> None:
    """Of a single image e_phi* = (eps + gamma e_y) / (1 + gamma): the residual is DDS(lambda_eff) / (1 + gamma)."""
    x, gamma = draw(prior), -0.5
    other = on_source(x)
    phi, psi = ((x.eps + gamma * of) / (1 + gamma) for of in (e(x, "y"), e(other, "z")))
    residual = (cfg(x, 7.5) - phi) - (cfg(other, 7.5, "z") - psi)
    assert close(residual, ready(asdkit.DDS(1 + (1 + gamma) * 6.5), prior)(x) / (1 + gamma), 1e-6)


def test_deltaasd_forgets_what_both_discriminators_said(prior: GaussianPrior) -> None:
    """After a step of phi and psi, the same draw gives what a new one would."""
    x, phi, psi = draw(prior), bent(), bent(8)
    field = ready(asdkit.DeltaASD(adapter=phi, source_adapter=psi), prior)
    field(x), field.loss(x)
    with torch.no_grad():
        phi.offset.add_(0.3), psi.offset.add_(0.7)
    field.forget(x)
    assert torch.equal(field.loss(x), field.loss(draw(prior)))
    logged = field.diagnostics(x)
    other = on_source(x)
    assert logged["distance_2"] == pytest.approx((e_phi(other, psi, "z") - e(other, "z")).square().mean().item())
