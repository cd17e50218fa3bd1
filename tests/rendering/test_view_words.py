"""Which view words belong to which camera."""

import math

import pytest
import torch

from asdkit.rendering.view_words import DREAMFUSION, EIGHT_SECTORS, ViewWords


def _words(words: ViewWords, azimuth_deg: float, elevation_deg: float = 0.0) -> str:
    azimuth, elevation = (torch.tensor([math.radians(angle)]) for angle in (azimuth_deg, elevation_deg))
    return words.all[words.index(azimuth, elevation).item()]


@pytest.mark.parametrize("turns", [-1, 0, 1])
def test_eight_sectors_counter_clockwise_from_the_front(turns: int) -> None:
    for k, expected in enumerate(EIGHT_SECTORS.sectors):
        for off in (-22.4, 0.0, 22.4):
            assert _words(EIGHT_SECTORS, 45 * k + off + 360 * turns) == expected
    for azimuth, expected in ((90, "left side"), (270, "right side"), (22.6, "front left"), (-22.6, "front right")):
        assert _words(EIGHT_SECTORS, azimuth) == f"{expected} view"
    assert _words(EIGHT_SECTORS, 180) == "back view"


def test_dreamfusions_four() -> None:
    for azimuth, expected in ((0, "front"), (44.9, "front"), (45.1, "side"), (134.9, "side"), (135.1, "back")):
        assert _words(DREAMFUSION, azimuth) == f"{expected} view"
        assert _words(DREAMFUSION, -azimuth) == f"{expected} view"
    assert DREAMFUSION.prompts("a duck")[1] == "a duck, side view"
    assert EIGHT_SECTORS.prompts("a duck")[-1] == "a duck, overhead view"
    assert DREAMFUSION.all == ("front view", "side view", "back view", "side view", "overhead view")


@pytest.mark.parametrize("words", [DREAMFUSION, EIGHT_SECTORS])
def test_overhead_above_sixty_degrees(words: ViewWords) -> None:
    assert words.overhead_above_deg == 60
    for azimuth in (0, 100, 250):
        assert _words(words, azimuth, 60.1) == "overhead view"
        assert _words(words, azimuth, 59.9) == _words(words, azimuth, -89) == _words(words, azimuth)
