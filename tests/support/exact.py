"""A closed-form prior in double precision, draws of it, and its predictions written out by hand."""

from types import SimpleNamespace

import torch
from torch import Tensor

from asdkit import Field, GaussianPrior, Scorer
from asdkit.lab import Affine
from asdkit.scores.prior import Noised

B = 4
LEVELS = (20, 300, 700, 979)
MEANS = {"y": [1.0, -1.0, 0.5], "z": [0.25, 0.625, 0.0], "ugly": [-0.5, 0.75, 1.5]}
NULL_MEAN, SPREAD, NULL_SPREAD = -0.25, 0.5, 0.875


class Brightness(Scorer):
    """Likes bright pictures, and remembers of how many it was asked with each prompt."""

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}

    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        self.heard[prompt] = self.heard.get(prompt, 0) + len(images)
        return images.flatten(1).mean(1)


def exact_prior() -> GaussianPrior:
    return GaussianPrior(MEANS, NULL_MEAN, SPREAD, NULL_SPREAD).double()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(prior: GaussianPrior, seed: int = 0, step: int = 0, levels: tuple[int, ...] = LEVELS) -> Noised:
    """A draw of four samples with a source image and random numbers of its own."""
    x0, eps, source = randn(3, B, 3, 2, 2, seed=seed)
    random = torch.Generator().manual_seed(seed + 1)
    return prior.draw(x0, torch.tensor(levels), eps, step=step, source=source, random=random)


def ready(field: Field, prior: GaussianPrior) -> Field:
    """The field bound to prompt y and source z, in double precision."""
    field.bind("y", "z")
    field.setup(prior)
    return field.double()


def bent(seed: int = 3, steps: int = 1000) -> Affine:
    """An adapter that has left e_y."""
    adapter = Affine(steps, channels=3).double()
    with torch.no_grad():
        adapter.slope.copy_(0.1 * randn(*adapter.slope.shape, seed=seed))
        adapter.offset.copy_(0.1 * randn(*adapter.offset.shape, seed=seed + 1))
    return adapter


def state(x: Noised, x0: Tensor | None = None, t: Tensor | None = None, eps: Tensor | None = None) -> SimpleNamespace:
    """What a formula needs of a draw like x, with another x0, t or eps where they are given."""
    x0, t, eps = (x.x0 if x0 is None else x0), (x.t if t is None else t), (x.eps if eps is None else eps)
    alpha, sigma = (levels[t].reshape(-1, 1, 1, 1) for levels in (x.prior.schedule.alphas, x.prior.schedule.sigmas))
    return SimpleNamespace(x0=x0, t=t, eps=eps, alpha=alpha, sigma=sigma, x_t=alpha * x0 + sigma * eps)


def e(x: Noised | SimpleNamespace, text: str = "") -> Tensor:
    """E[eps | x_t] of a prompt, by the formula for Gaussians."""
    mean = torch.tensor(MEANS.get(text, [NULL_MEAN] * 3), dtype=torch.float64).reshape(1, 3, 1, 1)
    spread = SPREAD if text else NULL_SPREAD
    return x.sigma * (x.x_t - x.alpha * mean) / (x.alpha**2 * spread**2 + x.sigma**2)


def cfg(x: Noised | SimpleNamespace, scale: float, text: str = "y", negative: str = "") -> Tensor:
    return e(x, negative) + scale * (e(x, text) - e(x, negative))


def e_phi(x: Noised | SimpleNamespace, adapter: Affine, text: str = "y") -> Tensor:
    return e(x, text) + adapter.slope[x.t] * x.x_t + adapter.offset[x.t]


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(value, expected, rtol=tolerance, atol=tolerance)
