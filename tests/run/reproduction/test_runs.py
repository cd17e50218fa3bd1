"""What is kept of runs: which are missing in a folder that has some, whoever made them and wherever it lies now."""

import shutil
from pathlib import Path

import pytest
import torch

from asdkit.core.errors import UsageError
from asdkit.formats.pictures import save_grid
from asdkit.run.reproduction.figures import FULL, QUICK, Size, declared
from asdkit.run.reproduction.runs import Reproduction
from asdkit.run.side_files import write_json


def reproduction(out: Path, name: str = "fig1", size: Size = FULL, prior: str = "abc", *further: str) -> Reproduction:
    return Reproduction([*declared().figures.values()], [name], size, further, prior, out)


def missing(*how: object) -> int:
    return sum(len(grid.cells) for grid in reproduction(*how).grids)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder in which the runs of Figure 1 were made and are gone."""
    one = reproduction(tmp_path / "out")
    for cell in one.grids[0].cells:
        run = one.grids[0].run_folder(cell)
        report = {"status": "finished", "seconds": 1.0, "iterations": 500, "prior": "abc", "versions": {}}
        write_json(run / "run.json", report | {"metrics": {"psnr": 20.0 + int(cell.labels["seed"])}})
        save_grid(torch.rand(4, 3, 16, 16), run / "contact.png", columns=4)
        save_grid(torch.rand(5, 3, 16, 16), run / "progress.png", columns=5)
    data = one.write("asdkit reproduce fig1 --full")
    assert [run["metrics"].get("psnr") for run in data["runs"]][:4] == [20, 21, 22, 20] and data["minutes"] == 0.5
    shutil.rmtree(tmp_path / "out" / "runs")
    return tmp_path / "out"


def test_a_kept_run_is_not_missing(kept: Path, tmp_path: Path) -> None:
    assert missing(tmp_path / "empty") == 3 * 3 * 3 and missing(kept) == 0
    shutil.move(kept, tmp_path / "moved")
    assert missing(tmp_path / "moved") == 0
    next((tmp_path / "moved/pictures").glob("*-contact.webp")).unlink()
    assert missing(tmp_path / "moved") == 1


def test_another_prior_or_other_options_make_other_runs(kept: Path) -> None:
    assert missing(kept, "fig1", FULL, "def") == missing(kept, "fig1", FULL, "abc", "--trainer.max_steps=2") == 27


def test_pictures_of_another_figure_are_kept_with_the_first(kept: Path) -> None:
    """Figure 7 shows how VSD went on; its runs in 2D that Figure 1 has as well are there with that picture."""
    assert len(list((kept / "pictures").glob("*-vsd-7-5-*-progress.webp"))) == 9
    assert len(list((kept / "pictures").glob("*-progress.webp"))) == 9
    both = reproduction(kept, "fig7")
    made = {cell.labels["method"] for cell in both.grids[0].cells if cell.labels["part"] == "2D"}
    assert made == {"ASD 7.5", "ASD 7.5, gamma of the paper"}
    data = both.write("asdkit reproduce fig7 --full")
    assert [*data["figures"]] == ["fig1", "fig7"] and sum("fig1" in run["figures"] for run in data["runs"]) == 27 + 9


def test_a_full_one_is_not_replaced_by_a_quick_one(kept: Path) -> None:
    with pytest.raises(UsageError, match="holds a --full reproduction, which --quick would replace"):
        reproduction(kept, "fig1", QUICK)
