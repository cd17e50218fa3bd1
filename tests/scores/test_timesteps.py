"""Which t are drawn: within the range, inclusive, stratified, and functions of the step alone."""

import pytest
import torch

from asdkit import Ramp, Timesteps
from asdkit.core.randomness import generator_for


def _draws(timesteps: Timesteps, step: int = 0, count: int = 64, total: int = 1000, rounds: int = 40) -> torch.Tensor:
    return torch.stack([timesteps.draw(count, step, total, generator_for(k, step, "t")) for k in range(rounds)])


def test_range_is_inclusive_and_filled_and_impossible_ones_are_refused() -> None:
    for ends in ((0.6, 0.5), (0.5, Ramp(0.9, 0.4, 9)), (Ramp(0.1, 0.9, 9), 0.5)):
        with pytest.raises(ValueError, match="must satisfy t_min <= t_max"):
            Timesteps(*ends)
    for low, high, expected in ((0.0, 1.0, range(11)), (0.2, 0.4, [2, 3, 4]), (0.5, 1.0, range(5, 11))):
        assert _draws(Timesteps(low, high), total=11).unique().tolist() == list(expected)
    t = _draws(Timesteps(), total=1000)
    assert t.dtype == torch.int64
    assert 20 <= t.min() <= 24 and 975 <= t.max() <= 979


def test_ends_move_linearly_and_stay_and_equal_ones_give_one_t_for_all() -> None:
    """The latter as score distillation via inversion has it."""
    timesteps = Timesteps(0.02, Ramp(0.98, 0.5, 100))
    assert [timesteps.range(step)[1] for step in (0, 50, 100, 1000)] == pytest.approx([0.98, 0.74, 0.5, 0.5])
    assert _draws(timesteps, step=0).max() > 960
    assert 720 < _draws(timesteps, step=50).max() <= 740
    assert 480 < _draws(timesteps, step=500).max() <= 500
    constant = Timesteps(0.1, 0.7)
    assert constant.range(0) == constant.range(5) == constant.range(99) == (0.1, 0.7)
    falling = Timesteps(Ramp(0.98, 0.25, 100), Ramp(0.98, 0.25, 100))
    for step, expected in ((0, 979), (50, 614), (100, 250), (500, 250)):
        t = falling.draw(8, step, 1000, generator_for(0, step, "t"))
        assert t.unique().tolist() == [expected]


def test_strata_hold_one_each_in_random_order() -> None:
    """Each place of the batch sees the whole range: no camera is tied to a noise level."""
    for count in (1, 5, 16):
        edges = torch.linspace(0, 16_000, count + 1)
        for row in _draws(Timesteps(0.0, 1.0), count=count, total=16_001, rounds=5):
            ordered = row.sort().values
            assert (ordered >= edges[:-1] - 1).all() and (ordered <= edges[1:] + 1).all()
    t = _draws(Timesteps(0.0, 1.0), count=4, rounds=200).float()
    assert ((t.mean(0) - 500).abs() < 80).all() and (t.std(0) > 200).all()
    t = _draws(Timesteps(0.0, 1.0, stratified=False), count=8, rounds=50).float()
    assert any((torch.histc(row, 8, 0, 999) != 1).any() for row in t), "independent draws fill strata unevenly"
    assert (t.mean() - 500).abs() < 40
