"""Ramps: their values before, while and after they move, their shapes, and what reads them."""

import math

import pytest

from asdkit.core.ramps import Ramp, bounds, value_at


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
def test_constant_outside_and_a_jump_where_there_are_no_steps(shape: str) -> None:
    for begin in (0, 5):
        ramp = Ramp(2.0, 0.5, 10, begin, shape)
        assert [ramp(step) for step in (0, begin)] == [2.0, 2.0]
        assert [ramp(begin + step) for step in (10, 11, 100000)] == [0.5, 0.5, 0.5]
    assert [Ramp(1.0, 2.0, 0, 7, shape)(step) for step in (0, 6, 7, 8)] == [1.0, 1.0, 2.0, 2.0]


def test_shapes_are_equal_differences_equal_factors_and_half_a_wave() -> None:
    linear, factors = Ramp(-1.0, 3.0, 8, begin=2), Ramp(8.0, 0.5, 4, shape="exponential")
    assert [linear(step) for step in range(2, 11)] == pytest.approx([-1.0 + 0.5 * k for k in range(9)], abs=1e-12)
    assert [factors(step) for step in range(5)] == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5], rel=1e-12)
    wave = [3.0 - 2.0 * math.cos(math.pi * k / 12) for k in range(13)]
    assert [Ramp(1.0, 5.0, 12, shape="cosine")(k) for k in range(13)] == pytest.approx(wave, abs=1e-12)


def test_linear_may_cross_zero_and_exponential_may_not() -> None:
    assert Ramp(-1.0, 1.0, 2)(1) == 0.0
    for start, end in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match=f"positive ends; got {start} and {end}"):
            Ramp(start, end, 2, shape="exponential")


def test_numbers_are_ramps_that_stand_still() -> None:
    assert value_at(7.5, 3) == 7.5 and value_at(Ramp(0.0, 4.0, 4), 3) == 3.0
    assert bounds(7.5) == (7.5, 7.5) and bounds(Ramp(3.0, -1.0, 4, 9)) == (3.0, -1.0)
