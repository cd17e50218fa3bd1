"""Score fields: maps from a noisy draw to an eps-space tensor. They add, subtract and scale.

A method's residual is one expression: SDS is `CFG(scale=100) - Noise()`. The gradient is E[w(t) residual], Eq. 7.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.bounds import Weight, Within
from asdkit.core.parts import Part, preset, require
from asdkit.core.ramps import Ramp, bounds, value_at
from asdkit.rendering.cameras import Views
from asdkit.scores.cfg_options import PLAIN_CFG, CFGOptions, PerpNeg, perpendicular
from asdkit.scores.prior import Condition, Need, Noised, Own, Prior, Words
from asdkit.scores.schedules import Latent

Scale = Weight | Ramp  # the CFG scale lambda
Factor = Annotated[float, Within(-1e6, 1e6)] | Ramp  # what a field is multiplied by


class Field(Part, nn.Module, ABC):
    """A score field: it maps a noisy draw to a tensor of the shape of the draw's eps."""

    if TYPE_CHECKING:  # torch's own says Any

        def __call__(self, x: Noised) -> Tensor: ...

    @abstractmethod
    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        """The field's value at x."""

    def parts(self) -> "list[Field]":
        """The fields this one is made of; none for a leaf."""
        return []

    def leaves(self) -> "list[Field]":
        """Every field of the expression that is not itself an expression, once each."""
        parts = self.parts()
        return list(dict.fromkeys(leaf for part in parts for leaf in part.leaves())) if parts else [self]

    def _other_leaves(self) -> "list[Field]":
        return [leaf for leaf in self.leaves() if leaf is not self]

    def bind(self, prompt: str, source: str | None = None, cfg: CFGOptions = PLAIN_CFG) -> None:
        """Give the run's words to every field that has no text of its own, and `cfg` to each CFG of these words.

        It is a ValueError if words for the source are needed and missing, or no CFG can honour `cfg`.
        """
        self.take_words(prompt, source, cfg)
        honoured = any(isinstance(part, CFG) and part.options is cfg for part in self.modules())
        require(honoured or cfg == PLAIN_CFG, "model.cfg is for the CFG of a prompt, which this guidance doesn't have.")

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        """`bind` for one field: what it makes of the run's words."""
        for part in self.parts():
            part.take_words(prompt, source, cfg)

    def setup(self, prior: Prior) -> None:
        """Attach to the prior whatever has parameters, and embed the prompts. Called once, before optimisers exist."""
        prior.prepare(self.conditions())
        for leaf in self._other_leaves():
            leaf.setup(prior)

    def conditions(self) -> list[Condition]:
        """Every condition that the frozen prior may have to predict for, at x or at a draw made from it."""
        return [condition for part in self.parts() for condition in part.conditions()]

    def needs(self, x: Noised) -> list[Need]:
        """What the frozen prior must predict for at x itself, or at draws that are known by now: one network call."""
        return [need for part in self.parts() for need in part.needs(x)]

    def loss(self, x: Noised) -> Float[Tensor, ""] | None:
        """What the learning fields of the expression minimise; None if nothing learns."""
        losses = [loss for leaf in self._other_leaves() if (loss := leaf.loss(x)) is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def observe(self, draws: Sequence[Noised]) -> None:
        """What a step of the discriminator learned on, a part of its views each; called once after the step."""
        for leaf in self._other_leaves():
            leaf.observe(draws)

    def forget(self, x: Noised) -> None:
        """Drop what x remembers of fields that have learned since."""
        for leaf in self._other_leaves():
            leaf.forget(x)

    def diagnostics(self, x: Noised, ask: bool = True) -> dict[str, float]:
        """Numbers worth logging about the fields that learn; their names end in _1, _2 where there are several fields.

        Unless `ask`, the network is not called for what is not known at x, and numbers that need it are left out.
        """
        of_leaves = [facts for leaf in self._other_leaves() if (facts := leaf.diagnostics(x, ask))]
        if len(of_leaves) < 2:
            return of_leaves[0] if of_leaves else {}
        return {f"{name}_{i}": value for i, facts in enumerate(of_leaves, 1) for name, value in facts.items()}

    def __add__(self, other: "Field") -> "Field":
        return Sum(self, other)

    def __sub__(self, other: "Field") -> "Field":
        return Sum(self, Scaled(other, -1.0))

    def __mul__(self, scale: float | Ramp) -> "Field":
        return Scaled(self, scale)

    __rmul__ = __mul__

    def __neg__(self) -> "Field":
        return Scaled(self, -1.0)


class Expression(Field):
    """A field that is made of the fields that are its submodules, in their order."""

    def parts(self) -> list[Field]:
        return [child for child in self.children() if isinstance(child, Field)]


class Sum(Expression):
    """The sum of two fields, written first + second in Python. Both predict their conditions in one network call.

    Args:
        first: a field, or a method.
        second: another field or method.
    """

    def __init__(self, first: Field, second: Field) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        x.prefetch(self.needs(x))
        return self.first(x) + self.second(x)


class Scaled(Expression):
    """A field times a number, written scale * field in Python.

    Args:
        field: a field, or a method.
        scale: the number, which may move with the iterations.
    """

    def __init__(self, field: Field, scale: Factor) -> None:
        super().__init__()
        self.field, self.scale = field, scale

    def needs(self, x: Noised) -> list[Need]:
        return self.field.needs(x) if value_at(self.scale, x.step) else []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        scale = value_at(self.scale, x.step)
        return scale * self.field(x) if scale else torch.zeros_like(x.eps)


class Noise(Field):
    """The noise eps that was drawn; SDS takes it for the fake score."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.eps


class Prompt(Field):
    """The prior's prediction for a prompt, e_y.

    Args:
        text: the prompt; the run's own when None.
        view_dependent: whether to add the view's words (and the camera, where the prior takes one).
        of_source: when `text` is None, take the words for the source image instead of the run's prompt.
        words: how the view's words are chosen; see `Condition`.
    """

    def __init__(
        self, text: str | None = None, view_dependent: bool = True, of_source: bool = False, words: Words = "nearest"
    ) -> None:
        super().__init__()
        self.text, self.view_dependent, self.of_source, self.words = text, view_dependent, of_source, words

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.text = bound_text(self.text, prompt, source, self.of_source)

    def conditions(self) -> list[Condition]:
        if self.text is None:
            raise ValueError("A Prompt has no text; give it one, or bind the run's prompt with field.bind(prompt).")
        return [Condition(self.text, self.view_dependent, self.words)]

    def needs(self, x: Noised) -> list[Need]:
        return [*self.conditions()]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.predict(self.conditions()[0])


def bound_text(text: str | None, prompt: str, source: str | None, of_source: bool) -> str:
    """A field's own text, else the run's prompt or the words for its source; a ValueError where these are missing."""
    if text is not None:
        return text
    if of_source and not source:
        raise ValueError("This method needs words for what the source shows; give --model.source 'a red car'.")
    return source if of_source and source else prompt


@preset
def Null() -> Field:
    """The prior's prediction without a prompt, e_null."""
    return Prompt("", view_dependent=False)


class PerpNegPrompt(Expression):
    """e_y with Perp-Neg: it subtracts a part of the other directions' prompts; see `PerpNeg`. A CFG makes it."""

    def __init__(self, perp_neg: PerpNeg, null: Field, of_source: bool = False) -> None:
        super().__init__()
        self.perp_neg, self.null = perp_neg, null
        kinds: tuple[Words, ...] = ("blended", "front", "side")
        self.prompt, self.front, self.side = (Prompt(of_source=of_source, words=words) for words in kinds)

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        words, views = x.prior.view_words, x.views
        if words is None or views is None:
            needed = "cameras and a prior that knows words for directions"
            raise ValueError(f"Perp-Neg needs {needed}; leave cfg.perp_neg out.")
        null = self.null(x)
        wanted = self.prompt(x) - null
        value = null + wanted
        overhead = words.overhead_from(views.elevation)
        for field, weight in zip((self.front, self.side), self.perp_neg.weights(views.azimuth), strict=True):
            weight = weight.masked_fill(overhead, 0.0)[:, None, None, None]
            value = value + weight * perpendicular(field(x) - null, wanted)
        return value


class CFG(Expression):
    """Classifier-free guidance: e_null + lambda (e_y - e_null).

    asdkit has this one convention, like the paper and diffusers: scale 1 is the plain conditional prediction, 0 is the
    unconditional one, and neither asks the network for the other. Where threestudio's SDS writes s, it means 1 + s.

    Args:
        text: the prompt y; the run's own when None.
        scale: lambda, which may move with the iterations. A larger one follows the prompt more closely.
        negative: a negative prompt that replaces the null condition; it gets no words for the view.
        null: a field that replaces the null condition, e.g. one that learns; not together with `negative`.
        of_source: when `text` is None, take the words for the source image instead of the run's prompt.
        allow_negative: accept a lambda below 0, which leads away from the prompt.
        options: how the guidance is computed. For the run's own words, `--model.cfg` counts where it says anything.
    """

    def __init__(
        self,
        text: str | None = None,
        scale: Factor = 7.5,
        negative: str | None = None,
        null: Field | None = None,
        of_source: bool = False,
        allow_negative: bool = False,
        options: CFGOptions = PLAIN_CFG,
    ) -> None:
        super().__init__()
        lowest = min(bounds(scale))
        require(allow_negative or lowest >= 0, f"The CFG scale lambda can't be negative; got {lowest}.")
        require(negative is None or null is None, "CFG takes a negative prompt or a null field, not both.")
        self.scale, self.options = scale, options
        self.null = null or (Null() if negative is None else Prompt(negative, view_dependent=False))
        self.prompt: Prompt | PerpNegPrompt = Prompt(text, of_source=of_source)

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        if isinstance(self.prompt, Prompt) and self.prompt.text is None:
            self.options = self.options if cfg == PLAIN_CFG else cfg
            if self.options.perp_neg is not None:
                self.prompt = PerpNegPrompt(self.options.perp_neg, self.null, self.prompt.of_source)
        super().take_words(prompt, source, cfg)

    def needs(self, x: Noised) -> list[Need]:
        scale = value_at(self.scale, x.step)
        return (self.null.needs(x) if scale != 1 else []) + (self.prompt.needs(x) if scale != 0 else [])

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        scale = value_at(self.scale, x.step)
        x.prefetch(self.needs(x))
        if scale in (0.0, 1.0):
            return self.prompt(x) if scale else self.null(x)
        return self.options.combined(x, self.null(x), self.prompt(x), scale)


class Identity(Field):
    """x0 - x0 of the source image, which pulls x0 back to the source. PDS adds it to DDS."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.x0 - x.on_source().x0


@torch.no_grad()
def ddim(
    prior: Prior, field: Field, noise: Latent, steps: int = 50, views: Views | None = None, prompts: Own | None = None
) -> Latent:
    """x0 by deterministic DDIM (eta = 0) along any score field, e.g. `CFG("a duck", 3.0)`, from x_T = `noise`.

    It takes as many network calls as steps; `views` are a camera for each sample, and `prompts` say of a text of the
    field what each sample has in its place.
    """
    times = torch.linspace(len(prior.schedule) - 1, 0, steps + 1, device=noise.device).long()
    x_t = noise
    for t_now, t_next in zip(times[:-1], times[1:], strict=True):
        t = t_now.expand(len(noise))
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        eps = field(prior.draw(torch.zeros_like(x_t), t, x_t / sigma, views, prompts=prompts or {}))
        x0 = (x_t - sigma * eps) / alpha
        x_t = prior.schedule.add_noise(x0, t_next.expand(len(noise)), eps)
    return x0.to(noise.dtype)
