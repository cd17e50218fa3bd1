"""Score fields that act at some iterations or noise levels alone."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asdkit.core.bounds import Share, Whole
from asdkit.scores.fields import Expression, Field
from asdkit.scores.prior import Need, Noised


class Stages(Expression):
    """Takes one field before an iteration, and another from it on.

    Args:
        first: the field before `at`.
        second: the field from `at` on.
        at: the iteration of the change.
    """

    def __init__(self, first: Field, second: Field, at: Whole) -> None:
        super().__init__()
        self.first, self.second, self.at = first, second, at

    def now(self, x: Noised) -> Field:
        """The field of x's iteration."""
        return self.first if x.step < self.at else self.second

    def needs(self, x: Noised) -> list[Need]:
        return self.now(x).needs(x)

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.now(x)(x)


class Above(Expression):
    """Takes a field where t is at least `t_from`, and zero below. It is evaluated only if some sample needs it.

    Args:
        field: the field that is evaluated.
        t_from: the smallest t at which it counts, as a share of the schedule.
    """

    def __init__(self, field: Field, t_from: Share) -> None:
        super().__init__()
        self.field, self.t_from = field, t_from

    def _above(self, x: Noised, t: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        return t >= self.t_from * len(x.prior.schedule)

    def _is_needed(self, x: Noised) -> bool:
        return x.prior.sharded or bool(self._above(x, x.drawn_t).any())

    def needs(self, x: Noised) -> list[Need]:
        return self.field.needs(x) if self._is_needed(x) else []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        if not self._is_needed(x):
            return torch.zeros_like(x.eps)
        return torch.where(self._above(x, x.t)[:, None, None, None], self.field(x), 0.0)
