"""Differences of pairs: their mean, its 95 % interval by Student's t, and what that says of a claim."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from asdkit.run.tables import cell_text

CONFIRMED, REFUTED, NOT_SHOWN, NOT_JUDGED = "confirmed", "refuted", "not shown", "not judged"
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean of values, and the interval that holds their expectation in 95 of 100 experiments.

    `low` and `high` are infinite where there is one value alone.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """The mean and, of several values, half the interval."""
        return cell_text(self.mean) + (f" ± {cell_text(self.high - self.mean)}" if self.count > 1 else "")


def interval(values: Sequence[float]) -> Interval:
    """The interval mean -+ t s / sqrt(n) of n values, whose standard deviation is s."""
    mean, count = statistics.fmean(values), len(values)
    spread = math.inf if count < 2 else t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - spread, mean + spread, count)


def verdict(difference: Interval, low: float, high: float) -> str:
    """Whether a claim that a difference lies between two numbers is confirmed, refuted or not shown.

    It is confirmed when the whole interval lies there, refuted when all of it lies elsewhere.
    """
    if difference.count < 2:
        return NOT_JUDGED
    if low < difference.low and difference.high < high:
        return CONFIRMED
    return REFUTED if difference.high <= low or high <= difference.low else NOT_SHOWN


def joint(verdicts: Sequence[str]) -> str:
    """The verdict of claims together: refuted by one, confirmed by all, else not shown; not judged where none was."""
    if not {*verdicts} - {NOT_JUDGED}:
        return NOT_JUDGED
    return REFUTED if REFUTED in verdicts else CONFIRMED if {*verdicts} == {CONFIRMED} else NOT_SHOWN


def t_quantile(freedom: int) -> float:
    """The t of which Student's distribution has 95 % between -t and t."""
    low, high = 0.0, 13.0  # of one degree of freedom it is 12.7
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, freedom) < _LEVEL else (low, middle)
    return high


def _between(t: float, freedom: int) -> float:
    """What Student's distribution has between -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
