"""Ranges of numbers as types: `Annotated[float, Within(0, 1)]` is shown by --help and checked when a part is built.

`Part` and `preset` check it, and `checked` does so for what is no part. None, strings and other parts pass; both ends
of a number that moves are checked. An argument that takes numbers without a range takes finite ones.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, dataclass_transform, get_args, get_type_hints, runtime_checkable

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Within:
    """A range of numbers."""

    low: float
    high: float
    open_low: bool = False  # `low` itself is outside
    open_high: bool = False  # `high` itself is outside

    def __contains__(self, number: float) -> bool:
        """Whether a number is finite, inside, no bool, and no integer that a computer's own can't hold."""
        is_huge = isinstance(number, int) and not -(2**63) <= number < 2**63
        if is_huge or isinstance(number, bool) or not math.isfinite(number):
            return False
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)

    def __repr__(self) -> str:
        """What a number must be, e.g. "within (0, 10]", "at least 1"; --help prints it as well."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        if math.isinf(self.high):
            return f"{'above' if self.open_low else 'at least'} {_text(self.low)}"
        brackets = "[("[self.open_low], "])"[self.open_high]
        return f"within {brackets[0]}{_text(self.low)}, {_text(self.high)}{brackets[1]}"


def Between(low: float, high: float) -> Within:
    """The range (low, high)."""
    return Within(low, high, open_low=True, open_high=True)


def MoreThan(low: float, at_most: float = math.inf) -> Within:
    """The range (low, at_most]."""
    return Within(low, at_most, open_low=True)


def AtLeast(low: float, below: float = math.inf) -> Within:
    """The range [low, below)."""
    return Within(low, below, open_high=True)


FINITE, INTEGER = Between(-math.inf, math.inf), Within(-(2**63), 2**63 - 1)
Share = Annotated[float, Within(0, 1)]
NonNegative = Annotated[float, Within(0, 1e6)]
Weight = NonNegative
Positive = Annotated[float, MoreThan(0, at_most=1e6)]
LearningRate = Annotated[float, MoreThan(0, at_most=10)]
Whole = Annotated[int, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]


@functools.cache
def ranges(target: Callable[..., Any]) -> Mapping[str, Within]:
    """The ranges of the arguments of a function or constructor, by name; those that take no numbers are left out."""
    function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # in a user's module, of a type that is imported for type checkers alone
        return {}
    return {name: allowed for name, hint in hints.items() if name != "return" and (allowed := _range(hint))}


def checked_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """The arguments of a call, by name; a ValueError of a number outside its range."""
    call = inspect.signature(function).bind(*args, **kwargs)
    owner = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
    for name, allowed in ranges(function).items():
        for number in numbers_in(call.arguments.get(name)):
            if number not in allowed:
                raise ValueError(f"{owner}'s {name} must be {allowed}; got {number}.")
    return call


def checked(target: F) -> F:
    """Decorator of a function, or of a class that is no part: its numbers are checked as a part's are."""
    function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        checked_call(function, *args, **kwargs)
        return function(*args, **kwargs)

    if not isinstance(target, type):
        return call  # type: ignore[return-value]
    target.__init__ = call  # type: ignore[misc]
    return target


@dataclass_transform(frozen_default=True)
def settings(kind: type[T]) -> type[T]:
    """Decorator of a frozen dataclass whose numbers are checked as a part's are."""
    return checked(dataclass(frozen=True)(kind))


def _range(hint: Any) -> Within | None:
    """The range that stands in an annotation, at whatever depth; any number of a kind that stands there alone."""
    pieces = list(_pieces(hint))
    alone = None if bool in pieces else FINITE if float in pieces else INTEGER if int in pieces else None
    return next((piece for piece in pieces if isinstance(piece, Within)), alone)


def _pieces(hint: Any) -> Iterator[Any]:
    yield hint
    for piece in get_args(hint):
        yield from _pieces(piece)


@runtime_checkable
class Moving(Protocol):
    """A number that moves with the iterations, such as a `core.ramps.Ramp`."""

    def bounds(self) -> tuple[float, float]:
        """The values between which it moves."""


def numbers_in(value: Any) -> Iterator[float]:
    """The numbers in an argument: itself, the ends of one that moves, or those in a list or a dict."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Moving):
        yield from value.bounds()
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(item)


def _text(number: float) -> str:
    """A number as short as it can be said, e.g. 0.5, 1e6."""
    short = f"{number:g}".replace("e+0", "e")
    return short if float(short) == number else str(number)
