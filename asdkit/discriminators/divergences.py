"""Residuals weighted by an f-divergence: which of the generator's samples count more than others."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Positive
from asdkit.core.unregistered import keep_unregistered
from asdkit.discriminators.discriminator import Discriminator
from asdkit.discriminators.gan import GANHead
from asdkit.scores.fields import Field
from asdkit.scores.prior import Noised

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "hellinger"]

_WEIGHTS: dict[Divergence, Callable[[Tensor], Tensor]] = {  # h of log r
    "reverse_kl": torch.ones_like,
    "forward_kl": torch.exp,
    "jensen_shannon": lambda log_ratio: 2 * torch.sigmoid(log_ratio),
    "hellinger": lambda log_ratio: torch.exp(log_ratio / 2),
}


class FDivergence(Field):
    """Descends another divergence than reverse KL: h(r) times the residual e_real - e_fake (f-distill, 2502.15681).

    For a divergence E_q[f(p/q)] of the fake density q from the real density p, h(r) = r^2 f''(r), divided here by its
    value at r = 1. It is 1 for reverse KL (VSD and DMD), r for forward KL, 2r / (1 + r) for Jensen-Shannon and sqrt(r)
    for Hellinger. Jensen-Shannon's h stays below 2.

    Args:
        field: the residual that is weighted.
        judge: the part that estimates log r: a GANHead, or a Discriminator by its own opinion. It learns where it
            stands elsewhere in the expression.
        divergence: the divergence that is descended.
        sharpness: a factor of log r; above 1 the weights differ more.
        limit: the largest |log r| after that factor; it keeps weights from exploding.
    """

    _judge: Discriminator | GANHead

    def __init__(
        self,
        field: Field,
        judge: Discriminator | GANHead,
        divergence: Divergence = "jensen_shannon",
        sharpness: Positive = 1.0,
        limit: Positive = 5.0,
    ) -> None:
        super().__init__()
        self.field, self.divergence, self.sharpness, self.limit = field, divergence, sharpness, limit
        keep_unregistered(self, "_judge", judge)

    def parts(self) -> list[Field]:
        return [self.field]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        value = self.field(x)
        log_ratio = (self.sharpness * self._judge.log_ratio(x)).clamp(-self.limit, self.limit)
        return _WEIGHTS[self.divergence](log_ratio)[:, None, None, None] * value
