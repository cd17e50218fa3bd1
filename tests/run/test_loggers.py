"""Lightning's loggers beside the run's own metrics.csv: numbers, pictures and hyperparameters."""

import csv
import re
import sys
from pathlib import Path

import pytest
import yaml
from support.recipe import small_run

from asdkit.commands.main import main

QUICK = ("--trainer.max_steps=2", "--report.size=16", "--trainer.callbacks=[]", "--data.views_per_step=1")


@pytest.fixture(scope="module")
def logged(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two loggers; with one where tensorboard is not installed."""
    from support.recipe import write_recipe

    names = "csv,tensorboard" if has_tensorboard() else "csv"
    return small_run(write_recipe(tmp_path_factory.mktemp("logged"), tiny_folder), *QUICK, f"--logger={names}")


def has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_csv_has_the_runs_numbers_and_hyperparameters(logged: Path) -> None:
    """Lightning counts batches from 0."""
    own, further = (list(csv.DictReader(path.open())) for path in (logged / "metrics.csv", logged / "csv/metrics.csv"))
    assert [float(row["residual_norm"]) for row in further] == [float(row["residual_norm"]) for row in own]
    assert [int(row["step"]) for row in further] == [0, 1] and [int(row["step"]) for row in own] == [1, 2]
    assert "a red duck" in (logged / "csv" / "hparams.yaml").read_text()
    assert yaml.safe_load((logged / "config.yaml").read_text())["logger"]["names"][0] == "csv"


@pytest.mark.skipif(not has_tensorboard(), reason="needs tensorboard")
def test_tensorboard_has_the_pictures_too(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("snapshot")] == [1, 2]
    assert [event.step for event in events.Images("views")] == [2]
    own = [float(row["residual_norm"]) for row in csv.DictReader((logged / "metrics.csv").open())]
    assert [event.value for event in events.Scalars("residual_norm")] == pytest.approx(own)
    assert "a red duck" in str(events.PluginTagToContent("hparams"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_said_before_anything_is_made(
    recipe: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["fit", "--config", str(recipe), *QUICK, "--logger", name]) == 3
    assert re.search(rf"asdkit: This needs {name}: .*\b{name}\b", capsys.readouterr().err)
    assert not (recipe.parent / "runs").exists()


def test_another_logger_is_refused(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--config", str(recipe), "--logger=tensorbord"]) == 2
    assert "tensorboard" in capsys.readouterr().err and not (recipe.parent / "runs").exists()
