"""Which t are drawn: within the range, inclusive, stratified, and functions of the step alone."""

import pytest
import torch

from asdkit import Ramp, Timesteps
from asdkit.core.randomness import generator_for


def _draws(timesteps: Timesteps, step: int = 0, count: int = 64, total: int = 1000, rounds: int = 40) -> torch.Tensor:
    return torch.stack([timesteps.draw(count, step, total, generator_for(k, step, "t")) for k in range(rounds)])


def test_range_is_inclusive_and_filled() -> None:
    t = _draws(Timesteps(0.0, 1.0), total=11, rounds=10)
    assert t.dtype == torch.int64
    assert t.unique().tolist() == list(range(11))
    t = _draws(Timesteps(0.2, 0.4), total=11)
    assert t.unique().tolist() == [2, 3, 4]
    assert _draws(Timesteps(0.5, 1.0), total=11).unique().tolist() == [5, 6, 7, 8, 9, 10]
    t = _draws(Timesteps(), total=1000)
    assert 20 <= t.min() <= 24 and 975 <= t.max() <= 979


def test_upper_end_falls_linearly_and_stays() -> None:
    timesteps = Timesteps(0.02, Ramp(0.98, 0.5, 100))
    assert [timesteps.range(step)[1] for step in (0, 50, 100, 1000)] == pytest.approx([0.98, 0.74, 0.5, 0.5])
    assert _draws(timesteps, step=0).max() > 960
    assert 720 < _draws(timesteps, step=50).max() <= 740
    assert 480 < _draws(timesteps, step=500).max() <= 500
    constant = Timesteps(0.1, 0.7)
    assert constant.range(0) == constant.range(5) == constant.range(99) == (0.1, 0.7)


def test_equal_ends_give_one_t_for_all() -> None:
    """A t that falls with the iterations, as score distillation via inversion has it."""
    falling = Timesteps(Ramp(0.98, 0.25, 100), Ramp(0.98, 0.25, 100))
    for step, expected in ((0, 979), (50, 614), (100, 250), (500, 250)):
        t = falling.draw(8, step, 1000, generator_for(0, step, "t"))
        assert t.unique().tolist() == [expected]


@pytest.mark.parametrize("count", [1, 5, 16])
def test_strata_hold_one_each(count: int) -> None:
    for row in _draws(Timesteps(0.0, 1.0), count=count, total=16_001, rounds=5):
        edges = torch.linspace(0, 16_000, count + 1)
        ordered = row.sort().values
        assert (ordered >= edges[:-1] - 1).all() and (ordered <= edges[1:] + 1).all()


def test_strata_are_in_random_order() -> None:
    """Each place of the batch sees the whole range: no camera is tied to a noise level."""
    t = _draws(Timesteps(0.0, 1.0), count=4, rounds=200).float()
    assert ((t.mean(0) - 500).abs() < 80).all()
    assert (t.std(0) > 200).all()


def test_independent_draws_fill_strata_unevenly() -> None:
    t = _draws(Timesteps(0.0, 1.0, stratified=False), count=8, rounds=50)
    counts = torch.stack([torch.histc(row.float(), 8, 0, 999) for row in t])
    assert (counts != 1).any()
    assert (t.float().mean() - 500).abs() < 40


@pytest.mark.parametrize("ends", [(0.6, 0.5), (0.5, Ramp(0.9, 0.4, 9)), (Ramp(0.1, 0.9, 9), 0.5)])
def test_impossible_ranges_are_refused(ends: tuple[float | Ramp, ...]) -> None:
    with pytest.raises(ValueError, match="must satisfy t_min <= t_max"):
        Timesteps(*ends)
