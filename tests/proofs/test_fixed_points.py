"""Where each method ends up when every score is exact, against closed forms.

The target is N(1, 0.5^2), the null condition N(0, 0.5^2); the generator is a + b z. All residuals are affine in
(z, eps), so four points (z, eps) = (+-1, +-1) at each t give exact expectations of means and of products.
"""

import pytest
import torch
from support.gaussian_world import MU, SPREAD, WEIGHTINGS, descend, draw, ready
from support.renders import prior_of_renders
from torch import Tensor

from asdkit import ASD, CFG, SDS, Field, FiniteSetPrior, GaussianPrior, GaussianScore, ParticleScore
from asdkit.lab import Affine, finite_set_eps, gaussian_eps
from asdkit.rendering.cameras import ring
from asdkit.scores.equations import effective_scale, weight
from asdkit.scores.prior import Noised
from asdkit.scores.schedules import scaled_linear


def _fit(field: Field, x: Noised, steps: int = 60) -> None:
    """Train phi to the optimum of the field's own loss."""
    optimizer = torch.optim.LBFGS(
        field.parameters(), max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        field.forget(x)
        loss = field.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    field.forget(x)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.slow
def test_sds_overshoots_linearly_and_seeks_the_mode(prior: GaussianPrior, weighting: str, scale: float) -> None:
    """a = mu_0 + lambda (mu_y - mu_0) for every w(t), and b falls to zero."""
    lr = {"sigma_over_alpha": 0.6}.get(weighting, 2.0)
    a, b = descend(prior, ready(SDS(scale), prior), weighting=weighting, steps=60, lr=lr)
    assert a == pytest.approx(scale * MU, abs=1e-6)
    assert abs(b) < 1e-6
    if weighting == "sigma2":
        other = GaussianPrior({"y": MU}, null_mean=-0.4, spread=SPREAD, steps=10).double()
        a, _ = descend(other, ready(SDS(scale), other), steps=60, lr=2.0)
        assert a == pytest.approx(-0.4 + scale * 1.4, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.slow
def test_vsd_keeps_the_spread(prior: GaussianPrior, scale: float) -> None:
    """With the exact fake score the fixed point is (mu_lambda, s)."""
    fake = GaussianScore()
    a, b = descend(prior, ready(CFG(scale=scale) - fake, prior), lambda a, b, x: fake.follow(a, b), steps=100, lr=2.0)
    assert a == pytest.approx(scale * MU, abs=1e-6)
    assert b == pytest.approx(SPREAD, abs=1e-6)


def test_vsd_of_one_image_is_sds(prior: GaussianPrior) -> None:
    """A generator that shows a single image has m = eps: fifty discriminator steps an iteration only over-smooth."""
    x = draw(prior, 0.7, 0.0)
    expected = ready(SDS(7.5), prior)(x)
    assert torch.allclose(ready(CFG(scale=7.5) - GaussianScore(0.7, 0.0), prior)(x), expected, atol=1e-12)
    for row in range(3):
        one = prior.draw(x.x0[4 * row : 4 * row + 1], x.t[4 * row : 4 * row + 1], x.eps[4 * row : 4 * row + 1])
        vsd = ready(CFG(scale=7.5) - ParticleScore(), prior)
        assert torch.allclose(vsd(one), expected[4 * row : 4 * row + 1], atol=1e-12)


@pytest.mark.parametrize("gamma", [-0.75, -0.5, 0.0, 0.5, 4.0])
def test_the_trained_discriminator_and_the_effective_scale(prior: GaussianPrior, gamma: float) -> None:
    """e_phi* = (m + gamma e_y) / (1 + gamma), so ASD is VSD at lambda_eff, scaled by 1 / (1 + gamma)."""
    a, b, scale = 0.4, 0.9, 7.5
    asd = ready(ASD(scale, gamma, Affine(10)), prior).double()
    x = draw(prior, a, b)
    _fit(asd, x)
    m = gaussian_eps(x.x_t, x.alpha, x.sigma, a, b)
    e_y = gaussian_eps(x.x_t, x.alpha, x.sigma, MU, SPREAD)
    assert torch.allclose(asd.second.field(x), (m + gamma * e_y) / (1 + gamma), atol=1e-6)
    vsd = ready(CFG(scale=effective_scale(scale, gamma)) - GaussianScore(a, b), prior)
    assert torch.allclose(asd(x), vsd(x) / (1 + gamma), atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "gamma", "expected"), [(7.5, -0.5, 4.25), (3.0, -0.75, 1.5), (3.0, 0.0, 3.0), (3.0, 1.0, 5.0)]
)
@pytest.mark.slow
def test_asd_ends_at_the_effective_scale(prior: GaussianPrior, scale: float, gamma: float, expected: float) -> None:
    asd = ready(ASD(scale, gamma, Affine(10)), prior).double()
    start, lr = (0.9 * expected, 0.4), 5 * (1 + gamma)
    a, b = descend(prior, asd, lambda a, b, x: _fit(asd, x, 15), steps=25, lr=lr, start=start)
    assert a == pytest.approx(expected * MU, abs=1e-3)
    assert b == pytest.approx(SPREAD, abs=1e-3)


@pytest.mark.slow
def test_asd_by_alternating_steps_ends_there_too(prior: GaussianPrior) -> None:
    """Without inner convergence: one discriminator step an iteration, on the generator step's own draw."""
    asd = ready(ASD(3.0, -0.5, Affine(10)), prior).double()
    optimizer = torch.optim.Adam(asd.parameters(), lr=0.1)

    def learn(a: Tensor, b: Tensor, x: Noised) -> None:
        optimizer.zero_grad()
        asd.loss(x).backward()
        optimizer.step()
        asd.forget(x)

    a, b = descend(prior, asd, learn, steps=300, lr=0.15)
    assert a == pytest.approx(2.0, abs=0.05)
    assert b == pytest.approx(SPREAD, abs=0.05)


def test_a_large_gamma_is_the_classifier_term(prior: GaussianPrior) -> None:
    asd = ready(ASD(7.5, 1e6, Affine(10)), prior).double()
    x = draw(prior, 0.4, 0.9)
    _fit(asd, x)
    csd = ready(6.5 * (CFG(scale=1.0) - CFG(scale=0.0)), prior)
    assert torch.allclose(asd(x), csd(x), atol=1e-4)


def test_noise_of_the_gradient_at_the_target(prior: GaussianPrior) -> None:
    """At the target SDS's residual still has variance 1 - sigma^2 / v; VSD's is zero."""
    x = draw(prior, MU, SPREAD)
    variance = ready(SDS(1.0), prior)(x).square().reshape(-1, 4).mean(1)
    v = (x.alpha * SPREAD) ** 2 + x.sigma**2
    assert torch.allclose(variance, (1 - x.sigma**2 / v).reshape(-1, 4)[:, 0], atol=1e-12)
    assert ready(CFG(scale=1.0) - GaussianScore(MU, SPREAD), prior)(x).abs().max() < 1e-12


def test_lab_scores_are_gradients_of_log_densities() -> None:
    """eps = -sigma grad log q_t, by autograd of the mixture's density."""
    schedule = scaled_linear()
    random = torch.Generator().manual_seed(0)
    points = torch.randn(5, 1, 2, 2, generator=random)
    t = torch.tensor([150, 600, 950])
    alpha, sigma = schedule.alpha(t).double(), schedule.sigma(t).double()
    x_t = torch.randn(3, 1, 2, 2, generator=random).double().requires_grad_()
    square = (x_t[:, None] - alpha[:, None] * points.double()).flatten(2).square().sum(2)
    density = torch.logsumexp(-square / (2 * sigma.flatten()[:, None] ** 2), dim=1).sum()
    (score,) = torch.autograd.grad(density, x_t)
    assert torch.allclose(finite_set_eps(x_t, alpha, sigma, points.double()), -sigma * score, atol=1e-6)
    gaussian = torch.distributions.Normal(alpha * 0.3, ((alpha * 0.7) ** 2 + sigma**2).sqrt())
    (score,) = torch.autograd.grad(gaussian.log_prob(x_t).sum(), x_t)
    assert torch.allclose(gaussian_eps(x_t, alpha, sigma, 0.3, 0.7), -sigma * score, atol=1e-12)


@pytest.mark.slow
def test_particles_cover_two_modes_where_sds_collapses() -> None:
    prior = FiniteSetPrior()
    modes = torch.tensor([-1.5, 1.5]).reshape(2, 1, 1, 1)
    prior.add("y", modes)
    ends = {}
    for name, field in (("sds", SDS(1.0)), ("vsd", CFG(scale=1.0) - ParticleScore())):
        field = ready(field, prior)
        random = torch.Generator().manual_seed(0)
        x0 = torch.linspace(-0.3, 0.3, 16).reshape(-1, 1, 1, 1)
        for step in range(300):
            t = torch.full((16,), 100 + (step * 37) % 800)
            x = prior.draw(x0, t, torch.randn(x0.shape, generator=random))
            x0 = x0 - 0.1 * weight("sigma2", x.alpha, x.sigma) * field(x)
        ends[name] = x0.flatten()
    assert (ends["vsd"] > 0.5).sum() >= 4 and (ends["vsd"] < -0.5).sum() >= 4
    assert ends["sds"].std() < ends["vsd"].std()


def test_a_finite_set_knows_its_cameras() -> None:
    """A view-dependent prompt means the renders of the nearest camera; the null condition all renders."""
    prior = prior_of_renders(["a red cube", "a blue ball"], views=8, size=16)
    prior.setup()
    prior.setup()
    assert prior.texts() == ["a red cube", "a blue ball"] and len(prior.points) == 16
    views = ring(4, size=16)
    x = prior.draw(torch.rand(4, 3, 16, 16), torch.full((4,), 300), torch.randn(4, 3, 16, 16))
    x.views = views
    for text, first in (("a red cube", 0), ("a blue ball", 8)):
        x0 = x.to_x0(ready(CFG(text, 1.0), prior)(x))
        assert torch.allclose(x0, prior.points[first : first + 8 : 2].double(), atol=1e-4)
    noisy = prior.draw(x.x0, torch.full((4,), 999), x.eps)
    mean = noisy.to_x0(ready(CFG("a red cube", 1.0), prior)(noisy))
    assert (mean - prior.points[:8].mean(0)).abs().mean() < 0.1
    digest = prior.digest
    prior.add("dot", torch.zeros(2, 3, 16, 16))
    assert prior.digest != digest
    assert torch.allclose(x.to_x0(ready(CFG("dot", 1.0), prior)(x)), torch.zeros(4, 3, 16, 16).double(), atol=1e-4)
    with pytest.raises(ValueError, match="no thing of the toybox"):
        prior_of_renders(["a purple idea"])


def test_lab_priors_are_part_of_the_contract() -> None:
    prior = GaussianPrior({"y": 1.0})
    assert len(prior.schedule) == 1000
    assert torch.allclose(prior.schedule.alphas, scaled_linear().alphas)
    thin = GaussianPrior({"y": 1.0}, steps=10).schedule
    assert torch.allclose(thin.alphas, scaled_linear().alphas[99::100])
    images = torch.rand(1, 3, 4, 4)
    assert prior.encode(images) is images and prior.decode(images + 9).max() == 1
    assert prior.digest != GaussianPrior({"y": 1.1}).digest and len(prior.digest) == 12
    with pytest.raises(ValueError, match="divide 1000; got 7"):
        GaussianPrior({"y": 1.0}, steps=7)
    adapter = Affine(10)
    adapter.setup(prior)
    adapter.setup(prior)
    assert len(prior.network._forward_hooks) == 1
