"""Every method of asdkit.methods is its formula, written out by hand, and asks the network for no more than it needs.

test_redrawn.py has what methods are made of, tests/proofs where they lead.
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from support.exact import B, bent, cfg, close, draw, e, e_phi, ready, state
from torch import Tensor

import asdkit
from asdkit import methods as guidance
from asdkit.core.names import PUBLIC_NAMES
from asdkit.scores.prior import Noised


class Brightness(asdkit.Scorer):
    """Likes bright pictures, and remembers the prompts it was asked about."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        self.prompts.append(prompt)
        return images.flatten(1).mean(1)


def on_source(x: Noised) -> SimpleNamespace:
    return state(x, x0=x.source)


def dds(x: Noised, scale: float) -> Tensor:
    return cfg(x, scale) - cfg(on_source(x), scale, "z")


def above(x: Noised, first: int, value: Tensor) -> Tensor:
    return torch.stack([value[b] if x.t[b] >= first else torch.zeros_like(value[b]) for b in range(B)])


Formula = Callable[[Noised], Tensor]
METHODS: list[tuple[str, Callable[[], asdkit.Field], Formula]] = [
    ("SDS", asdkit.SDS, lambda x: e(x) + 100 * (e(x, "y") - e(x)) - x.eps),
    ("SDS 3, negative", lambda: asdkit.SDS(3.0, "ugly"), lambda x: cfg(x, 3, "y", "ugly") - x.eps),
    ("SDS 1", lambda: asdkit.SDS(1.0), lambda x: e(x, "y") - x.eps),
    ("SDS 0", lambda: asdkit.SDS(0.0), lambda x: e(x) - x.eps),
    ("SJC", asdkit.SJC, lambda x: cfg(x, 101) - x.eps),
    ("SJC, raw", lambda: asdkit.SJC(5.0, False), lambda x: cfg(x, 5)),
    ("VSD", lambda: asdkit.VSD(adapter=bent()), lambda x: cfg(x, 7.5) - e_phi(x, bent())),
    ("VSD, negative", lambda: asdkit.VSD(2.0, bent(), "ugly"), lambda x: cfg(x, 2, "y", "ugly") - e_phi(x, bent())),
    ("ASD", lambda: asdkit.ASD(adapter=bent()), lambda x: cfg(x, 7.5) - e_phi(x, bent())),
    ("ASD 2", lambda: asdkit.ASD(2.0, 3.0, bent(5), "ugly"), lambda x: cfg(x, 2, "y", "ugly") - e_phi(x, bent(5))),
    ("CSD", asdkit.CSD, lambda x: e(x, "y") - e(x)),
    ("CSD 40", lambda: asdkit.CSD(40.0), lambda x: 40 * (e(x, "y") - e(x))),
    ("CSD 3", lambda: asdkit.CSD(3.0, 0.5, "ugly"), lambda x: 3 * (e(x, "y") - e(x)) + (e(x) - e(x, "ugly")) / 2),
    ("NFSD", lambda: asdkit.NFSD(negative="ugly"), lambda x: cfg(x, 7.5) - above(x, 200, e(x, "ugly"))),
    ("NFSD 3", lambda: asdkit.NFSD(3.0, "ugly", 0.5), lambda x: cfg(x, 3) - above(x, 500, e(x, "ugly"))),
    ("Bridge, first", lambda: asdkit.Bridge("ugly", at=4), lambda x: cfg(x, 100) - x.eps),
    ("Bridge, second", lambda: asdkit.Bridge("ugly", 30.0, 2.5, 3), lambda x: 2.5 * (e(x, "y") - e(x, "ugly"))),
    ("ReleasedASD", lambda: asdkit.ReleasedASD(adapter=bent()), lambda x: cfg(x, 7.5) - e_phi(x, bent())),
    (
        "ReleasedASD 2",
        lambda: asdkit.ReleasedASD(2.0, negative="ugly", adapter=bent()),
        lambda x: cfg(x, 2, "y", "ugly") - e_phi(x, bent()),
    ),
    ("GAN", lambda: asdkit.GAN(adapter=bent()), lambda x: cfg(x, 7.5) - e_phi(x, bent())),
    ("DMD2, no head", lambda: asdkit.DMD2(2.0, 0.0, adapter=bent()), lambda x: cfg(x, 2) - e_phi(x, bent())),
    ("JSD, flat", lambda: asdkit.JSD(sharpness=1e-300, adapter=bent()), lambda x: cfg(x, 7.5) - e_phi(x, bent())),
    (
        "FDistill, reverse KL",
        lambda: asdkit.FDistill(2.0, "reverse_kl", 0.0, adapter=bent()),
        lambda x: cfg(x, 2) - e_phi(x, bent()),
    ),
    ("DDS", asdkit.DDS, lambda x: dds(x, 7.5)),
    ("DDS 2", lambda: asdkit.DDS(2.0), lambda x: dds(x, 2)),
    ("PDS", asdkit.PDS, lambda x: dds(x, 7.5) + 0.1 * (x.x0 - x.source)),
    ("PDS 3", lambda: asdkit.PDS(3.0, 2.0), lambda x: dds(x, 3) + 2 * (x.x0 - x.source)),
    ("LODS", lambda: asdkit.LODS(adapter=bent()), lambda x: 40 * e(x, "y") - 39 * e_phi(x, bent(), "") - x.eps),
    (
        "ASDEdit",
        lambda: asdkit.ASDEdit(adapter=bent(), source_adapter=bent(8)),
        lambda x: dds(x, 7.5) - e_phi(x, bent()) + e_phi(on_source(x), bent(8), "z"),
    ),
    (
        "ASDEdit, pull",
        lambda: asdkit.ASDEdit(2.0, adapter=bent(), source_adapter=bent(8), pull=0.5),
        lambda x: dds(x, 2) - e_phi(x, bent()) + e_phi(on_source(x), bent(8), "z") + 0.5 * (x.x0 - x.source),
    ),
    (
        "DeltaASD",
        lambda: asdkit.DeltaASD(adapter=bent(), source_adapter=bent(8), pull=3.0),
        lambda x: dds(x, 7.5) - e_phi(x, bent()) + e_phi(on_source(x), bent(8), "z") + 3 * (x.x0 - x.source),
    ),
]


@pytest.mark.parametrize(("method", "formula"), [row[1:] for row in METHODS], ids=[row[0] for row in METHODS])
def test_a_method_is_its_formula(
    prior: asdkit.GaussianPrior, method: Callable[[], asdkit.Field], formula: Formula
) -> None:
    x = draw(prior, step=3)
    assert close(ready(method(), prior)(x), formula(x))


def test_all_methods_are_tested() -> None:
    here = {name.split()[0].strip(",") for name, *_ in METHODS} | {"ISM", "SDI", "AsynchronousSD", "RewardSDS"}
    assert here == {name for name, module in PUBLIC_NAMES.items() if module == "asdkit.methods"}


@pytest.mark.parametrize("step", [0, 5, 10])
def test_ramps_move_the_coefficients(prior: asdkit.GaussianPrior, step: int) -> None:
    ramp = asdkit.Ramp(1.0, 3.0, 10)
    x, now = draw(prior, step=step), {0: 1.0, 5: 2.0, 10: 3.0}[step]
    null, y, ugly = e(x), e(x, "y"), e(x, "ugly")
    assert close(
        ready(asdkit.CSD(asdkit.Ramp(0.0, 4.0, 10), ramp, "ugly"), prior)(x),
        (2 * now - 2) * (y - null) + now * (null - ugly),
    )
    assert close(ready(asdkit.SDS(ramp), prior)(x), cfg(x, now) - x.eps)
    assert close(ready(asdkit.ASD(ramp, adapter=bent()), prior)(x), cfg(x, now) - e_phi(x, bent()))
    pds = ready(asdkit.PDS(ramp, asdkit.Ramp(3.0, 1.0, 10)), prior)
    assert close(pds(x), dds(x, now) + (4 - now) * (x.x0 - x.source))


@pytest.mark.parametrize(("levels", "subtracted"), [((0, 50, 100, 199), False), ((200, 201, 500, 999), True)])
def test_nfsd_on_either_side_of_its_threshold(
    prior: asdkit.GaussianPrior, levels: tuple[int, ...], subtracted: bool
) -> None:
    x = draw(prior, levels=levels)
    assert close(ready(asdkit.NFSD(negative="ugly"), prior)(x), cfg(x, 7.5) - subtracted * e(x, "ugly"))


def test_the_negative_prompts_of_the_papers() -> None:
    prior = asdkit.GaussianPrior({"y": 1.0, "z": 0.0, guidance._UGLY: -1.0, guidance._UNREAL: -2.0}).double()
    x = draw(prior)
    (null, y, ugly, unreal) = (
        x.sigma * (x.x_t - x.alpha * mean) / (0.25 * x.alpha**2 + x.sigma**2) for mean in (0.0, 1.0, -1.0, -2.0)
    )
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


def test_ism_is_its_formula(prior: asdkit.GaussianPrior) -> None:
    """e_lambda(x_t) - e_null(x_s): five even steps to s = t - delta, one to t, all of them along e_null."""
    x = draw(prior)
    stops = [max(0.0, t - 0.05 * 999) for t in x.t.tolist()]
    times = [[stop * k / 5 for k in range(6)] + [t] for stop, t in zip(stops, x.t.tolist(), strict=True)]
    *_, before, here = invert(x, times, 0.0)
    assert torch.equal(here.t, x.t) and before.t.tolist() == [0, 250, 650, 929]
    assert close(ready(asdkit.ISM(), prior)(x), cfg(here, 7.5) - e(before))
    times = [[stop * k / 2 for k in range(3)] + [t] for stop, t in zip(stops, x.t.tolist(), strict=True)]
    *_, before, here = invert(x, times, 0.0)
    assert close(ready(asdkit.ISM(3.0, 0.05, 2), prior)(x), cfg(here, 3.0) - e(before))


def test_sdi_is_its_formula(prior: asdkit.GaussianPrior) -> None:
    """e_lambda(x_t) - eps of the inversion: ten even steps along e at lambda -7.5."""
    x = draw(prior)
    *_, here = invert(x, [[t * k / 10 for k in range(11)] for t in x.t.tolist()], -7.5)
    assert close(ready(asdkit.SDI(), prior)(x), cfg(here, 7.5) - here.eps)
    *_, here = invert(x, [[t * k / 3 for k in range(4)] for t in x.t.tolist()], 0.5)
    assert close(ready(asdkit.SDI(2.0, 0.5, 3), prior)(x), cfg(here, 2.0) - here.eps)


@pytest.mark.parametrize(("ratio", "t_min"), [(0.1, 0.02), (0.5, 0.25)])
def test_asynchronous_sd_is_its_formula(prior: asdkit.GaussianPrior, ratio: float, t_min: float) -> None:
    """e_lambda(x_t, t) - e_y(x_t+, t+) with t+ = t + u ratio (t - t_min), the same x0 and eps."""
    x = draw(prior)
    u = torch.rand(B, generator=torch.Generator().manual_seed(1)).tolist()
    room = [ratio * max(0.0, t - t_min * 999) for t in x.t.tolist()]
    shifted = [min(999, round(t + share * most)) for t, share, most in zip(x.t.tolist(), u, room, strict=True)]
    later = state(x, t=torch.tensor(shifted))
    assert shifted != x.t.tolist()
    assert close(ready(asdkit.AsynchronousSD(7.5, ratio, t_min), prior)(x), cfg(x, 7.5) - e(later, "y"))


def test_reward_sds_is_a_loop_over_draws(prior: asdkit.GaussianPrior) -> None:
    x, draws, temperature, scorer = draw(prior), 3, 0.05, Brightness()
    fresh = torch.randn((draws - 1) * B, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.zeros_like(x.eps)
    noises = [x.eps, *fresh.chunk(draws - 1)]
    states = [state(x, eps=eps) for eps in noises]
    for b in range(B):
        pictures = [((s.x_t - s.sigma * cfg(s, 4.0)) / s.alpha)[b].clamp(0, 1) for s in states]
        scores = torch.stack([picture.mean() / temperature for picture in pictures])
        weights = scores.exp() / scores.exp().sum()
        for weight, s in zip(weights, states, strict=True):
            expected[b] += weight * (cfg(s, 30.0) - s.eps)[b]
    assert close(ready(asdkit.RewardSDS(scorer, 30.0, draws, temperature, judged_scale=4.0), prior)(x), expected)
    assert scorer.prompts == ["y"]


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
def test_special_cases_are_the_same_bits(
    prior: asdkit.GaussianPrior, one: Callable[[], asdkit.Field], other: Callable[[], asdkit.Field]
) -> None:
    first, second = (ready(make(), prior)(draw(prior, step=3)) for make in (one, other))
    assert torch.equal(first, second)


def test_vsd_and_asd_at_gamma_zero_learn_the_same_bits(prior: asdkit.GaussianPrior) -> None:
    vsd, asd = ready(asdkit.VSD(3.0, bent()), prior), ready(asdkit.ASD(3.0, 0.0, bent()), prior)
    assert torch.equal(vsd.loss(draw(prior)), asd.loss(draw(prior)))


def test_nothing_to_edit_is_exactly_zero(prior: asdkit.GaussianPrior) -> None:
    """DDS and PDS of the source image with the source's words."""
    x = draw(prior)
    same = prior.draw(x.source, x.t, x.eps, source=x.source)
    for field in (asdkit.DDS(), asdkit.PDS(), asdkit.DeltaASD(adapter=bent(), source_adapter=bent())):
        field.bind("y", "y")
        field.setup(prior)
        assert torch.equal(field(same), torch.zeros_like(x.eps))


def test_what_asdedit_minimises(prior: asdkit.GaussianPrior) -> None:
    """phi by Eq. 10 at gamma -1, psi by Eq. 9 at gamma 1, eta 0 with the image as fake and the source as real."""
    x, phi, psi = draw(prior), bent(), bent(8)
    field = ready(asdkit.ASDEdit(adapter=phi, source_adapter=psi), prior)
    other = on_source(x)
    first = (e_phi(x, phi) - x.eps) ** 2 - (e(x, "y") - e_phi(x, phi)) ** 2
    second = (e_phi(x, psi, "z") - x.eps) ** 2 + (e(x, "z") - e_phi(x, psi, "z")) ** 2
    error, prior_error = (((value - x.eps) ** 2).flatten(1).sum(1) for value in (e_phi(other, psi, "z"), e(other, "z")))
    expected = (first + second).sum() / B - torch.minimum(error, 2 * prior_error).mean()
    assert close(field.loss(x), expected)


def test_what_deltaasd_minimises(prior: asdkit.GaussianPrior) -> None:
    """Eq. 10 twice: phi of the image and its words, psi of the source image and its own."""
    x, phi, psi = draw(prior), bent(), bent(8)
    field = ready(asdkit.DeltaASD(gamma=0.25, adapter=phi, source_adapter=psi), prior)
    other = on_source(x)
    first = (e_phi(x, phi) - x.eps) ** 2 + 0.25 * (e(x, "y") - e_phi(x, phi)) ** 2
    second = (e_phi(other, psi, "z") - x.eps) ** 2 + 0.25 * (e(other, "z") - e_phi(other, psi, "z")) ** 2
    assert close(field.loss(x), (first + second).sum() / B)


def test_deltaasd_at_its_optima_is_dds_at_lambda_eff(prior: asdkit.GaussianPrior) -> None:
    """Of a single image e_phi* = (eps + gamma e_y) / (1 + gamma): the residual is DDS(lambda_eff) / (1 + gamma)."""
    x, gamma = draw(prior), -0.5
    other = on_source(x)
    phi, psi = ((x.eps + gamma * of) / (1 + gamma) for of in (e(x, "y"), e(other, "z")))
    residual = (cfg(x, 7.5) - phi) - (cfg(other, 7.5, "z") - psi)
    assert close(residual, ready(asdkit.DDS(1 + (1 + gamma) * 6.5), prior)(x) / (1 + gamma), 1e-6)


def test_deltaasd_forgets_what_both_discriminators_said(prior: asdkit.GaussianPrior) -> None:
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


def test_what_lods_minimises(prior: asdkit.GaussianPrior) -> None:
    """The denoising loss of the null condition."""
    x, phi = draw(prior), bent()
    assert close(ready(asdkit.LODS(adapter=phi), prior).loss(x), ((e_phi(x, phi, "") - x.eps) ** 2).sum() / B)


COUNTS: list[tuple[str, Callable[[], asdkit.Field], list[float]]] = [
    ("SDS", asdkit.SDS, [2]),
    ("SDS 1", lambda: asdkit.SDS(1.0), [1]),
    ("SDS 0", lambda: asdkit.SDS(0.0), [1]),
    ("SDS to 0", lambda: asdkit.SDS(asdkit.Ramp(5.0, 0.0, 3)), [1]),
    ("SJC", asdkit.SJC, [2]),
    ("CSD", asdkit.CSD, [2]),
    ("CSD, negative", lambda: asdkit.CSD(1.0, 1.0, "ugly"), [3]),
    ("CSD, negative later", lambda: asdkit.CSD(1.0, asdkit.Ramp(0.0, 1.0, 9, 3), "ugly"), [2]),
    ("NFSD", lambda: asdkit.NFSD(negative="ugly"), [3]),
    ("NFSD, never", lambda: asdkit.NFSD(negative="ugly", t_from=0.99), [2]),
    ("Bridge", lambda: asdkit.Bridge("ugly", at=4), [2]),
    ("Bridge, second", lambda: asdkit.Bridge("ugly", at=3), [2]),
    ("VSD", lambda: asdkit.VSD(adapter=bent()), [2, 1]),
    ("ASD", lambda: asdkit.ASD(adapter=bent()), [2, 1]),
    ("ASD 1", lambda: asdkit.ASD(1.0, adapter=bent()), [1, 1]),
    ("LODS", lambda: asdkit.LODS(adapter=bent()), [1, 1]),
    ("DDS", asdkit.DDS, [2, 2]),
    ("PDS", asdkit.PDS, [2, 2]),
    ("ASDEdit", lambda: asdkit.ASDEdit(adapter=bent(), source_adapter=bent(8)), [2, 2, 1, 1]),
    ("DeltaASD", lambda: asdkit.DeltaASD(adapter=bent(), source_adapter=bent(8)), [2, 2, 1, 1]),
    ("ISM", asdkit.ISM, [1] * 6 + [2]),
    ("ISM, 2 steps", lambda: asdkit.ISM(steps=2), [1] * 3 + [2]),
    ("SDI", asdkit.SDI, [2] * 10 + [2]),
    ("SDI along e_y", lambda: asdkit.SDI(inversion_scale=1.0, steps=4), [1] * 4 + [2]),
    ("AsynchronousSD", asdkit.AsynchronousSD, [2, 1]),
    ("RewardSDS", lambda: asdkit.RewardSDS(Brightness(), draws=5), [2 * 5]),
    ("RewardSDS 1", lambda: asdkit.RewardSDS(Brightness(), 1.0, draws=5), [2 * 5]),
]


@pytest.mark.parametrize(("method", "expected"), [row[1:] for row in COUNTS], ids=[row[0] for row in COUNTS])
def test_calls(
    prior: asdkit.GaussianPrior, calls: list[float], method: Callable[[], asdkit.Field], expected: list[float]
) -> None:
    """Conditions in each network call of one residual."""
    ready(method(), prior)(draw(prior, step=3))
    assert calls == expected
