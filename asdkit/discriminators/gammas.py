"""Gammas that move with the draw: the paper's limitations ask for a dynamic gamma, its released code has one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.bounds import Count, MoreThan, Positive, Weight
from asdkit.core.parts import Part, require
from asdkit.core.ramps import Ramp, value_at
from asdkit.scores.equations import faded_gamma
from asdkit.scores.fields import CFG, ddim
from asdkit.scores.prior import Condition, Noised, Prior

BoundedGamma = Annotated[float, MoreThan(-1, at_most=1e6)]


class Gamma(Part, nn.Module, ABC):
    """A gamma that depends on the draw: each sample has its own weight of Eq. 10's penalty."""

    if TYPE_CHECKING:  # torch's own says Any

        def __call__(self, x: Noised, scale: float) -> Tensor: ...

    def setup(self, prior: Prior, condition: Condition) -> None:
        """Called once, before the first step."""

    def observe(self, draws: Sequence[Noised]) -> None:
        """Called once after each of the discriminator's steps, with a draw for each part of its views."""

    @abstractmethod
    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        """gamma at a draw of the generator, above -1; `scale` is the CFG scale lambda of the expression."""


class Alpha2(Gamma):
    """Fades gamma out with noise, as the paper's released 3D code does in terms of Eq. 10 (`faded_gamma`).

    It acts like VSD where there is much noise, and has the full gamma where there is little.

    Args:
        gamma: the value at alpha_t = 1, where there is no noise; the released code has -0.75.
    """

    def __init__(self, gamma: BoundedGamma = -0.75) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        return faded_gamma(self.gamma, x.alpha)


class TargetScale(Gamma):
    """Chooses gamma so that ASD acts like VSD at a CFG scale of your choice, lambda_eff = 1 + (1 + gamma)(lambda - 1).

    Args:
        target: the scale lambda_eff, above 1. It may move with the iterations, e.g. from 7.5 to 2.

    Raises:
        ValueError: lambda = 1, where every gamma gives lambda_eff = 1 (at the first step).
    """

    def __init__(self, target: Annotated[float | Ramp, MoreThan(1, at_most=1e6)] = 4.25) -> None:
        super().__init__()
        self.target = target

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        require(scale > 1, f"TargetScale needs a CFG scale above 1; got {scale}.")
        return torch.full_like(x.alpha, (value_at(self.target, x.step) - 1) / (scale - 1) - 1)


class SpreadControl(Gamma):
    """Controls gamma by feedback, so that the generator's x0 spread as widely as the prior's own samples.

    gamma falls while the spread of x0 is larger than theirs, and rises while it is smaller. The spread is the standard
    deviation of x0 over a sample. Too large a lambda_eff drives it up, which exaggerates contrast and colours. log(1 +
    gamma) integrates the logarithm of the ratio of the target to the spread.

    Args:
        start: gamma at step 0, from `lowest` to `highest`.
        target: the spread to hold; 0 measures it on samples of the prior, which are drawn before the first step.
        rate: the rate of the integration per discriminator step; a larger one reacts faster.
        lowest: gamma's lower limit.
        highest: gamma's upper limit.
        samples: the number of samples of the prior that are measured.
        size: the height and width of these samples in latents.
        steps: the number of DDIM steps that draw these samples.
    """

    log1p: Float[Tensor, ""]
    target: Float[Tensor, ""]

    def __init__(
        self,
        start: BoundedGamma = -0.5,
        target: Weight = 0.0,
        rate: Positive = 0.02,
        lowest: BoundedGamma = -0.9,
        highest: BoundedGamma = 3.0,
        samples: Count = 16,
        size: Count = 16,
        steps: Count = 25,
    ) -> None:
        super().__init__()
        given = f"{lowest}, {start} and {highest}"
        require(lowest <= start <= highest, f"SpreadControl needs lowest <= start <= highest; got {given}.")
        self.rate, self.samples, self.size, self.steps = rate, samples, size, steps
        self.limits = math.log1p(lowest), math.log1p(highest)
        self.register_buffer("log1p", torch.tensor(math.log1p(start)))
        self.register_buffer("target", torch.tensor(float(target)))

    def setup(self, prior: Prior, condition: Condition) -> None:
        if self.target == 0:
            shape = (self.samples, prior.channels or 3, self.size, self.size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(prior.schedule.alphas.device)
            self.target.fill_(_spread(ddim(prior, CFG(condition.text, 1.0), noise, self.steps)))

    def observe(self, draws: Sequence[Noised]) -> None:
        error = (self.target / _spread(torch.cat([x.x0 for x in draws]))).log()
        self.log1p.add_(self.rate * error).clamp_(*self.limits)

    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        return self.log1p.expm1().to(x.alpha).expand_as(x.alpha)


def _spread(x0: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    """Mean over the batch of the standard deviation of a sample; of all ranks alike."""
    spread = x0.flatten(1).std(1).mean()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(spread)
        spread /= torch.distributed.get_world_size()
    return spread
