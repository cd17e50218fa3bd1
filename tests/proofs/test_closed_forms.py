"""Properties of score distillation that have closed forms, numbered as in the project's notes on its mathematics.

0 is Eq. 5; 1 to 10, 21 and 22 are in test_fixed_points.py. Where nothing else is said the target is N(1, 0.5^2), the
null condition N(0, 0.5^2), and the generator a + b z; the points (z, eps) = (+-1, +-1) give exact first and second
moments.
"""

import math

import numpy as np
import pytest
import torch
from support.exact import close, randn
from support.gaussian_world import MU, SPREAD, WEIGHTINGS, descend, draw, ready
from torch import Tensor

from asdkit import ASD, CFG, CSD, DDS, ISM, SDI, SDS, Alpha2, AsynchronousSD, Inverted, Noise, Prompt
from asdkit.lab import Affine, GaussianPrior, GaussianScore, gaussian_eps
from asdkit.scores.equations import discriminator_loss, inject, real_loss, weight
from asdkit.scores.prior import Condition, Noised
from asdkit.scores.schedules import scaled_linear


def c(x: Noised, spread: float = SPREAD) -> Tensor:
    """alpha sigma / v: how much a noise prediction moves with x0, negated with the mean."""
    return x.alpha * x.sigma / ((x.alpha * spread) ** 2 + x.sigma**2)


def over_signs(value: Tensor) -> Tensor:
    """The expectation at each level."""
    return value.reshape(-1, 4).mean(1)


@pytest.mark.parametrize(("gamma", "eta"), [(-0.5, 0.5), (1.0, 0.0), (0.25, 1.0)])
def test_11_eq9_is_eq10_at_gamma_eff(gamma: float, eta: float) -> None:
    """With real samples of an exact prior, gamma_eff = gamma - (1 - eta) r(x_t) / q(x_t); r, q real and fake densities.

    Expected gradients with respect to e_phi = e_y + h are compared against several h(x_t), by Gauss-Hermite quadrature
    over (z, eps), the fakes being the wider so that r/q is bounded.
    """
    alpha, sigma, fake_mean, fake_spread = 0.8, 0.6, 0.7, 1.0
    points, chances = np.polynomial.hermite_e.hermegauss(60)
    z, eps = (torch.tensor(grid).reshape(-1, 1, 1, 1) for grid in np.meshgrid(points, points))
    chance = torch.tensor(np.outer(chances, chances) / (2 * math.pi)).reshape(-1, 1, 1, 1)

    def gradients(mean: float, spread: float, loss) -> list[float]:
        x_t = alpha * (mean + spread * z) + sigma * eps
        e_y = gaussian_eps(x_t, torch.tensor(alpha), torch.tensor(sigma), MU, SPREAD)
        e_phi = (e_y + 0.3 + 0.2 * torch.tanh(x_t)).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(e_phi, e_y, x_t), e_phi)
        return [(chance * len(z) * gradient * h).sum().item() for h in (1.0, x_t, torch.sin(x_t))]

    def density(x_t: Tensor, mean: float, spread: float) -> Tensor:
        deviation = math.sqrt((alpha * spread) ** 2 + sigma**2)
        return torch.distributions.Normal(alpha * mean, deviation).log_prob(x_t).exp()

    def effective(x_t: Tensor) -> Tensor:
        return gamma - (1 - eta) * density(x_t, MU, SPREAD) / density(x_t, fake_mean, fake_spread)

    fake = gradients(fake_mean, fake_spread, lambda e, y, x_t: discriminator_loss(e, eps, y, gamma))
    real = gradients(MU, SPREAD, lambda e, y, x_t: real_loss(e, eps, y, eta)[0])
    eq10 = gradients(fake_mean, fake_spread, lambda e, y, x_t: discriminator_loss(e, eps, y, effective(x_t)))
    assert [a + b for a, b in zip(fake, real, strict=True)] == pytest.approx(eq10, rel=1e-4, abs=1e-5)


def test_0_the_discriminator_of_eq5(prior: GaussianPrior) -> None:
    """D's gradient by autograd of exact densities, phi being z: -D with lambda pulls by Eq. 7's residual over sigma."""
    scale, x = 3.0, draw(prior, 0.2, 0.3)
    x_t, deviation = x.x_t.clone().requires_grad_(), ((x.alpha * SPREAD) ** 2 + x.sigma**2).sqrt()

    def likelihood(mean: float) -> Tensor:
        """log p(prompt given x_t), but for a constant, by Bayes."""
        given, marginal = (torch.distributions.Normal(x.alpha * center, deviation) for center in (mean, 0.0))
        return given.log_prob(x_t) - marginal.log_prob(x_t)

    y, phi = likelihood(MU), likelihood(-0.5)
    (surrogate,) = torch.autograd.grad((phi - scale * y).sum(), x_t, retain_graph=True)
    (slope,) = torch.autograd.grad((y - phi).sum(), x_t)
    assert close((CFG("y", scale) - Prompt("z"))(x), x.sigma * surrogate)
    assert close((Prompt("z") - Prompt("y"))(x), x.sigma * slope)  # Eq. 8's penalty is tau times the slope's square


@pytest.mark.parametrize("eta", [0.0, 0.25, 0.5])
def test_12_up_to_one_half_the_real_terms_are_bounded(eta: float) -> None:
    """- ||e_phi - eps||^2 + eta ||e_y - e_phi||^2 <= 2 eta ||e_y - eps||^2, with equality at eta = 1/2."""
    eps, e_y = randn(2, 1, 3, 2, 2)
    bound = 2 * eta * (e_y - eps).square().sum()
    for seed in range(20):
        assert real_loss(3 * randn(1, 3, 2, 2, seed=seed), eps, e_y, eta)[0] <= bound
    worst = real_loss(eps - eta / (1 - eta) * (e_y - eps), eps, e_y, eta)[0]
    assert worst <= bound + 1e-12 and (eta != 0.5 or close(worst, bound))
    above = real_loss(eps - 3 * (e_y - eps), eps, e_y, 0.75)[0]
    assert close(above, 3 * (e_y - eps).square().sum()), "which is more than twice 0.75 times it"


@pytest.mark.parametrize("gamma", [-0.75, -0.5, 2.0])
def test_13_the_released_v_loss_is_alpha2(prior: GaussianPrior, gamma: float) -> None:
    """||v - (alpha eps - sigma x0)||^2 + gamma ||v - (alpha e_y - sigma x0)||^2 and Eq. 10 at Alpha2 agree on e_phi."""
    x = draw(prior, 0.4, 0.9)
    e_y = x.predict(Condition("y"))
    v_eps, v_y = (x.alpha * noise - x.sigma * x.x0 for noise in (x.eps, e_y))
    v = ((v_eps + gamma * v_y) / (1 + gamma)).requires_grad_()
    (zero,) = torch.autograd.grad((v - v_eps).square().sum() + gamma * (v - v_y).square().sum(), v)
    assert zero.abs().max() < 1e-12
    e_phi = (x.alpha * v.detach() + x.sigma * x.x_t).requires_grad_()
    loss = discriminator_loss(e_phi, x.eps, e_y, Alpha2(gamma)(x, 7.5))
    assert torch.autograd.grad(loss, e_phi)[0].abs().max() < 1e-6  # the schedule's alpha^2 + sigma^2 is 1 in float32


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_14_the_residual_of_dds(prior: GaussianPrior, scale: float) -> None:
    """c(t) [(x - x_source) - lambda (mu_y - mu_z)], without a trace of the noise."""
    x = draw(prior, 0.4, 0.9)
    x.source = randn(*x.x0.shape)
    field = DDS(scale)
    field.bind("y", "z")
    assert close(field(x), c(x) * ((x.x0 - x.source) - scale * 1.5))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_14_where_dds_ends(prior: GaussianPrior, weighting: str) -> None:
    """At x_source + lambda (mu_y - mu_z), for every w(t)."""
    field = DDS(3.0)
    field.bind("y", "z")

    def edited(x: Noised) -> Tensor:
        x.source = torch.full_like(x.x0, 0.3)
        return field(x)

    a, b = descend(prior, edited, weighting=weighting, lr=0.5, steps=200)
    assert a == pytest.approx(0.3 + 3.0 * 1.5, abs=1e-6) and abs(b) < 1e-6


def test_15_csd_drifts_for_ever_where_the_spreads_are_equal(prior: GaussianPrior) -> None:
    """c(t) (mu_0 - mu_y), wherever the generator is."""
    for a, b in ((0.0, 0.0), (0.4, 0.9), (50.0, 3.0)):
        x = draw(prior, a, b)
        assert close(ready(CSD(2.0), prior)(x), -2.0 * c(x) * MU)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_15_csd_ends_where_the_null_condition_is_wider(weighting: str) -> None:
    """Where the weighted alpha sigma [(a - mu_y) / v_y - a / v_0] cancel: beyond mu_y, at any scale."""
    prior = GaussianPrior({"y": MU}, 0.0, SPREAD, null_spread=1.0, steps=10).double()
    x = draw(prior, 0.0, 0.0)
    w = weight(weighting, x.alpha, x.sigma)
    a, _ = descend(prior, ready(CSD(3.0), prior), weighting=weighting, lr=0.5, steps=300)
    expected = (w * c(x)).sum() * MU / (w * (c(x) - c(x, 1.0))).sum()
    assert a == pytest.approx(expected.item(), abs=1e-6) and a > MU


@pytest.mark.parametrize("scale", [10.0, 1e3, 1e6])
def test_16_sds_over_lambda_becomes_csd(prior: GaussianPrior, scale: float) -> None:
    """What is left is (e_null - eps) / lambda."""
    x = draw(prior, 0.4, 0.9)
    left = ready(SDS(scale), prior)(x) / scale - ready(CSD(), prior)(x)
    assert close(left, (ready(CFG(scale=0.0), prior)(x) - x.eps) / scale)
    assert left.abs().max() < 10 / scale


def test_17_ism_becomes_the_classifier_term() -> None:
    """As delta goes to 0, linearly: e_lambda(x_t) - e_null(x_s) to lambda (e_y - e_null) at the inverted draw."""
    prior = GaussianPrior({"y": MU}, 0.0, SPREAD).double()
    x = draw(prior, 0.4, 0.9, torch.tensor([200, 500, 800]))
    distances = []
    for delta in (0.048, 0.012, 0.003):
        ism = ready(ISM(7.5, delta), prior)
        there = ism.redraw(x)
        distances.append((ism(x) - 7.5 * ready(CSD(), prior)(there)).abs().max().item())
    assert distances[0] < 0.2 and distances[0] > 3 * distances[1] > 9 * distances[2]


@pytest.mark.slow
def test_18_sdi_with_an_exact_inversion() -> None:
    """x0 as it is denoised at lambda 1 is mu + (alpha s / v^.5) (x0 - mu): shrunk, so still mode-seeking."""
    prior = GaussianPrior({"y": MU}, 0.0, SPREAD).double()
    x = draw(prior, 0.4, 0.9, torch.tensor([200, 500, 800]))
    inversion = ready(Inverted(Prompt(), 1.0, steps=800), prior)
    there = inversion.redraw(x)
    shrunk = x.alpha * SPREAD / ((x.alpha * SPREAD) ** 2 + x.sigma**2).sqrt()
    expected = MU + shrunk * (x.x0 - MU)
    assert torch.allclose(there.to_x0(inversion(x)), expected, atol=5e-3)
    sdi = ready(SDI(1.0, 1.0, 800), prior)
    assert torch.allclose(sdi(x), x.alpha / x.sigma * (x.x0 - expected), atol=1e-2)


@pytest.mark.parametrize(("t", "attracts"), [(200, False), (330, False), (380, True), (700, True)])
def test_19_asynchronous_sd_at_lambda_1(monkeypatch: pytest.MonkeyPatch, t: int, attracts: bool) -> None:
    """E R = (c_t - c_t+)(a - mu): for s = 1 it attracts above t = 354 or so alone, so it needs lambda > 1."""
    monkeypatch.setattr(Noised, "rand", lambda self, *shape: torch.ones(shape, dtype=torch.float64))
    prior = GaussianPrior({"y": MU}, 0.0, spread=1.0).double()
    x = draw(prior, 0.4, 0.9, torch.tensor([t]))
    later = draw(prior, 0.4, 0.9, torch.tensor([round(t + 0.1 * (t - 0.02 * 999))]))
    pull = over_signs(ready(AsynchronousSD(1.0), prior)(x))
    slope = (c(x, 1.0) - c(later, 1.0))[0].item()
    assert pull.item() == pytest.approx(slope * (0.4 - MU), rel=1e-9)
    assert (slope > 0) == attracts


@pytest.mark.parametrize("share", [0.0, 0.5, 1.2])
def test_20_sid_at_the_exact_fake_score(prior: GaussianPrior, share: float) -> None:
    """E (e_phi - e_y) [(eps - e_y) - A (e_phi - e_y)] = (1 - A) E ||e_phi - e_y||^2.

    SiD descends this through both networks, which no expression of fields does; its value is one.
    """
    x = draw(prior, 0.4, 0.9)
    fisher = ready(GaussianScore(0.4, 0.9) - Prompt(), prior)
    other = ready((Noise() - Prompt()) - share * (GaussianScore(0.4, 0.9) - Prompt()), prior)
    assert close(over_signs(fisher(x) * other(x)), (1 - share) * over_signs(fisher(x) ** 2), 1e-6)


def _alternate(
    prior: GaussianPrior, asd: ASD, level: int, rates: tuple[float, float], steps: int, start: float
) -> tuple[list[float], list[float]]:
    """The generator's a and phi's offset while both step by SGD on one draw of each iteration, a single image."""
    phi = asd.second.field.adapter
    a = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizers = [torch.optim.SGD([a], lr=rates[0]), torch.optim.SGD(phi.parameters(), lr=rates[1])]
    path, offsets = [a.item()], [phi.offset[level].item()]
    for _ in range(steps):
        eps = torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
        x0 = a.expand(2, 1, 1, 1)
        x = prior.draw(x0, torch.full((2,), level), eps)
        pull = inject(x0, weight("sigma2", x.alpha, x.sigma) * asd(x))
        for optimizer, loss in zip(optimizers, (pull, asd.loss(x)), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        path.append(a.item())
        offsets.append(phi.offset[level].item())
    return path, offsets


@pytest.mark.parametrize("gamma", [0.0, -0.5, -0.75, -1.0, 1.0])
def test_23_the_linearised_dynamics(prior: GaussianPrior, gamma: float) -> None:
    """da = lr_g w (b + (lambda - 1) k dmu), db = -2 lr_d [(1 + gamma) b + k (a - mu_y)], a step at a time.

    Its eigenvalues are those of an oscillator with omega^2 = 2 lr_g lr_d w k and damping
    zeta = (1 + gamma) (lr_d / (2 lr_g w k))^.5.
    """
    level, scale, lr_g, lr_d, steps = 5, 3.0, 0.4, 0.05, 60
    asd = ready(ASD(scale, gamma, Affine(10), allow_unbounded=True), prior).double()
    asd.second.field.adapter.slope.requires_grad_(False)
    path, offsets = _alternate(prior, asd, level, (lr_g, lr_d), steps, 0.2)
    x = draw(prior, 0.0, 0.0, torch.tensor([level]))
    k, w = c(x)[0].item(), x.sigma[0].item() ** 2
    step = np.array([[0.0, lr_g * w], [-2 * lr_d * k, -2 * lr_d * (1 + gamma)]])
    push, here = np.array([lr_g * w * (scale - 1) * k * MU, 2 * lr_d * k * MU]), np.array([0.2, 0.0])
    for a, b in zip(path, offsets, strict=True):
        assert [a, b] == pytest.approx(here.tolist(), abs=1e-9)
        here = here + step @ here + push
    omega2, zeta = 2 * lr_g * lr_d * w * k, (1 + gamma) * math.sqrt(lr_d / (2 * lr_g * w * k))
    assert np.allclose(np.poly(np.linalg.eigvals(step)), [1, 2 * zeta * math.sqrt(omega2), omega2])


@pytest.mark.slow
def test_23_a_smaller_gamma_damps_less(prior: GaussianPrior) -> None:
    """By how much a overshoots its end, as a share of the way; at gamma = -1 it swings for ever."""
    overshoots = []
    for gamma in (0.0, -0.5, -0.75, -1.0):
        asd = ready(ASD(3.0, gamma, Affine(10), allow_unbounded=True), prior).double()
        asd.second.field.adapter.slope.requires_grad_(False)
        path, _ = _alternate(prior, asd, 5, (0.4, 0.05), 90, 0.2)
        end = 1 + (1 + gamma) * 2
        overshoots.append((max(path) - end) / abs(end - 0.2))
    assert overshoots == sorted(overshoots) and overshoots[0] < 0.5 and overshoots[-1] > 1


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.slow
def test_24_the_ergodic_law_at_gamma_minus_one(prior: GaussianPrior, scale: float) -> None:
    """phi integrates (e_y - eps)(1, x_t): on a path that stays bounded a has the mean mu_y and the deviation s."""
    asd = ready(ASD(scale, -1.0, Affine(10), allow_unbounded=True), prior).double()
    path, offsets = _alternate(prior, asd, 5, (0.05, 0.2), 1500, 0.2)
    times = torch.tensor(path[:-1], dtype=torch.float64)
    x = draw(prior, 0.0, 0.0, torch.tensor([5]))
    moved = (offsets[0] - offsets[-1]) / (2 * 0.2 * c(x)[0].item() * len(times))
    assert times.mean().item() == pytest.approx(MU + moved, abs=1e-9)
    assert times.abs().max() < 20
    assert times.mean().item() == pytest.approx(MU, abs=0.05)
    assert times.std().item() == pytest.approx(SPREAD, abs=0.05)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_25_cfg_commutes_with_the_conversion(kind: str) -> None:
    """A mix whose coefficients sum to 1 may be made of outputs or of noises; differences scale by alpha / D."""
    schedule, t = scaled_linear(prediction=kind).double(), torch.tensor([20, 500, 979])
    null, y, x_t = randn(3, 3, 3, 2, 2)
    one, two = (schedule.to_eps(output, x_t, t) for output in (null, y))
    assert close(schedule.to_eps(null + 7.5 * (y - null), x_t, t), one + 7.5 * (two - one), 1e-9)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    factor = {"epsilon": torch.ones_like(alpha), "v_prediction": alpha, "sample": -alpha / sigma}[kind]
    assert close(two - one, factor * (y - null), 1e-9)
