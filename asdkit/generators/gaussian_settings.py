"""The numbers that Gaussians are optimised with: how they start, how fast they learn, and what is held against them."""

from dataclasses import dataclass
from typing import Annotated

from asdkit.core.bounds import Between, LearningRate, NonNegative, Positive, Whole, checked
from asdkit.core.ramps import Ramp, value_at
from asdkit.formats.splats import Splats


@checked
@dataclass(frozen=True)
class Initial:
    """What Gaussians start with, where files or other runs don't say it.

    Args:
        radius: of the ball, or half the side of the box, in world units; what points and meshes are fitted into.
        opacity: of each Gaussian.
        seed: of the initial positions and colours.
        fit: fit Gaussians of files and runs into the ball too, but for the outermost tenth.
    """

    radius: Positive = 0.5
    opacity: Annotated[float, Between(0, 1)] = 0.1
    seed: int = 0
    fit: bool = False


@checked
@dataclass(frozen=True)
class GaussianRates:
    """Adam's learning rates of Gaussians; all may move with the iterations.

    Args:
        means: of positions in world units.
        colours: of the coefficients of spherical harmonics.
        opacities: of logits.
        scales: of logarithms.
        rotations: of quaternions.
        factor: of all these rates, e.g. a ramp to 0.1 to settle the noise that distillation leaves.
    """

    means: LearningRate | Ramp = 0.001
    colours: LearningRate | Ramp = 0.01
    opacities: LearningRate | Ramp = 0.05
    scales: LearningRate | Ramp = 0.005
    rotations: LearningRate | Ramp = 0.005
    factor: Positive | Ramp = 1.0

    def at(self, step: int) -> dict[str, float]:
        """The rate of each parameter at a step."""
        rates = Splats(self.means, self.rotations, self.scales, self.opacities, self.colours)._asdict()
        factor = value_at(self.factor, step)
        return {name: factor * value_at(rate, step) for name, rate in rates.items()}


@checked
@dataclass(frozen=True)
class Rounds:
    """When Gaussians grow and are pruned.

    Args:
        every: iterations between two rounds; 0 for never.
        first: the earliest iteration that may have a round.
        last: the latest iteration that may have a round.
    """

    every: Whole = 100
    first: Whole = 200
    last: Whole = 2000


@checked
@dataclass(frozen=True)
class GaussianPenalties:
    """Weights of terms that are added to the loss.

    Args:
        opacity: of the mean opacity; in long runs MCMC needs some, for Gaussians to be freed.
        scale: of the mean standard deviation in world units, against Gaussians that swell.
    """

    opacity: NonNegative = 0.0
    scale: NonNegative = 0.0
