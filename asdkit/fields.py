"""Score fields: maps from a noisy draw to an eps-space tensor. They add, subtract and scale.

The residual of a method is one expression, e.g. SDS is `CFG(scale=100) - Noise()`. The generator's gradient is
E[w(t) residual], Eq. 7.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from asdkit.part import Part
from asdkit.prior import Noised, Prior
from asdkit.prompts import NULL, Condition


class Field(Part, nn.Module, ABC):
    """A map from a noisy draw to a tensor of the shape of its eps."""

    @abstractmethod
    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        """The field's value at x."""

    def parts(self) -> "list[Field]":
        """The fields this one is made of; none for a leaf."""
        return []

    def leaves(self) -> "Iterator[Field]":
        """Every field of the expression that is not itself an expression, once each."""
        seen: set[int] = set()
        stack: list[Field] = [self]
        while stack:
            field = stack.pop()
            stack.extend(reversed(field.parts()))
            if not field.parts() and id(field) not in seen:
                seen.add(id(field))
                yield field

    def bind(self, prompt: str) -> None:
        """Give the run's prompt to every field that has none of its own."""
        for leaf in self.leaves():
            if leaf is not self:
                leaf.bind(prompt)

    def setup(self, prior: Prior) -> None:
        """Attach to the prior whatever has parameters, and embed the prompts. Called once, before optimisers exist."""
        prior.prepare(self.conditions())
        for leaf in self.leaves():
            if leaf is not self:
                leaf.setup(prior)

    def conditions(self) -> list[Condition]:
        """What the frozen prior is asked at x, so that one network call answers for a whole expression."""
        return [condition for part in self.parts() for condition in part.conditions()]

    def loss(self, x: Noised) -> Float[Tensor, ""] | None:
        """What the learning fields of the expression minimise; None if nothing learns."""
        losses = [loss for leaf in self.leaves() if leaf is not self and (loss := leaf.loss(x)) is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def forget(self, x: Noised) -> None:
        """Drop what x remembers of fields that have learned since."""
        for leaf in self.leaves():
            if leaf is not self:
                leaf.forget(x)

    def diagnostics(self, x: Noised) -> dict[str, float]:
        """Numbers worth logging about the fields that learn."""
        return {k: v for leaf in self.leaves() if leaf is not self for k, v in leaf.diagnostics(x).items()}

    def __add__(self, other: "Field") -> "Field":
        return Sum(self, other)

    def __sub__(self, other: "Field") -> "Field":
        return Sum(self, Scaled(other, -1.0))

    def __mul__(self, scale: float) -> "Field":
        return Scaled(self, scale)

    __rmul__ = __mul__

    def __neg__(self) -> "Field":
        return Scaled(self, -1.0)


class Sum(Field):
    """The sum of two fields; asks the prior for all that its terms need at once."""

    def __init__(self, first: Field, second: Field) -> None:
        super().__init__()
        self.first, self.second = first, second

    def parts(self) -> list[Field]:
        return [self.first, self.second]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        x.prefetch(self.conditions())
        return self.first(x) + self.second(x)


class Scaled(Field):
    """A field times a number."""

    def __init__(self, field: Field, scale: float) -> None:
        super().__init__()
        self.field, self.scale = field, scale

    def parts(self) -> list[Field]:
        return [self.field]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.scale * self.field(x)


class Noise(Field):
    """The noise that was drawn: SDS's fake score."""

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.eps


class Prompt(Field):
    """The prior's prediction for a prompt, e_y.

    Args:
        text: the prompt; the run's own when None.
        view_dependent: add the view's words (and camera, where the prior takes one).
    """

    def __init__(self, text: str | None = None, view_dependent: bool = True) -> None:
        super().__init__()
        self.text, self.view_dependent = text, view_dependent

    def bind(self, prompt: str) -> None:
        self.text = prompt if self.text is None else self.text

    def conditions(self) -> list[Condition]:
        if self.text is None:
            raise ValueError("A Prompt has no text; give it one, or bind the run's prompt with field.bind(prompt).")
        return [Condition(self.text, self.view_dependent)]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.predict(self.conditions()[0])


class Null(Field):
    """The prior's unconditional prediction, e_null."""

    def conditions(self) -> list[Condition]:
        return [NULL]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.predict(NULL)


def CFG(text: str | None = None, scale: float = 7.5, negative: str | None = None) -> Field:
    """Classifier-free guidance: e_null + lambda (e_y - e_null).

    This is asdkit's one convention (the paper's and diffusers'): scale 1 is the plain conditional prediction, 0 the
    unconditional one. threestudio's SDS means 1 + s where it writes s.

    Args:
        text: the prompt y; the run's own when None.
        scale: lambda.
        negative: a negative prompt in the place of the null condition.
    """
    null: Field = Null() if negative is None else Prompt(negative)
    return null + scale * (Prompt(text) - null)
