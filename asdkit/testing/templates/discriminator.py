"""A discriminator of one's own, and the guidance that it is part of."""

from torch import Tensor

from asdkit import CFG, Adapter, Discriminator, Field
from asdkit.core.parts import preset
from asdkit.scores.fields import Factor, Scale
from asdkit.scores.prior import Noised


class Template(Discriminator):
    """e_phi, which learns by the loss below: Eq. 10, until you write another."""

    def loss(self, x: Noised) -> Tensor:
        e_phi, e_y = self(x), x.predict(self.condition())
        errors = (e_phi - x.eps).square() + self.gamma_at(x) * (e_phi - e_y).square()
        return errors.flatten(1).sum(1).mean()


@preset
def TemplateASD(scale: Scale = 7.5, gamma: Factor = -0.5, adapter: Adapter | None = None) -> Field:
    """e_null + lambda (e_y - e_null) - e_phi.

    Args:
        scale: the CFG scale lambda.
        gamma: weight of the discriminator's penalty.
        adapter: where the discriminator's parameters phi live; a LoRA of rank 4 when left out.
    """
    return CFG(scale=scale) - Template(adapter, gamma, scale=scale)
