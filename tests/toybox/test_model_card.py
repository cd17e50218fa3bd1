"""The figures of the model card are computed rightly."""

import pytest

from asdkit.rendering.cameras import ring
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.things import is_held_out
from asdkit.toybox.training import model_card

DUCK = parse("a yellow duck")


@pytest.mark.parametrize(
    ("turn_deg", "right"), [(0.0, True), (20.0, True), (-20.0, True), (30.0, False), (180.0, False)]
)
def test_a_sample_is_in_the_right_sector_when_it_shows_the_azimuth_asked_for(turn_deg: float, right: bool) -> None:
    shown = world.render(DUCK, ring(1, offset_deg=90.0 + turn_deg), (0.7, 0.7, 0.7)).image[0]
    assert model_card.sector_is_right(shown, DUCK, ring(1, offset_deg=90.0)) is right


def test_the_prompts_of_the_evaluation_are_of_the_kind_they_claim() -> None:
    assert all(is_held_out(thing) for thing in model_card.drawn_things(True, 50, 0))
    assert not any(is_held_out(thing) for thing in model_card.drawn_things(False, 50, 0))
    sectors = model_card.sector_views(10).azimuth.rad2deg().round().tolist()
    assert sectors == [0, 45, 90, 135, 180, 225, 270, 315, 0, 45]
