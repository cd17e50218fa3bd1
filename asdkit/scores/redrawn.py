"""Score fields that look at another draw than the one they are given: the source, later, inverted, several at once."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asdkit.scores.conditions import Condition
from asdkit.scores.fields import CFG, Field
from asdkit.scores.perp_neg import PerpNeg
from asdkit.scores.prior import Noised


class Redrawn(Field):
    """A field evaluated at a draw made from the given one.

    Args:
        field: what is evaluated there.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def parts(self) -> list[Field]:
        return [self.field]

    def needs(self, x: Noised) -> list[Condition]:
        return []

    @abstractmethod
    def there(self, x: Noised) -> Noised:
        """The other draw."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.field(self.there(x))


class OnSource(Redrawn):
    """A field at the same t and eps on the source image: a vector field that is subtracted, not differentiated.

    Args:
        field: what is evaluated there.
    """

    def there(self, x: Noised) -> Noised:
        return x.on_source()


class Later(Redrawn):
    """A field at t+ = t + u * ratio * (t - t_min), u ~ U[0,1], with the same x0 and eps (asynchronous score
    distillation, ScaleDreamer).

    Args:
        field: what is evaluated there.
        ratio: the largest shift as a share of t - t_min, > 0.
        t_min: the smallest t that is drawn, as a share of the schedule.

    Raises:
        ValueError: a ratio that is not positive.
    """

    def __init__(self, field: Field, ratio: float = 0.1, t_min: float = 0.02) -> None:
        super().__init__(field)
        if ratio <= 0:
            raise ValueError(f"Later's ratio must be positive; got {ratio}.")
        self.ratio, self.t_min = ratio, t_min

    def there(self, x: Noised) -> Noised:
        return x.derived((type(self), self.ratio, self.t_min), lambda: x.at(self._later(x)))

    def _later(self, x: Noised) -> Int[Tensor, " B"]:
        last = len(x.prior.schedule) - 1
        room = (x.t - self.t_min * last).clamp(min=0)
        return (x.t + x.rand(len(x.t)) * self.ratio * room).round().long().clamp(max=last)


class Inverted(Redrawn):
    """A field at x_t reached from x0 by DDIM inversion, whose implied noise (x_t - alpha x0) / sigma stands for eps.

    Args:
        field: what is evaluated there.
        scale: the CFG scale of the prediction that is followed.
        steps: network calls on the way from t = 0 to t, at least 1.
        last: length of the last step as a share of the schedule (ISM's delta); 0 for even steps. `Earlier` looks at
            the draw before that step.

    Raises:
        ValueError: fewer than one step, or `last` outside [0, 1).
    """

    def __init__(self, field: Field, scale: float = 1.0, steps: int = 10, last: float = 0.0) -> None:
        super().__init__(field)
        if steps < 1 or not 0 <= last < 1:
            raise ValueError(f"Inverted needs steps >= 1 and last within [0, 1); got {steps} and {last}.")
        self.steps, self.last = steps, last
        self.along = CFG(scale=scale, allow_negative=True)

    def bind(self, prompt: str, source: str | None = None, perp_neg: PerpNeg | None = None) -> None:
        self.field.bind(prompt, source, perp_neg)
        self.along.bind(prompt, source)  # what is followed is the plain prediction

    def parts(self) -> list[Field]:
        return [self.field, self.along]

    def there(self, x: Noised) -> Noised:
        return x.derived(self, lambda: self._invert(x))

    @torch.no_grad()
    def _invert(self, x: Noised) -> Noised:
        stop = (x.t - self.last * (len(x.prior.schedule) - 1)).clamp(min=0)
        times = [(stop * k / self.steps).round().long() for k in range(self.steps + 1)]
        times += [x.t] if self.last else []
        here = x.like(x.x0, times[0], torch.zeros_like(x.x0))
        before = here
        for t in times[1:]:
            eps = self.along(here)
            schedule, x0 = x.prior.schedule, here.to_x0(eps)
            x_t = schedule.add_noise(x0, t, eps)
            before = here
            here = x.like(x.x0, t, (x_t - schedule.alpha(t) * x.x0) / schedule.sigma(t))
        here.derived(Earlier, lambda: before)
        return here


class Earlier(Redrawn):
    """A field at the draw before the last step of the inversion that led here; only inside `Inverted`."""

    def there(self, x: Noised) -> Noised:
        return x.derived(Earlier, _no_inversion)


def _no_inversion() -> Noised:
    raise ValueError("Earlier(field) only makes sense inside Inverted(...), which leads to a draw step by step.")
