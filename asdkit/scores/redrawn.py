"""Score fields that ask others at another draw than they are given, at several noises, or now and then."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asdkit.core.bounds import AtLeast, Count, Positive, Share, Whole
from asdkit.core.parts import Part, require
from asdkit.core.unregistered import keep_unregistered
from asdkit.scores.cfg_options import PLAIN_CFG, CFGOptions
from asdkit.scores.fields import CFG, Expression, Factor, Field, Scale
from asdkit.scores.prior import Condition, Need, Noised, Prior

Interval = Annotated[float, AtLeast(0, below=1)]  # as a share of the schedule


class Redrawn(Expression):
    """A field evaluated at a draw made from the given one."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def needs(self, x: Noised) -> list[Need]:
        return []

    @abstractmethod
    def redraw(self, x: Noised) -> Noised:
        """The draw that the field is evaluated at."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.field(self.redraw(x))


class Known(Redrawn):
    """A field at a draw that is made without the network: it is asked there together with what is asked at x."""

    def needs(self, x: Noised) -> list[Need]:
        there = self.redraw(x)
        return [need if isinstance(need, tuple) else (there, need) for need in self.field.needs(there)]


class OnSource(Known):
    """Evaluates a field at the same t and eps on the source image. Its value is subtracted; it passes no gradient.

    Args:
        field: the field that is evaluated on the source image.
    """

    def redraw(self, x: Noised) -> Noised:
        return x.on_source()


class Later(Known):
    """Evaluates a field at a slightly later t+ with the same x0 and eps, for asynchronous distillation (ScaleDreamer).

    t+ = t + u * ratio * (t - t_min), where u ~ U[0,1].

    Args:
        field: the field that is evaluated at that draw.
        ratio: the largest shift as a share of t - t_min.
        t_min: the smallest t that the run draws, as a share of the schedule.
    """

    def __init__(self, field: Field, ratio: Positive = 0.1, t_min: Share = 0.02) -> None:
        super().__init__(field)
        self.ratio, self.t_min = ratio, t_min

    def redraw(self, x: Noised) -> Noised:
        def later() -> Noised:
            last = len(x.prior.schedule) - 1
            room = (x.t - self.t_min * last).clamp(min=0)
            return x.at((x.t + x.rand(len(x.t)) * self.ratio * room).round().long().clamp(max=last))

        return x.derived((type(self), self.ratio, self.t_min), later)


class Inverted(Redrawn):
    """Evaluates a field at an x_t that DDIM inversion reaches from x0; (x_t - alpha x0) / sigma is in the place of eps.

    Args:
        field: the field that is evaluated at that draw.
        scale: the CFG scale of the prediction that the inversion follows.
        steps: the number of network calls on the way from t = 0 to t.
        last: the length of the last step as a share of the schedule (ISM's delta); 0 for even steps. `Earlier`
            evaluates a field at the draw before that step.
    """

    def __init__(self, field: Field, scale: Factor = 1.0, steps: Count = 10, last: Interval = 0.0) -> None:
        super().__init__(field)
        self.steps, self.last = steps, last
        self.along = CFG(scale=scale, allow_negative=True)

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.field.take_words(prompt, source, cfg)
        self.along.take_words(prompt, source, PLAIN_CFG)  # what is followed is the plain prediction

    def redraw(self, x: Noised) -> Noised:
        return x.derived(self, lambda: self._invert(x))

    @torch.no_grad()
    def _invert(self, x: Noised) -> Noised:
        stop = (x.t - self.last * (len(x.prior.schedule) - 1)).clamp(min=0)
        times = [(stop * k / self.steps).round().long() for k in range(self.steps + 1)]
        times += [x.t] if self.last else []
        schedule = x.prior.schedule
        inverted = previous = x.like(x.x0, times[0], torch.zeros_like(x.x0))
        for t in times[1:]:
            eps = self.along(inverted)
            x_t = schedule.add_noise(inverted.to_x0(eps), t, eps)
            previous = inverted
            inverted = x.like(x.x0, t, (x_t - schedule.alpha(t) * x.x0) / schedule.sigma(t))
        inverted.derived(Earlier, lambda: previous)
        return inverted


class OtherPrior(Redrawn):
    """Asks another prior with the same x0, e.g. a fine-tune or a multi-view model, so that two guidances can be summed.

    It gets the same x0 and eps, and its own t of the same noise level. So the two may differ in schedule and in what
    their networks predict, but not in x0. A prior that is named twice is loaded once; checkpoints hold only its name.

    Args:
        field: an expression that the other prior answers, e.g. `SDS()`. Adapters in it are attached to that prior.
        prior: the other prior.

    Raises:
        ValueError: the two have different x0 (in `setup`).
    """

    prior: Prior

    def __init__(self, field: Field, prior: Prior) -> None:
        super().__init__(field)
        keep_unregistered(self, "prior", prior)

    def parts(self) -> list[Field]:
        return []  # nothing of it is the first prior's

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.field.take_words(prompt, source, cfg)

    def setup(self, prior: Prior) -> None:
        keep_unregistered(self, "prior", prior.beside(self.prior))
        self.prior.setup()
        _require_same_x0(prior, self.prior)
        self.field.setup(self.prior)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "OtherPrior":
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self.prior._apply(function, recurse)  # type: ignore[no-untyped-call]
        return self

    def redraw(self, x: Noised) -> Noised:
        def there() -> Noised:
            t = x.t if self.prior is x.prior else self.prior.schedule.nearest(x.alpha / x.sigma)
            return replace(x, prior=self.prior, t=t)

        return x.derived(self.prior, there)

    def loss(self, x: Noised) -> Float[Tensor, ""] | None:
        return self.field.loss(self.redraw(x))

    def observe(self, draws: Sequence[Noised]) -> None:
        self.field.observe([self.redraw(x) for x in draws])

    def forget(self, x: Noised) -> None:
        self.field.forget(self.redraw(x))

    def diagnostics(self, x: Noised, ask: bool = True) -> dict[str, float]:
        return self.field.diagnostics(self.redraw(x), ask)


@torch.no_grad()
def _require_same_x0(prior: Prior, other: Prior) -> None:
    """Two priors' predictions can be added only if a picture is the same x0 for both, but for what rounding does."""
    picture = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    first, second = (model.encode(picture.to(model.schedule.alphas.device)).cpu() for model in (prior, other))
    alike = first.shape == second.shape and bool((first - second).norm() < 0.25 * first.norm())
    fault = "The other prior makes another x0 of the same picture, so that their scores can't be added"
    advice = "name one with the same autoencoder and image_size, such as a fine-tune of the first"
    require(alike, f"{fault}; {advice}.")


class Earlier(Redrawn):
    """Evaluates a field at the draw before the inversion's last step; it only works inside `Inverted`.

    Args:
        field: the field that is evaluated at that draw.
    """

    def redraw(self, x: Noised) -> Noised:
        return x.derived(Earlier, _no_inversion)


def _no_inversion() -> Noised:
    raise ValueError("Earlier(field) only makes sense inside Inverted(...), which leads to a draw step by step.")


class Scorer(Part, ABC):
    """Gives pictures scores, e.g. by how well they fit the prompt."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "B 3 H W"], prompt: str) -> Float[Tensor, " B"]:
        """How well images in [0,1] fit a prompt, the larger the better."""


class Reweighted(Expression):
    """RewardSDS: draws several noises for each x0; a residual weighs more if a scorer likes what its noise denoises to.

    Args:
        field: the residual that is weighted.
        scorer: the part that scores the denoised pictures.
        draws: the number of noises for each x0, including the given one.
        temperature: the temperature of the softmax. A small one follows the best draw alone; a large one is the mean.
        scale: the CFG scale at which the pictures are denoised.
    """

    def __init__(
        self, field: Field, scorer: Scorer, draws: Count = 4, temperature: Positive = 0.1, scale: Scale = 7.5
    ) -> None:
        super().__init__()
        self.field, self.scorer, self.draws, self.temperature = field, scorer, draws, temperature
        self.judged = CFG(scale=scale)

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.field.take_words(prompt, source, cfg)
        self.judged.take_words(prompt, source, PLAIN_CFG)  # pictures are judged as the plain prediction shows them

    def needs(self, x: Noised) -> list[Need]:
        return []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        copies = x.derived(self, lambda: self._copies(x))
        copies.prefetch(self.field.needs(copies) + self.judged.needs(copies))
        residual = self.field(copies).reshape(self.draws, *x.eps.shape)
        with torch.no_grad():
            pictures = x.prior.decode(copies.to_x0(self.judged(copies)))
            wanted = Condition(str(self.judged.prompt.text))
            judged = copies.by_own(wanted, lambda own, rows: {"": self.scorer(pictures[rows], own.text)})
            scores = judged[""].reshape(self.draws, -1)
        weights = torch.softmax(scores / self.temperature, dim=0)
        return (weights[:, :, None, None, None].to(residual) * residual).sum(0)

    def _copies(self, x: Noised) -> Noised:
        """`draws` copies of the batch, the first with its own eps."""
        n = self.draws
        eps = torch.cat([x.eps, x.randn((n - 1) * len(x.t), *x.eps.shape[1:])])
        views = None if x.views is None else x.views[torch.arange(len(x.t), device=x.t.device).repeat(n)]
        source = None if x.source is None else x.source.repeat(n, 1, 1, 1)
        x0, prompts = x.x0.repeat(n, 1, 1, 1), {text: list(own) * n for text, own in x.prompts.items()}
        return replace(x, x0=x0, t=x.t.repeat(n), eps=eps, views=views, source=source, prompts=prompts, references=None)


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
