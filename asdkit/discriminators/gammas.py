"""Gammas that move with the draw: the paper's limitations ask for a dynamic gamma, its released code has one."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.ramps import Ramp, ends, value_at
from asdkit.discriminators.base import Gamma
from asdkit.scores.conditions import Condition
from asdkit.scores.ddim import ddim
from asdkit.scores.fields import CFG
from asdkit.scores.prior import Noised, Prior


class Alpha2(Gamma):
    """The gamma of the paper's released 3D code, whose regression target is eps + alpha_t^2 k (e_y - eps), k = gamma /
    (1 + gamma): VSD where there is much noise, the full gamma where there is little.

    Args:
        gamma: the value at alpha_t = 1, above -1; the code's own is -0.75.

    Raises:
        ValueError: gamma <= -1.
    """

    def __init__(self, gamma: float = -0.75) -> None:
        super().__init__()
        if gamma <= -1:
            raise ValueError(f"Alpha2's gamma must be above -1; got {gamma}.")
        self.gamma = gamma

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        k = x.alpha.square() * self.gamma / (1 + self.gamma)
        return k / (1 - k)


class TargetScale(Gamma):
    """gamma by what it does: ASD shall act like VSD at this CFG scale, lambda_eff = 1 + (1 + gamma)(lambda - 1).

    Args:
        target: lambda_eff, above 1, which may move with the iterations, e.g. from 7.5 to 2.

    Raises:
        ValueError: a target of 1 or less, or lambda = 1, where every gamma gives lambda_eff = 1.
    """

    def __init__(self, target: float | Ramp = 4.25) -> None:
        super().__init__()
        if min(ends(target)) <= 1:
            raise ValueError(f"TargetScale's target must be above 1; got {min(ends(target))}.")
        self.target = target

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        if scale <= 1:
            raise ValueError(f"TargetScale needs a CFG scale above 1; got {scale}.")
        gamma = (value_at(self.target, x.step) - 1) / (scale - 1) - 1
        return torch.full_like(x.alpha, gamma)


class SaturationControl(Gamma):
    """gamma by feedback: it falls while the samples are more saturated than the prior's own, and rises while less.

    Over-saturation is what too large a lambda_eff makes. It is measured as the standard deviation of x0 over a sample;
    log(1 + gamma) integrates the logarithm of the ratio of the target to it.

    Args:
        start: gamma at step 0, above -1.
        target: standard deviation of x0 to hold; 0 to measure it on samples of the prior, drawn before the first step.
        rate: of the integration, per discriminator step, > 0.
        lowest: gamma's lower limit, above -1.
        highest: gamma's upper limit, at least `lowest`.
        samples: how many samples of the prior are drawn.
        size: latent height and width of these samples.
        steps: DDIM steps of these samples.

    Raises:
        ValueError: numbers out of range.
    """

    log1p: Float[Tensor, ""]
    held: Float[Tensor, ""]

    def __init__(
        self,
        start: float = -0.5,
        target: float = 0.0,
        rate: float = 0.02,
        lowest: float = -0.9,
        highest: float = 3.0,
        samples: int = 16,
        size: int = 16,
        steps: int = 25,
    ) -> None:
        super().__init__()
        if not (-1 < lowest <= start <= highest) or target < 0 or rate <= 0 or min(samples, size, steps) < 1:
            raise ValueError(
                "SaturationControl needs -1 < lowest <= start <= highest, target >= 0, rate > 0, and samples, size and "
                f"steps of 1 or more; got {lowest}, {start}, {highest}, {target}, {rate}, {samples}, {size}, {steps}."
            )
        self.rate, self.samples, self.size, self.steps = rate, samples, size, steps
        self.limits = math.log1p(lowest), math.log1p(highest)
        self.register_buffer("log1p", torch.tensor(math.log1p(start)))
        self.register_buffer("held", torch.tensor(float(target)))

    def setup(self, prior: Prior, condition: Condition) -> None:
        if self.held == 0:
            shape = (self.samples, prior.channels or 3, self.size, self.size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(prior.schedule.alphas.device)
            x0 = ddim(prior, CFG(condition.text, 1.0), noise, self.steps)
            self.held.fill_(_saturation(x0))

    def observe(self, x: Noised) -> None:
        error = (self.held / _saturation(x.x0)).log()
        self.log1p.add_(self.rate * error).clamp_(*self.limits)

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        return self.log1p.expm1().to(x.alpha).expand_as(x.alpha)


def _saturation(x0: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    """Mean over the batch of the standard deviation of a sample; of all ranks alike."""
    spread = x0.flatten(1).std(1).mean()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(spread)
        spread /= torch.distributed.get_world_size()
    return spread
