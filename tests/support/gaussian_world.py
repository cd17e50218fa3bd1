"""A one-dimensional world of Gaussians whose expectations are sums over (z, eps) = (+-1, +-1), and descent in it."""

import torch
from torch import Tensor

from asdkit import Field, Prior
from asdkit.scores.equations import inject, weight
from asdkit.scores.prior import Noised

LEVELS = torch.tensor([2, 5, 8])
MU, SPREAD = 1.0, 0.5
WEIGHTINGS = ("uniform", "sigma2", "sigma_over_alpha", "alpha_over_sigma")


def draw(prior: Prior, a: Tensor | float, b: Tensor | float, levels: Tensor = LEVELS) -> Noised:
    z, eps = _signs(len(levels))
    return prior.draw(torch.as_tensor(a + b * z), levels.repeat_interleave(4), eps)


def ready(field: Field, prior: Prior) -> Field:
    field.bind("y")
    field.setup(prior)
    return field


def descend(prior: Prior, field: Field, before=None, weighting="sigma2", steps=300, lr=1.0, start=(0.2, 0.3)):
    """Gradient descent of (a, b) along the field; `before(a, b, x)` is called ahead of each step."""
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in start)
    optimizer = torch.optim.SGD([a, b], lr=lr)
    for _ in range(steps):
        z, eps = _signs(len(LEVELS))
        x0 = a + b * z
        x = prior.draw(x0, LEVELS.repeat_interleave(4), eps)
        if before is not None:
            before(a, b, x)
        with torch.no_grad():
            residual = weight(weighting, x.alpha, x.sigma) * field(x)
        optimizer.zero_grad()
        inject(x0, residual).backward()
        optimizer.step()
    return a.item(), b.item()


def _signs(count: int) -> tuple[Tensor, Tensor]:
    z = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(count).reshape(-1, 1, 1, 1)
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).repeat(count).reshape(-1, 1, 1, 1)
    return z, eps
