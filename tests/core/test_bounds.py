"""Ranges as types: their words, the check of every argument of every public part, and what --help says."""

import inspect
import io
import math
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Annotated, Any

import pytest

import asdkit
from asdkit import Ramp
from asdkit.core.bounds import FINITE, AtLeast, Between, MoreThan, Positive, Share, Weight, Within, checked, ranges
from asdkit.core.parts import Part, preset
from asdkit.lab import Affine
from asdkit.methods import PDS
from asdkit.run.checkpoints import Checkpoints
from asdkit.run.guard import RankAgreement
from asdkit.run.live_view import Viewer
from asdkit.run.report import Report, Snapshots

NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize(
    ("allowed", "words", "inside", "outside"),
    [
        (Within(-1, 100), "within [-1, 100]", [-1, 0, 100.0], [-1.001, 100.5]),
        (Between(0, 180), "within (0, 180)", [1e-9, 179.9], [0, 180]),
        (MoreThan(0, at_most=10), "within (0, 10]", [1e-9, 10], [0, 10.01]),
        (AtLeast(0, below=1), "within [0, 1)", [0, 0.999], [-1e-9, 1]),
        (MoreThan(1), "above 1", [1.0001, 1e300], [1, -5]),
        (AtLeast(2), "at least 2", [2, 3], [1.9]),
        (Between(-math.inf, 90), "within (-inf, 90)", [89.9, -1e300], [90]),
        (FINITE, "a finite number", [0, -1e300, 1e300], []),
        (AtLeast(1), "at least 1", [1, 2**63 - 1], [2**63, 10**400, -(10**400)]),
        (Weight.__metadata__[0], "within [0, 1e6]", [0, 1e6], [-1, 1000001]),
        (Within(0, 1048576), "within [0, 1048576]", [1048576], [1048577]),
        (Within(0.25, 1e-7), "within [0.25, 1e-07]", [], [0.5]),
    ],
)
def test_a_range_and_its_words(allowed: Within, words: str, inside: list[float], outside: list[float]) -> None:
    assert repr(allowed) == words
    assert all(number in allowed for number in inside)
    assert not any(number in allowed for number in [*outside, NAN, INFINITY, -INFINITY, True, False])


class Sample(Part):
    """A part with numbers of all kinds.

    Args:
        scale: of the field.
        share: of the views.
        steps: how many.
        weights: three of them.
        free: any number.
        switch: on or off.
        name: a word.
    """

    def __init__(
        self,
        scale: Weight | Ramp | Part = 1.0,
        share: Annotated[float | Ramp, Within(0, 1)] = 0.5,
        steps: Annotated[int, AtLeast(1)] | None = 1,
        weights: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0),
        free: float = 0.0,
        switch: bool | int = False,
        name: str = "",
    ) -> None:
        self.scale = scale


class Inherits(Sample):
    """Has no constructor of its own."""


class Calls(Sample):
    """Calls the constructor that it inherits."""

    def __init__(self, twice: float) -> None:
        super().__init__(2 * twice)


@preset
def sample(share: Share = 0.5) -> Sample:
    """A preset."""
    return Sample(share=share)


@checked
def plain(share: Share = 0.5, means: dict[str, list[float]] | None = None) -> float:
    """No part at all."""
    return share


@checked
class Plain:
    """A class that is no part."""

    def __init__(self, share: Share = 0.5) -> None:
        self.share = share


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sample(-1), r"Sample's scale must be within \[0, 1e6\]; got -1\."),
        (lambda: Sample(Ramp(0.0, 2e6, 3)), r"Sample's scale must be within \[0, 1e6\]; got 2000000\.0\."),
        (lambda: Sample(Ramp(-1.0, 2.0, 3)), r"scale must .*; got -1\.0\."),
        (lambda: Sample(share=Ramp(0.0, 1.5, 3)), r"share must be within \[0, 1\]; got 1\.5\."),
        (lambda: Sample(steps=0), "steps must be at least 1; got 0"),
        (lambda: Sample(steps=True), "steps must be at least 1; got True"),
        (lambda: Sample(weights=(1.0, NAN, 1.0)), r"weights must be within \(0, 1e6\]; got nan"),
        (lambda: Sample(free=-INFINITY), "free must be a finite number; got -inf"),
        (lambda: Ramp(0.0, NAN, 3), "Ramp's end must be a finite number; got nan"),
        (lambda: Inherits(-2), "Inherits's scale must be"),
        (lambda: Calls(-1), r"Calls's scale must be within \[0, 1e6\]; got -2"),
        (lambda: sample(2.0), r"sample's share must be within \[0, 1\]; got 2\.0\."),
        (lambda: plain(share=-0.5), r"plain's share must be within \[0, 1\]; got -0\.5\."),
        (lambda: plain(means={"y": [0.0, NAN]}), r"plain's means must be a finite number; got nan"),
        (lambda: PDS(pull=Ramp(1.0, -1.0, 3)), r"PDS's pull must be within \[0, 1e6\]; got -1.0"),
        (lambda: Plain(2), r"Plain's share must be within \[0, 1\]; got 2\."),
    ],
)
def test_numbers_out_of_range_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_number_passes() -> None:
    assert Sample(Ramp(0.0, 1.0, 3), steps=None, switch=True, name="duck").spec["init_args"]["steps"] is None
    assert isinstance(Sample(Sample()).scale, Sample)
    assert sample(1.0).spec["init_args"] == {"share": 1.0}
    assert plain(1) == 1 and Plain(0.5).share == 0.5
    allowed = {"scale": Within(0, 1e6), "share": Within(0, 1), "steps": AtLeast(1)}
    assert ranges(Sample) == allowed | {"weights": MoreThan(0, at_most=1e6), "free": FINITE}


def test_help_shows_the_ranges() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(Sample, "part")
    text = io.StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    words = " ".join(text.getvalue().split())
    assert "type: Annotated[float | Ramp, within [0, 1]], default: 0.5" in words
    assert "type: Union[Annotated[float, within [0, 1e6]], Ramp, Part], default: 1.0" in words


def arguments() -> Iterator[Any]:
    """Every argument that takes numbers, of every public name and of every callback that recipes set."""
    public = [getattr(asdkit, name) for name in asdkit.__all__]
    for target in (*public, Affine, Checkpoints, Report, RankAgreement, Snapshots, Viewer):
        if not inspect.isabstract(target):
            for name, allowed in ranges(target).items():
                yield pytest.param(target, name, allowed, id=f"{target.__name__}-{name}")


@pytest.mark.parametrize(("target", "name", "allowed"), arguments())
def test_every_public_number_is_checked(target: Callable, name: str, allowed: Within) -> None:
    parameters = inspect.signature(target).parameters
    others = {key: None for key, parameter in parameters.items() if parameter.default is parameter.empty}
    below = allowed.low if allowed.open_low else allowed.low - 1
    above = allowed.high if allowed.open_high else allowed.high + 1
    for number in (NAN, INFINITY, -INFINITY, below, above):
        with pytest.raises(ValueError, match=rf"'s {name} must be .*; got {number}\."):
            target(**{**others, name: [number] if "Sequence" in str(parameters[name].annotation) else number})
    nearest = math.nextafter(allowed.low, math.inf), math.nextafter(allowed.high, -math.inf)
    inside = nearest[0] if allowed.open_low else allowed.low, nearest[1] if allowed.open_high else allowed.high
    assert all(number in allowed for number in inside)
    default = parameters[name].default
    if isinstance(default, int | float):
        assert default in allowed
