"""GANs on a diffusion model: losses against torch's, a head's gradient by finite differences, weights by quadrature."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.exact import bent, cfg, close, draw, e, e_phi, exact_prior, randn, ready
from support.tiny import loaded
from support.tiny_families import make
from torch import Tensor, nn
from torch.nn import functional

import asdkit
from asdkit.discriminators.gan import Divergence
from asdkit.discriminators.real_samples import SourceImage
from asdkit.scores.prior import Noised

LOGITS = torch.tensor([-30.0, -1.0, -0.3, 0.0, 0.7, 1.0, 30.0], dtype=torch.float64)
LOSSES = [asdkit.NonSaturating, asdkit.Hinge, asdkit.LeastSquares]


def test_losses_are_torchs_own() -> None:
    one, zero = torch.ones_like(LOGITS), torch.zeros_like(LOGITS)
    entropy, squares, hinge = (
        lambda d, to: functional.binary_cross_entropy_with_logits(d, to, reduction="none"),
        lambda d, to: functional.mse_loss(d, to, reduction="none") / 2,
        lambda d, to: functional.hinge_embedding_loss(d * (2 * to - 1), -one, reduction="none"),
    )
    for loss, torchs in zip(LOSSES, (entropy, hinge, squares), strict=True):
        assert torch.allclose(loss().real(LOGITS), torchs(LOGITS, one), atol=1e-12)
        assert torch.allclose(loss().fake(LOGITS), torchs(LOGITS, zero), atol=1e-12)
    assert torch.equal(asdkit.Hinge().generator(LOGITS), -LOGITS)
    for loss, torchs in ((asdkit.NonSaturating, entropy), (asdkit.LeastSquares, squares)):
        assert torch.allclose(loss().generator(LOGITS), torchs(LOGITS, one), atol=1e-12)


def headed(loss: asdkit.GANLoss | None = None) -> tuple[asdkit.Field, asdkit.GANHead, asdkit.GaussianPrior]:
    """DMD2 on the lab prior, its head, and the prior; phi has left e_y."""
    prior = exact_prior()
    field = ready(asdkit.DMD2(loss=loss, adapter=bent(), real_samples=SourceImage(), gan_weight=0.5), prior)
    return field, next(part for part in field.modules() if isinstance(part, asdkit.GANHead)), prior


def by_hand(head: asdkit.GANHead, eps: Tensor) -> Tensor:
    """The head's mean over the places of features [B, C, h, w], written out."""
    first, second = (layer for layer in head.head if isinstance(layer, nn.Linear))
    logits = []
    for sample in eps:
        places = sample.flatten(1).T
        normal = (places - places.mean(1, keepdim=True)) / (places.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        hidden = normal @ first.weight.T + first.bias
        logits.append((hidden * hidden.sigmoid() @ second.weight.T + second.bias).mean())
    return torch.stack(logits)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_heads_value_is_its_generators_gradient_and_its_loss_is_the_gans(loss: type[asdkit.GANLoss]) -> None:
    """The former by central differences of each value of x0."""
    field, head, prior = headed(loss())
    x, gan = draw(prior), loss()
    value = head(x)
    assert not [p for p in field.parameters() if p.grad is not None]

    def minimised(x0: Tensor) -> Tensor:
        moved = prior.draw(x0, x.t, x.eps)
        return gan.generator(by_hand(head, e_phi(moved, bent())))

    for place in ((0, 0, 0), (2, 1, 1)):
        step = torch.zeros_like(x.x0)
        step[:, place[0], place[1], place[2]] = 1e-5
        slope = (minimised(x.x0 + step) - minimised(x.x0 - step)) / 2e-5
        assert torch.allclose(value[:, place[0], place[1], place[2]], slope.detach(), rtol=1e-5, atol=1e-9)
    real = prior.draw(x.source, x.t, x.eps)
    expected = gan.fake(by_hand(head, e_phi(x, bent()))) + gan.real(by_hand(head, e_phi(real, bent())))
    assert torch.allclose(head.loss(x), expected.mean(), atol=1e-12)
    assert close(field(x), cfg(x, 7.5) - e_phi(x, bent()) + 0.5 * value)
    phi = next(leaf for leaf in field.leaves() if isinstance(leaf, asdkit.Discriminator))
    assert torch.allclose(field.loss(x), phi.loss(x) + expected.mean(), atol=1e-10)
    head.loss(x).backward()
    assert all(p.grad is not None for p in head.parameters()) and phi.adapter.offset.grad.any()


def opinion(x: Noised) -> Tensor:
    return ((e_phi(x, bent()) - x.eps) ** 2 - (e(x, "y") - x.eps) ** 2).flatten(1).mean(1)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_gan_on_the_discriminators_own_opinion(loss: type[asdkit.GANLoss]) -> None:
    prior, gan = exact_prior(), loss()
    field = ready(asdkit.GAN(2.0, gan, bent(), SourceImage(), sharpness=3.0), prior)
    x = draw(prior)
    real = prior.draw(x.source, x.t, x.eps)
    expected = (gan.fake(3 * opinion(x)) + gan.real(3 * opinion(real))).mean()
    assert torch.allclose(field.loss(x), expected, atol=1e-12)
    assert field.diagnostics(x)["gap"] == pytest.approx(opinion(x).mean().item())


def test_the_bounded_weight_of_jsd_and_the_limit_of_log_r() -> None:
    prior = exact_prior()
    x = draw(prior)
    weight = 2 / (1 + torch.exp(-4 * opinion(x)))
    value = ready(asdkit.JSD(3.0, 4.0, bent()), prior)(x)
    assert close(value, weight[:, None, None, None] * (cfg(x, 3.0) - e_phi(x, bent())))
    assert weight.max() < 2 and weight.std() > 0

    class Sure(asdkit.Noise):
        def log_ratio(self, x: Noised) -> Tensor:
            return torch.full((len(x.t),), 100.0)

    field = ready(asdkit.FDivergence(asdkit.Noise(), Sure(), "forward_kl", sharpness=2.0, limit=3.0), prior)
    assert torch.allclose(field(x), torch.tensor(3.0).double().exp() * x.eps)


MEASURES: dict[Divergence, tuple[Callable[[Tensor], Tensor], float]] = {  # f of p/q, and f''(1)
    "reverse_kl": (lambda r: -r.log(), 1.0),
    "forward_kl": (lambda r: r * r.log(), 1.0),
    "jensen_shannon": (lambda r: (r * r.log() - (r + 1) * ((r + 1) / 2).log()) / 2, 0.25),
    "hellinger": (lambda r: 2 * (1 - r.sqrt()), 0.5),
}


@pytest.mark.parametrize("divergence", MEASURES)
def test_a_weighted_residual_descends_its_divergence(divergence: Divergence) -> None:
    """d/da E_q[f(p/q)], q = N(alpha a, v), by quadrature is f''(1) alpha / sigma E_q[h(r) (e_real - e_fake)]."""
    prior = asdkit.GaussianPrior({"y": 1.0}, spread=0.5, steps=10).double()
    level, a, spread, span = torch.tensor([6]), 0.4, 0.6, torch.linspace(-9, 9, 20001, dtype=torch.float64)
    alpha, sigma = prior.schedule.alpha(level).item(), prior.schedule.sigma(level).item()

    def density(mean: float, spread: float) -> Tensor:
        variance = (alpha * spread) ** 2 + sigma**2
        return torch.exp(-((span - alpha * mean) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5

    f, curvature = MEASURES[divergence]
    p, q = density(1.0, 0.5), density(a, spread)
    up, down = (torch.trapezoid(d * f(p / d), span) for d in (density(a + 1e-4, spread), density(a - 1e-4, spread)))

    class Exact(asdkit.Noise):
        def log_ratio(self, x: Noised) -> Tensor:
            return (p / q).log()

    residual = asdkit.Prompt("y") - asdkit.GaussianScore(a, spread)
    field = ready(asdkit.FDivergence(residual, Exact(), divergence, limit=1e6), prior)
    x0 = torch.zeros_like(span)[:, None, None, None]
    x = prior.draw(x0, level.expand(len(span)), span[:, None, None, None] / sigma)
    mean = torch.trapezoid(q * field(x).flatten(), span)
    assert (curvature * alpha / sigma * mean).item() == pytest.approx(((up - down) / 2e-4).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["unet", "copy", "flux"])
def test_a_head_sees_the_middle_of_phis_network(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Of the copy's, where phi is one; of a transformer's tokens of the image. Its gradient by a finite difference."""
    prior = loaded(make("flux", tmp_path)[0] if kind == "flux" else tiny_folder)
    adapter = asdkit.UNetCopy(camera=False) if kind == "copy" else asdkit.LoRA(2, camera=False)
    field = asdkit.DMD2(adapter=adapter, real_samples=asdkit.PriorSamples(2, steps=1))
    field.bind("a red cube")
    field.setup(prior)
    head = next(part for part in field.modules() if isinstance(part, asdkit.GANHead))
    assert head.head[0].in_features == (32 if kind == "flux" else 16)
    prior.double(), field.double()
    x0, eps, direction = randn(3, 1, prior.channels, 8, 8)
    t = torch.tensor([300])

    def loss(shift: float) -> float:
        with torch.no_grad():
            return functional.softplus(-head.logits(prior.draw(x0 + shift * direction, t, eps))).item()

    along = (head(prior.draw(x0, t, eps)) * direction).sum().item()
    assert along == pytest.approx((loss(1e-4) - loss(-1e-4)) / 2e-4, rel=1e-4) and abs(along) > 1e-9
    field.loss(prior.draw(x0, t, eps)).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_a_heads_weights_arrive_before_or_after_setup_and_start_the_same() -> None:
    _, head, _ = headed()
    torch.manual_seed(5)
    _, again, _ = headed()
    assert all(torch.equal(one, two) for one, two in zip(head.parameters(), again.parameters(), strict=True))
    state = {name: value + 1 for name, value in head.state_dict().items()}
    early = asdkit.DMD2(adapter=bent())
    fresh = next(part for part in early.modules() if isinstance(part, asdkit.GANHead))
    fresh.load_state_dict(state)
    ready(early, exact_prior())
    assert all(torch.allclose(fresh.state_dict()[name], value, atol=1e-6) for name, value in state.items())
