"""The numbers that Gaussians are optimised with: how they start, how fast they learn, and what is held against them."""

from typing import Annotated

from asdkit.core.bounds import Between, LearningRate, NonNegative, Positive, Whole, settings
from asdkit.core.ramps import Ramp, value_at
from asdkit.formats.splats import Splats


@settings
class Initial:
    """The Gaussians' initial size, opacity and seed. Files and other runs may bring values of their own.

    Args:
        radius: the radius of the ball or half the side of the box in world units. Points and meshes are fitted into it.
        opacity: the opacity of each Gaussian.
        seed: the seed of the initial positions and colours.
        fit: whether Gaussians of files and runs are fitted into the ball, too; the outermost tenth may stick out.
    """

    radius: Positive = 0.5
    opacity: Annotated[float, Between(0, 1)] = 0.1
    seed: int = 0
    fit: bool = False


@settings
class GaussianRates:
    """Adam's learning rates of Gaussians. All of them may move with the iterations.

    Args:
        means: the rate of positions in world units.
        colours: the rate of the coefficients of spherical harmonics.
        opacities: the rate of the logits of opacity.
        scales: the rate of the logarithms of scales.
        rotations: the rate of quaternions.
        factor: a factor of all these rates, e.g. a ramp to 0.1 that settles the noise which distillation leaves.
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
        return {name: value_at(self.factor, step) * value_at(rate, step) for name, rate in rates.items()}


@settings
class Rounds:
    """When density control grows and prunes Gaussians.

    Args:
        every: the number of iterations between two rounds; 0 for never.
        first: the earliest iteration that may have a round.
        last: the latest iteration that may have a round.
    """

    every: Whole = 100
    first: Whole = 200
    last: Whole = 2000


@settings
class GaussianPenalties:
    """The weights of terms that are added to the loss of Gaussians.

    Args:
        opacity: the weight of the mean opacity. In long runs MCMC needs some, so that Gaussians become free to move.
        scale: the weight of the mean standard deviation in world units; raise it where Gaussians swell.
    """

    opacity: NonNegative = 0.0
    scale: NonNegative = 0.0
