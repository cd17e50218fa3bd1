"""Whole training steps of `Distillation` against Eq. 7, Eq. 10, Adam and AdamW written out in plain torch."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.quiet import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from asdkit import ASD, SDS, DiscriminatorSteps, Distillation, Field, Ramp, Timesteps
from asdkit.core.randomness import generator_for
from asdkit.generators.base import Generator, Render
from asdkit.lab import Affine, GaussianPrior
from asdkit.rendering.cameras import Batch, Views, ring
from asdkit.rendering.settings import Rendering
from asdkit.scores.equations import Weighting

MEAN, NULL_MEAN, SPREAD, NULL_SPREAD = [1.0, -0.5, 0.3], 0.2, 0.5, 0.8
SCALE, GAMMA, LR, DISCRIMINATOR_LR, SEED = 3.0, -0.6, (0.05, 0.02), 0.1, 5
ATOL = 1e-6


class Blob(Generator):
    """A colour, and a contrast that the camera sees more of from the side."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.contrast = nn.Parameter(torch.tensor([0.5, 1.5]))
        self.calls: list[str] = []

    def render(self, views: Views, background: Tensor | None = None) -> Render:
        self.background = background
        self.calls.append("render")
        return Render(_image(self.colour, self.contrast, views), *torch.zeros(2, len(views), 1, 2, 2))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"name": "colour", "params": [self.colour], "lr": LR[0]},
            {"name": "contrast", "params": [self.contrast], "lr": LR[1]},
        ]

    def regularizer(self) -> Tensor:
        return _regularizer(self.contrast)

    def before_step(self) -> None:
        self.calls.append("before")
        self.gradients = [self.colour.grad.clone(), self.contrast.grad.clone()]

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, generator: torch.Generator) -> None:
        self.calls.append(f"after {step}")
        self.density_seed = generator.initial_seed()


def _image(colour: Tensor, contrast: Tensor, views: Views) -> Tensor:
    pattern = torch.tensor([[0.0, 1.0], [0.5, -1.0]])
    wave = (contrast[0] * views.azimuth.cos() + contrast[1] * views.azimuth.sin() ** 2)[:, None, None, None]
    return torch.sigmoid(colour[None, :, None, None] + wave * pattern)


def _regularizer(contrast: Tensor) -> Tensor:
    return 0.3 * contrast.square().sum()


def _phi(seed: int = 0) -> Affine:
    adapter, random = Affine(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        adapter.slope.copy_(0.2 * torch.randn(adapter.slope.shape, generator=random))
        adapter.offset.copy_(0.2 * torch.randn(adapter.offset.shape, generator=random))
    return adapter


def _views(step: int) -> Views:
    return ring(3, size=2, offset_deg=25.0 * step + 10)


def _train(
    iterations: int,
    guidance: Field | None = None,
    weighting: Weighting = "sigma2",
    rendering: Rendering = Rendering(),
    **discriminator: Any,
) -> tuple[Distillation, pl.Trainer]:
    how = {"weighting": weighting, "rendering": rendering, "seed": SEED, "timesteps": Timesteps(0.1, Ramp(0.9, 0.6, 2))}
    how["discriminator"] = DiscriminatorSteps(lr=DISCRIMINATOR_LR, **discriminator)
    prior = GaussianPrior({"y": MEAN}, NULL_MEAN, SPREAD, NULL_SPREAD)
    model = Distillation("y", prior, Blob(), guidance or ASD(SCALE, GAMMA, _phi()), **how)
    trainer = quiet_trainer(iterations, log_every_n_steps=1)
    trainer.fit(model, DataLoader([Batch(_views(step)) for step in range(iterations)], batch_size=None))
    return model, trainer


class ByHand:
    """The same run without asdkit's fields, equations, discriminator or Lightning."""

    def __init__(self, weighting: str, share_noise: bool, discriminator_steps: int, clip: float = 0.0) -> None:
        self.weighting, self.share_noise = weighting, share_noise
        self.discriminator_steps, self.clip = discriminator_steps, clip
        blob, phi = Blob(), _phi()
        self.theta = [blob.colour.detach().clone(), blob.contrast.detach().clone()]
        self.phi = [phi.slope.detach().clone(), phi.offset.detach().clone()]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        cumprod = (1 - betas).cumprod(0)
        self.alphas, self.sigmas = cumprod.sqrt(), (1 - cumprod).sqrt()
        self.moments = [torch.zeros_like(p) for p in self.theta + self.phi]
        self.squares = [torch.zeros_like(p) for p in self.theta + self.phi]
        self.counts = [0] * 4

    def draw(self, step: int, purpose: str) -> tuple[Tensor, Tensor]:
        random = generator_for(SEED, step, purpose, 0)
        upper = 0.9 - 0.3 * min(1.0, step / 2)
        share = torch.rand(3, generator=random)
        share = (torch.randperm(3, generator=random) + share) / 3
        t = (0.1 * 999 + share * (upper - 0.1) * 999).round().long()
        return t, torch.randn(3, 3, 2, 2, generator=random)

    def fields(self, x0: Tensor, t: Tensor, eps: Tensor, phi: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = (levels[t][:, None, None, None] for levels in (self.alphas, self.sigmas))
        x_t = alpha * x0 + sigma * eps
        mean = torch.tensor(MEAN).reshape(1, 3, 1, 1)
        e_null = sigma * (x_t - alpha * NULL_MEAN) / (alpha**2 * NULL_SPREAD**2 + sigma**2)
        e_y = sigma * (x_t - alpha * mean) / (alpha**2 * SPREAD**2 + sigma**2)
        return e_null, e_y, e_y + phi[0][t] * x_t + phi[1][t]

    def adam(self, index: int, p: Tensor, g: Tensor, lr: float, betas: tuple, eps: float, decay: float) -> Tensor:
        self.counts[index] += 1
        k, (b1, b2) = self.counts[index], betas
        self.moments[index] = b1 * self.moments[index] + (1 - b1) * g
        self.squares[index] = b2 * self.squares[index] + (1 - b2) * g * g
        p = p * (1 - lr * decay)
        return p - lr * (self.moments[index] / (1 - b1**k)) / ((self.squares[index] / (1 - b2**k)).sqrt() + eps)

    def after(self, steps: int) -> "ByHand":
        for step in range(steps):
            self.step(step)
        return self

    def step(self, step: int) -> None:
        theta = [p.clone().requires_grad_() for p in self.theta]
        x0 = _image(*theta, _views(step))
        t, eps = self.draw(step, "noise")
        frozen = x0.detach()
        e_null, e_y, e_phi = self.fields(frozen, t, eps, self.phi)
        alpha, sigma = (levels[t][:, None, None, None] for levels in (self.alphas, self.sigmas))
        w = {"sigma2": sigma**2, "sigma_over_alpha": sigma / alpha, "uniform": 1.0}[self.weighting]
        self.residual = w * (e_null + SCALE * (e_y - e_null) - e_phi)
        pulled = torch.autograd.grad(x0, theta, grad_outputs=self.residual / 3, retain_graph=True)
        (held,) = torch.autograd.grad(_regularizer(theta[1]), theta[1])
        self.theta_gradients = [pulled[0], pulled[1] + held]
        for i in range(2):
            self.theta[i] = self.adam(i, self.theta[i], self.theta_gradients[i], LR[i], (0.9, 0.999), 1e-15, 0.0)
        for k in range(self.discriminator_steps):
            if not self.share_noise:
                t, eps = self.draw(step, f"critic noise {k}")
            phi = [p.clone().requires_grad_() for p in self.phi]
            _, e_y, e_phi = self.fields(frozen, t, eps, phi)
            loss = 0.0
            for row in range(3):
                fake, text = (e_phi[row] - eps[row]) ** 2, (e_y[row] - e_phi[row]) ** 2
                loss = loss + (fake.sum() + GAMMA * text.sum()) / 3
            self.loss, self.phi_gradients = loss, list(torch.autograd.grad(loss, phi))
            if self.clip:
                norm = torch.cat([g.flatten() for g in self.phi_gradients]).norm()
                self.phi_gradients = [g * min(1.0, self.clip / (norm.item() + 1e-6)) for g in self.phi_gradients]
            for i, g in enumerate(self.phi_gradients):
                self.phi[i] = self.adam(2 + i, self.phi[i], g, DISCRIMINATOR_LR, (0.9, 0.99), 1e-8, 0.01)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("discriminator_steps", [1, 2])
@pytest.mark.parametrize("share_noise", [True, False])
@pytest.mark.parametrize("weighting", ["sigma2", "sigma_over_alpha"])
def test_steps_are_the_equations(weighting: str, share_noise: bool, discriminator_steps: int, steps: int) -> None:
    model, trainer = _train(steps, weighting=weighting, share_noise=share_noise, steps=discriminator_steps)
    hand = ByHand(weighting, share_noise, discriminator_steps).after(steps)
    _compare(model, hand)
    assert trainer.global_step == steps
    assert model.generator.calls == [c for step in range(steps) for c in ("render", "before", f"after {step}")]
    assert model.generator.density_seed == generator_for(SEED, steps - 1, "density").initial_seed()


@pytest.mark.parametrize("discriminator_steps", [1, 2])
@pytest.mark.parametrize("share_noise", [True, False])
def test_views_in_parts_and_rendered_twice_are_the_same_step(share_noise: bool, discriminator_steps: int) -> None:
    in_parts = Rendering(chunk=1, rerender=True)
    model, _ = _train(2, rendering=in_parts, share_noise=share_noise, steps=discriminator_steps)
    hand = ByHand("sigma2", share_noise, discriminator_steps).after(2)
    _compare(model, hand)
    once = ["render"] * 6 + ["before", "after 0"]  # three parts, each rendered again for its gradient
    assert model.generator.calls[:8] == once


def test_a_prompt_is_asked_for_and_parts_are_equal_and_know_their_rows() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        Distillation("  ", GaussianPrior({"y": MEAN}), Blob(), SDS())
    with pytest.raises(ValueError, match="chunk must divide the number of views per step, 3; got 2"):
        _train(1, rendering=Rendering(chunk=2))
    views, source = _views(0), torch.rand(3, 3, 2, 2)
    for i, part in enumerate(Batch(views, source).split(1)):
        assert torch.equal(part.views.c2w, views.c2w[i : i + 1]) and torch.equal(part.source, source[i : i + 1])
        assert part.rows == (i, i + 1, 3)
    assert [len(part.views) for part in Batch(views, source[:1]).split(1)] == [1, 1, 1]
    assert all(part.source is not None and len(part.source) == 1 for part in Batch(views, source[:1]).split(1))
    assert len(Batch(None, source).split(1)) == len(Batch(views).split(0)) == len(Batch(views).split(3)) == 1


def test_further_draws_of_parts_differ() -> None:
    model, _ = _train(1)
    batch = Batch(_views(0))
    x0 = torch.zeros(1, 3, 2, 2)
    whole = model.draws.draw(x0.expand(3, -1, -1, -1), batch, 5, "noise")
    parts = [model.draws.draw(x0, part, 5, "noise") for part in batch.split(1)]
    assert torch.equal(torch.cat([x.eps for x in parts]), whole.eps)
    assert torch.equal(torch.cat([x.t for x in parts]), whole.t)
    assert len({float(x.rand(1)) for x in parts}) == 3


def test_a_source_is_the_steps_own_with_cameras_and_encoded_once_without() -> None:
    model, _ = _train(1)
    x0, calls, encode = torch.zeros(3, 3, 2, 2), [], model.prior.encode
    model.prior.encode = lambda images: (calls.append(1), encode(images))[1]
    sources = torch.rand(2, 3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for step, source in enumerate(sources):
        assert torch.equal(model.draws.draw(x0, Batch(_views(step), source), step, "noise").source, encode(source))
    model.draws._encoded_source = None
    calls.clear()
    for step in range(2):
        found = model.draws.draw(x0, Batch(None, sources[0, :1]), step, "noise").source
        assert torch.equal(found, encode(sources[0, :1]).expand_as(x0))
    assert len(calls) == 1


def test_the_discriminators_gradient_is_clipped_and_only_that() -> None:
    hand = ByHand("uniform", True, 1, clip=0.05).after(2)
    model, _ = _train(2, weighting="uniform", clip=0.05)
    _compare(model, hand)
    assert torch.cat([g.flatten() for g in hand.phi_gradients]).norm().item() == pytest.approx(0.05, rel=1e-3)


def test_the_discriminator_learns_every_so_many_iterations_from_the_first_on() -> None:
    model, _ = _train(3, every=2)
    hand = ByHand("sigma2", True, 1)
    for step in range(3):
        hand.discriminator_steps = int(step in (0, 2))
        hand.step(step)
    _compare(model, hand)


def _compare(model: Distillation, hand: ByHand) -> None:
    """Gradients of the last step, which Adam's scale-free steps would hide, and parameters."""
    adapter = model.guidance.second.field.adapter
    learned = [model.generator.colour, model.generator.contrast, adapter.slope, adapter.offset]
    for found, expected in zip(model.generator.gradients, hand.theta_gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=ATOL)
    for found, expected in zip([adapter.slope.grad, adapter.offset.grad], hand.phi_gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    for found, expected in zip(learned, hand.theta + hand.phi, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=ATOL)


def test_a_tiny_gradient_moves_the_generator_by_the_whole_rate() -> None:
    """Adam's epsilon is far below what many views of one small splat give."""
    model, _ = _train(1)
    colour, optimizer = model.generator.colour, model.configure_optimizers()[0]
    before, colour.grad = colour.detach().clone(), torch.full((3,), 1e-9)
    optimizer.step()
    assert torch.allclose(before - colour, torch.full((3,), LR[0]), rtol=1e-3)


def test_without_parameters_or_discriminator_steps_there_is_one_optimizer() -> None:
    model, trainer = _train(2, guidance=SDS(SCALE))
    assert len(trainer.optimizers) == 1 and trainer.global_step == 2
    hand = ByHand("sigma2", True, 0)
    plain = hand.fields
    hand.fields = lambda x0, t, eps, phi: (*plain(x0, t, eps, phi)[:2], eps)
    hand.after(2)
    for found, expected in zip([model.generator.colour, model.generator.contrast], hand.theta, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=ATOL)
    model, trainer = _train(2, steps=0)
    assert len(trainer.optimizers) == 1
    adapter, fresh = model.guidance.second.field.adapter, _phi()
    assert torch.equal(adapter.slope, fresh.slope) and adapter.slope.grad is None


def test_backgrounds() -> None:
    random = 0.5 + 0.5 * torch.rand(2, generator=generator_for(SEED, 0, "background", 0))[1].item()
    for settings, expected in (({}, 0.85), ({"random_background": 1.0}, random), ({"background": 0.2}, 0.2)):
        model, _ = _train(1, rendering=Rendering(**settings))
        assert torch.allclose(model.generator.background, torch.full((3,), expected))


@pytest.mark.parametrize(("chunk", "clip"), [(0, 0.0), (0, 0.01), (1, 0.0)])
def test_what_is_logged_of_a_step_is_the_hands(chunk: int, clip: float) -> None:
    """Of whole steps and of parts; the gradient of the discriminator is that before it is clipped."""
    _, trainer = _train(1, rendering=Rendering(chunk=chunk), clip=clip)
    hand = ByHand("sigma2", True, 1).after(1)
    expected = {"residual_norm": hand.residual.flatten(1).norm(dim=1).mean(), "discriminator_loss": hand.loss}
    for name, gradients in {"grad_norm": hand.theta_gradients, "discriminator_grad_norm": hand.phi_gradients}.items():
        expected[name] = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert {name: trainer.callback_metrics[name].item() for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


def test_saturation_and_spread_of_the_last_step_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """HSV's saturation of what was rendered, and the spread of x0."""
    monkeypatch.setattr(GaussianPrior, "encode", lambda self, images: 1 - images)
    _, trainer = _train(1)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    image = _image(Blob().colour, Blob().contrast, _views(0))
    top, bottom = image.max(1).values, image.min(1).values
    assert found["saturation"] == pytest.approx(((top - bottom) / top).mean().item(), rel=1e-5)
    assert found["x0_std"] == pytest.approx(image.flatten(1).std(1).mean().item(), rel=1e-5)
    assert found["lambda_eff"] == pytest.approx(1 + (1 + GAMMA) * (SCALE - 1))


def test_profilers_see_the_spans_of_a_step() -> None:
    with torch.profiler.profile() as profiler:
        _train(1, steps=2)
    calls = {event.key: event.count for event in profiler.key_averages() if event.key.startswith("asdkit.")}
    once = {f"asdkit.{name}": 1 for name in ("render", "encode", "prior", "encode_backward", "backward")}
    assert calls == once | {"asdkit.e_phi": 2, "asdkit.discriminator": 2, "asdkit.optimizer": 3}
