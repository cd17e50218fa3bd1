"""Score fields that look at another draw than the one they are given: the source, later, inverted, several at once."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asdkit.core.parts import Part
from asdkit.scores.conditions import Condition
from asdkit.scores.fields import CFG, Field
from asdkit.scores.prior import Noised


class Elsewhere(Field):
    """A field evaluated at a draw made from the given one.

    Args:
        field: what is evaluated there.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def parts(self) -> list[Field]:
        return [self.field]

    def asks(self, x: Noised) -> list[Condition]:
        return []

    @abstractmethod
    def there(self, x: Noised) -> Noised:
        """The other draw."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.field(self.there(x))


class OnSource(Elsewhere):
    """A field at the same t and eps on the source image: a vector field that is subtracted, not differentiated.

    Args:
        field: what is evaluated there.
    """

    def there(self, x: Noised) -> Noised:
        return x.on_source()


class Later(Elsewhere):
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
        return x.kin((type(self), self.ratio, self.t_min), lambda: x.at(self._later(x)))

    def _later(self, x: Noised) -> Int[Tensor, " B"]:
        last = len(x.prior.schedule) - 1
        room = (x.t - self.t_min * last).clamp(min=0)
        return (x.t + x.rand(len(x.t)) * self.ratio * room).round().long().clamp(max=last)


class Inverted(Elsewhere):
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

    def parts(self) -> list[Field]:
        return [self.field, self.along]

    def there(self, x: Noised) -> Noised:
        return x.kin(self, lambda: self._invert(x))

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
        here.kin(Earlier, lambda: before)
        return here


class Earlier(Elsewhere):
    """A field at the draw before the last step of the inversion that led here; only inside `Inverted`."""

    def there(self, x: Noised) -> Noised:
        return x.kin(Earlier, _no_inversion)


def _no_inversion() -> Noised:
    raise ValueError("Earlier(field) only makes sense inside Inverted(...), which leads to a draw step by step.")


class Stages(Field):
    """One field until an iteration, another from it on.

    Args:
        first: the field before `at`.
        second: the field from `at` on.
        at: the iteration of the change.
    """

    def __init__(self, first: Field, second: Field, at: int) -> None:
        super().__init__()
        self.first, self.second, self.at = first, second, at

    def parts(self) -> list[Field]:
        return [self.first, self.second]

    def now(self, x: Noised) -> Field:
        """The field of x's iteration."""
        return self.first if x.step < self.at else self.second

    def asks(self, x: Noised) -> list[Condition]:
        return self.now(x).asks(x)

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.now(x)(x)


class Above(Field):
    """A field where t is at least `t_from`, zero below; asked only if some sample is above.

    Args:
        field: what is evaluated.
        t_from: as a share of the schedule.
    """

    def __init__(self, field: Field, t_from: float) -> None:
        super().__init__()
        self.field, self.t_from = field, t_from

    def parts(self) -> list[Field]:
        return [self.field]

    def _above(self, x: Noised, t: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        return t >= self.t_from * len(x.prior.schedule)

    def _asked(self, x: Noised) -> bool:
        return x.prior.sharded or bool(self._above(x, x.drawn_t).any())

    def asks(self, x: Noised) -> list[Condition]:
        return self.field.asks(x) if self._asked(x) else []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        if not self._asked(x):
            return torch.zeros_like(x.eps)
        return torch.where(self._above(x, x.t)[:, None, None, None], self.field(x), 0.0)


class Scorer(Part, ABC):
    """What judges pictures."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "B 3 H W"], prompt: str) -> Float[Tensor, " B"]:
        """How well images in [0,1] fit a prompt, the larger the better."""


class Reweighted(Field):
    """RewardSDS: several noises for each x0, their residuals weighted by how a scorer likes what each denoises to.

    Args:
        field: the residual.
        scorer: what judges the denoised pictures.
        draws: noises for each x0, the given one among them, at least 1.
        temperature: of the softmax; small follows the best draw alone, large is the plain mean.
        scale: the CFG scale of the denoised pictures.

    Raises:
        ValueError: fewer than one draw, or a temperature that is not positive.
    """

    def __init__(
        self, field: Field, scorer: Scorer, draws: int = 4, temperature: float = 0.1, scale: float = 7.5
    ) -> None:
        super().__init__()
        if draws < 1 or temperature <= 0:
            raise ValueError(f"Reweighted needs draws >= 1 and temperature > 0; got {draws} and {temperature}.")
        self.field, self.scorer, self.draws, self.temperature = field, scorer, draws, temperature
        self.judged = CFG(scale=scale)

    def parts(self) -> list[Field]:
        return [self.field, self.judged]

    def asks(self, x: Noised) -> list[Condition]:
        return []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        many = x.kin(self, lambda: self._many(x))
        many.prefetch(self.field.asks(many) + self.judged.asks(many))
        residual = self.field(many).unflatten(0, (self.draws, -1))
        with torch.no_grad():
            pictures = x.prior.decode(many.to_x0(self.judged(many)))
            scores = self.scorer(pictures, str(self.judged.prompt.text)).unflatten(0, (self.draws, -1))
        weights = torch.softmax(scores / self.temperature, dim=0)
        return (weights[:, :, None, None, None].to(residual) * residual).sum(0)

    def _many(self, x: Noised) -> Noised:
        """`draws` copies of the batch, the first with its own eps."""
        n = self.draws
        eps = torch.cat([x.eps, x.randn((n - 1) * len(x.t), *x.eps.shape[1:])])
        views = None if x.views is None else x.views[torch.arange(len(x.t)).repeat(n)]
        source = None if x.source is None else x.source.repeat(n, 1, 1, 1)
        return Noised(x.prior, x.x0.repeat(n, 1, 1, 1), x.t.repeat(n), eps, views, x.step, source, x.random)
