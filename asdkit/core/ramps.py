"""Numbers that move with the iterations: pure functions of the step, so that resuming needs no state."""

import math
from typing import Literal

from asdkit.core.bounds import Whole
from asdkit.core.parts import Part

Shape = Literal["linear", "cosine", "exponential"]


class Ramp(Part):
    """A number that moves from `start` to `end` over `steps` iterations and then stays there.

    Args:
        start: the value until step `begin`.
        end: the value from step `begin + steps` on.
        steps: the number of iterations in between, at least 0; 0 makes the value jump.
        begin: the step at which the value starts to move, at least 0.
        shape: `linear`, `cosine` (smooth at both ends), or `exponential` (a constant factor per step; both ends > 0).
    """

    def __init__(self, start: float, end: float, steps: Whole, begin: Whole = 0, shape: Shape = "linear") -> None:
        if shape == "exponential" and not (start > 0 and end > 0):
            raise ValueError(f"An exponential ramp needs positive ends; got {start} and {end}.")
        self.start, self.end, self.steps, self.begin, self.shape = start, end, steps, begin, shape

    def bounds(self) -> tuple[float, float]:
        """The values between which it moves."""
        return self.start, self.end

    def __call__(self, step: int) -> float:
        """The value at a step."""
        progress = min(1.0, max(0.0, (step - self.begin) / self.steps)) if self.steps else float(step >= self.begin)
        if self.shape == "exponential":
            return float(self.start ** (1 - progress) * self.end**progress)
        if self.shape == "cosine":
            progress = 0.5 - 0.5 * math.cos(math.pi * progress)
        return self.start + progress * (self.end - self.start)


def value_at(number: float | Ramp, step: int) -> float:
    """A plain number as it is; a ramp's value at the step."""
    return number(step) if isinstance(number, Ramp) else number


def bounds(number: float | Ramp) -> tuple[float, float]:
    """The values between which a number moves; twice itself for a plain one."""
    return number.bounds() if isinstance(number, Ramp) else (number, number)
