"""What the two networks of a GAN minimise, as functions of the discriminator's logits."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from asdkit.core.parts import Part

Logits = Float[Tensor, " B"]


class GANLoss(Part, ABC):
    """The loss of a kind of GAN: three functions of the logits D, which are large where a sample looks real."""

    @abstractmethod
    def real(self, logits: Logits) -> Logits:
        """What the discriminator minimises at real samples."""

    @abstractmethod
    def fake(self, logits: Logits) -> Logits:
        """What the discriminator minimises at the generator's."""

    @abstractmethod
    def generator(self, logits: Logits) -> Logits:
        """What the generator minimises."""


class NonSaturating(GANLoss):
    """The loss of the first GAN (1406.2661): cross entropy; the generator minimises -log sigmoid(D). D's optimum is log
    r.
    """

    def real(self, logits: Logits) -> Logits:
        return softplus(-logits)

    def fake(self, logits: Logits) -> Logits:
        return softplus(logits)

    generator = real


class Hinge(GANLoss):
    """The hinge loss (1705.02894): relu(1 - D) at real and relu(1 + D) at fake samples; the generator minimises -D."""

    def real(self, logits: Logits) -> Logits:
        return relu(1 - logits)

    def fake(self, logits: Logits) -> Logits:
        return relu(1 + logits)

    def generator(self, logits: Logits) -> Logits:
        return -logits


class LeastSquares(GANLoss):
    """Squared errors (1611.04076): (D - 1)^2 / 2 at real, D^2 / 2 at fake samples; the generator minimises (D - 1)^2 /
    2.
    """

    def real(self, logits: Logits) -> Logits:
        return (logits - 1).square() / 2

    def fake(self, logits: Logits) -> Logits:
        return logits.square() / 2

    generator = real
