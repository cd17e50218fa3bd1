"""The figures of the model card and of the ten prompts are computed rightly."""

from pathlib import Path

import pytest
import torch

from asdkit.formats.pictures import save_grid
from asdkit.rendering.cameras import ring
from asdkit.toybox import world
from asdkit.toybox.studies import benchmark
from asdkit.toybox.training import model_card

DUCK = world.parse("a yellow duck")


@pytest.mark.parametrize(
    ("turn_deg", "right"), [(0.0, True), (20.0, True), (-20.0, True), (30.0, False), (180.0, False)]
)
def test_a_sample_is_in_the_right_sector_when_it_shows_the_azimuth_asked_for(turn_deg: float, right: bool) -> None:
    shown = world.render(DUCK, ring(1, offset_deg=90.0 + turn_deg), (0.7, 0.7, 0.7)).image[0]
    assert model_card.sector_is_right(shown, DUCK, ring(1, offset_deg=90.0)) is right


def test_the_prompts_of_the_evaluation_are_of_the_kind_they_claim() -> None:
    assert all(world.is_held_out(thing) for thing in model_card.drawn_things(True, 50, 0))
    assert not any(world.is_held_out(thing) for thing in model_card.drawn_things(False, 50, 0))
    sectors = model_card.sector_views(10).azimuth.rad2deg().round().tolist()
    assert sectors == [0, 45, 90, 135, 180, 225, 270, 315, 0, 45]


def test_the_ten_prompts_are_of_the_world_and_six_have_a_front() -> None:
    things = [world.parse(prompt) for prompt in benchmark.PROMPTS]
    assert len(things) == 10
    assert sum(thing.has_front for thing in things) >= 6


def test_the_table_has_each_run_and_the_means(tmp_path: Path) -> None:
    def report(psnr: float) -> dict:
        metrics = {"psnr": psnr, "iou": 0.5, "r_precision": 1.0}
        return {"metrics": metrics, "seconds": 200.0, "prior": "abc"}

    results = {"ASD": {"a yellow duck": report(20.0), "a red mushroom": report(24.0)}}
    table = benchmark.table(results)
    assert "| ASD | a yellow duck | 20 | 0.5 | 1 |  | 200 |" in table
    assert "| **ASD** | **mean** | **22** | **0.5** | **1** | **** | **200** |" in table


def test_the_sheet_puts_a_contact_sheet_back_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "ASD" / "a-yellow-duck"
    folder.mkdir(parents=True)
    pictures = (torch.arange(8) / 10)[:, None, None, None].expand(8, 3, 64, 64)
    save_grid(pictures, folder / "contact.png", columns=4, scale=2)
    read = benchmark.contact(folder / "contact.png", benchmark.STUDIES["gs3d"])
    assert torch.allclose(read, pictures, atol=0.01)
