"""Intervals against scipy, and the rule of the verdicts."""

import math

import pytest
import torch
from scipy import stats

from asdkit.run.reproduction.results import Interval, interval, joint, t_quantile, verdict


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 17, 26, 100, 501])
def test_the_quantile_is_students(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 9, 20])
def test_the_interval_is_that_of_scipys_paired_test(count: int) -> None:
    a, b = torch.randn(count).double(), torch.randn(count).double() + 0.3
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = interval((a - b).tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.mean == pytest.approx((a - b).mean().item()) and found.count == count


def test_one_value_has_no_interval_and_no_verdict() -> None:
    alone = interval([0.25])
    assert (alone.mean, alone.low, alone.high) == (0.25, -math.inf, math.inf)
    assert verdict(alone, 0, math.inf) == "not judged"


@pytest.mark.parametrize(
    ("ends", "low", "high", "expected"),
    [
        ((0.1, 0.5), 0, math.inf, "confirmed"),
        ((-0.1, 0.5), 0, math.inf, "not shown"),
        ((-0.5, -0.1), 0, math.inf, "refuted"),
        ((-0.5, -0.1), -math.inf, 0, "confirmed"),
        ((-0.5, 0.0), -math.inf, 0, "not shown"),
        ((-0.2, 0.3), -0.5, 0.5, "confirmed"),
        ((-0.6, 0.3), -0.5, 0.5, "not shown"),
        ((0.5, 0.9), -0.5, 0.5, "refuted"),
        ((-9.0, 9.0), -0.5, 0.5, "not shown"),
        ((-0.05, 0.3), -0.1, math.inf, "confirmed"),
    ],
)
def test_the_whole_interval_decides(ends: tuple[float, float], low: float, high: float, expected: str) -> None:
    assert verdict(Interval(sum(ends) / 2, *ends, 9), low, high) == expected


def test_a_figure_is_as_good_as_the_worst_of_its_rules() -> None:
    assert joint([]) == joint(["not judged"]) == "not judged"
    assert joint(["confirmed", "confirmed"]) == "confirmed"
    assert joint(["confirmed", "not judged"]) == "not shown"
    assert joint(["confirmed", "not shown"]) == "not shown"
    assert joint(["not shown", "refuted", "confirmed"]) == "refuted"
