"""Tables of runs: whose records they hold, how numbers look, means, and the sheet of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asdkit.run import pool, tables
from asdkit.run.grid import Cell, Grid


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    cells = [Cell("a", {"seed": 0}), Cell("a", {"seed": 1}), Cell("b", {"seed": 0})]
    one = Grid(cells, ["--config", "gs3d"], "list", tmp_path)
    one.folder.mkdir(parents=True)
    return one


def finish(grid: Grid, cell: Cell) -> dict:
    report = {"seconds": 12.5, "iterations": 7, "prior": "abc", "metrics": {"psnr": 25.61}}
    grid.run_folder(cell).mkdir()
    (grid.run_folder(cell) / "run.json").write_text(json.dumps({"status": "finished", **report}))
    return report


def test_a_row_has_labels_what_was_recorded_and_metrics(grid: Grid) -> None:
    cell, failed, waiting = grid.cells
    report = finish(grid, cell)
    outcome = {"status": "finished", "exit_code": 0, "seconds": 3.0, "reason": ""}
    pool.record_path(grid, cell).write_text(json.dumps(outcome))
    metrics = report.pop("metrics")
    assert pool.row(grid, cell) == {
        "prompt": "a", "seed": 0, "folder": str(grid.run_folder(cell)), **outcome, **report, **metrics,
    }  # fmt: skip
    pool.record_path(grid, failed).write_text(json.dumps(outcome | {"status": "failed", "reason": "no good"}))
    pool.write_tables(grid)
    assert (grid.folder / "sweep.csv").read_text() == (
        "prompt,seed,status,exit_code,seconds,iterations,folder,reason,prior,psnr\n"
        f"a,0,finished,0,12.5,7,{grid.run_folder(cell)},,abc,25.61\n"
        f"a,1,failed,0,3.0,,{grid.run_folder(failed)},no good,,\n"
        f"b,0,waiting,,,,{grid.run_folder(waiting)},,,\n"
    )
    assert json.loads((grid.folder / "sweep.json").read_text()) == [pool.row(grid, cell) for cell in grid.cells]
    assert (grid.folder / "sweep.md").read_text().splitlines()[2:] == [
        "| a | 0 | finished | 12.5 | 25.6 |",
        "| a | 1 | failed | 3 |  |",
        "| b | 0 | waiting |  |  |",
    ]


def test_whoever_writes_last_has_seen_all_records(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's record comes while this one writes the table: it is written again."""
    real = pool.write_text

    def late(path: Path, text: str) -> None:
        real(path, text)
        real(pool.record_path(grid, grid.cells[1]), json.dumps({"status": "failed"}))

    monkeypatch.setattr(pool, "write_text", late)
    pool.write_tables(grid)
    statuses = [row["status"] for row in json.loads((grid.folder / "sweep.json").read_text())]
    assert statuses == ["waiting", "failed", "waiting"]


def test_a_measure_may_be_no_number(grid: Grid) -> None:
    """NaN is never equal to itself, and the tables are done all the same."""
    finish(grid, grid.cells[0])
    report = {"status": "finished", "metrics": {"psnr": float("nan")}}
    (grid.run_folder(grid.cells[0]) / "run.json").write_text(json.dumps(report))
    pool.write_tables(grid)
    assert "| a | 0 | waiting |  | nan |" in (grid.folder / "sweep.md").read_text()


def test_numbers_have_three_figures() -> None:
    rows = [
        {"method": "ASD", "prompt": "a|b", "psnr": 20.0, "seconds": 118.4, "azimuth": 1, "never": None},
        {"method": "SDS", "prompt": "c", "psnr": -0.3, "seconds": 1200.0},
    ]
    names = ("method", "prompt", "psnr", "azimuth", "seconds", "never")
    assert tables.markdown(rows, names).splitlines() == [
        "| method | prompt | psnr | azimuth | seconds | never |",
        "|---|---|---|---|---|---|",
        "| ASD | a\\|b | 20 | 1 | 118 |  |",
        "| SDS | c | -0.3 |  | 1200 |  |",
    ]


def test_a_sheet_has_a_place_for_each_picture(grid: Grid, tmp_path: Path) -> None:
    for cell, size in zip(grid.cells[::2], ((32, 16), (32, 8)), strict=True):
        finish(grid, cell)
        Image.new("RGB", size, (255, 0, 0)).save(grid.run_folder(cell) / "contact.png")
    pool.write_contacts(grid)
    red = np.array(Image.open(grid.folder / "sweep.png"))[..., 1] == 0  # the rest is white
    assert red.shape == (16, 32) and red[:8, :16].all() and not red[:8, 16:].any()
    assert red[8:12, :16].all() and not red[12:].any() and not red[:, 16:].any()


def test_a_sheet_of_very_many_pictures_is_small(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "run_folder", lambda self, cell: tmp_path)
    grid.cells = [Cell(str(number)) for number in range(32 * 32)]
    pool.write_contacts(grid)
    assert Image.open(grid.folder / "sweep.png").size == (32, 32)  # of no pictures
    Image.new("RGB", (64, 32), (255, 0, 0)).save(tmp_path / "contact.png")
    pool.write_contacts(grid)
    assert Image.open(grid.folder / "sweep.png").size == (32 * 16, 32 * 8)  # a quarter
