"""What a run leaves behind, what test, validate and predict make of it, and how a run stops that has diverged."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from support.recipe import small_run

from asdkit.commands.main import main
from asdkit.core.text import slug
from asdkit.formats.splat_files import read_splats
from asdkit.run.checkpoints import AtomicCheckpointIO
from asdkit.run.grid import Cell, Grid
from asdkit.run.pool import record_path, row, write_contacts, write_tables
from asdkit.run.run_folder import new_run_folder, peak_memory
from asdkit.run.side_files import read_facts

QUICK = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]", "--data.views_per_step=1")


def test_a_finished_run_is_complete(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    run = small_run(recipe)
    report = json.loads((run / "run.json").read_text())
    assert report["status"] == "finished"
    assert (report["iterations"], report["seed"], report["prompt"]) == (10, 0, "a red duck")
    assert len(report["prior"]) == 12 and report["versions"]["torch"] and report["seconds"] > 0
    assert {"psnr", "iou", "azimuth"} <= set(report["metrics"])
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["prompt"] == "a red duck"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {row["prior"] for row in rows} == {report["prior"]}
    assert [row["step"] for row in rows if row["discriminator_loss"]] == [str(step) for step in range(1, 11)]
    assert rows[-1]["step"] == "10" and float(rows[-1]["psnr"]) == pytest.approx(report["metrics"]["psnr"])
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "step-000010.ckpt"]
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == [
        f"step-{step:06d}.png" for step in (1, 2, 4, 5, 10)
    ]
    assert Image.open(run / "snapshots" / "step-000010.png").size == (4 * 16 * 12, 4 * 16 * 12)
    assert Image.open(run / "contact.png").size == (4 * 16, 2 * 16)
    assert len(read_splats(run / "splats.ply").means) > 60
    page = (run / "viewer.html").read_text()
    assert "a red duck" in page and '"background": [0.85, 0.85, 0.85]' in page
    text = (run / "report.html").read_text()
    assert 'href="viewer.html"' in text and "PSNR" in text and "snapshots/step-000005.png" in text
    assert report["peak_mb"]["rss"] == pytest.approx(peak_memory()["rss"] / 1e6, rel=0.2)
    assert list(run.glob("orbit.*"))
    assert not [path for path in run.rglob("*") if "tmp" in path.name]

    for command in ("validate", "test"):
        capsys.readouterr()
        assert main([command, str(run)]) == 0
        table = capsys.readouterr().out
        assert "psnr" in table and report["prior"] in table
        assert f"{report['metrics']['psnr']:.3f}"[:-1] in table
    written = json.loads((run / "test.json").read_text())
    assert written["metrics"]["psnr"] == pytest.approx(report["metrics"]["psnr"], abs=1e-4)
    assert main(["predict", str(run)]) == 0
    assert list((run / "predict").glob("orbit.*"))
    assert json.loads((run / "run.json").read_text()) == report


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's own account of the process")
def test_the_peak_of_memory_is_the_systems() -> None:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    assert peak_memory()["rss"] == pytest.approx(1024 * int(line.split()[1]), rel=0.05)


def test_the_orbit_is_webp_without_the_video_extra(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    run = small_run(recipe, "--trainer.max_steps=1")
    assert Image.open(run / "orbit.webp").n_frames == 3


def test_other_words_are_named_and_have_no_truth(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    run = small_run(recipe, "--trainer.max_steps=1", "--model.prompt", "a red corgi")
    err = capsys.readouterr().err
    assert "never seen 'corgi'" in err and "seen &#39;corgi&#39;" in (run / "report.html").read_text()
    assert "'a red corgi' is not of the toybox" in err
    assert "psnr" not in json.loads((run / "run.json").read_text())["metrics"]


HUGE = f'{{"seconds": 1{"0" * 400}}}'
OTHER = '{"seconds": "x", "metrics": [1], "command": 3}'


def test_side_files_never_end_a_command(recipe: Path) -> None:
    run = small_run(recipe, *QUICK, "--trainer.max_steps=1")
    grid = Grid([Cell("a red duck")], ["--config", str(recipe)], "list")
    (cell,) = grid.cells
    grid.run_folder(cell).mkdir()
    grid.folder.mkdir()
    for text in ("", "[1]", OTHER, "{" * 9000, HUGE, "\0"):
        for file in (run / "run.json", grid.run_folder(cell) / "run.json", record_path(grid, cell)):
            file.write_text(text)
        (grid.run_folder(cell) / "contact.png").write_text(text)
        write_tables(grid)
        write_contacts(grid)
        assert not grid.finished(cell) and row(grid, cell)["prompt"] == "a red duck"
        assert read_facts(run / "run.json").get("seconds", 0.0) == 0
    (run / "metrics.csv").unlink()
    (run / "run.json").write_text(OTHER)
    assert main(["fit", str(run), "--trainer.max_steps=2"]) == 0
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    names = ("run.json", "metrics.csv", "report.html", "contact.png", "splats.ply", "weights/generator.safetensors")
    for name in names:  # a folder in a file's place, and a file in a folder's, are set aside
        (run / name).unlink()
        (run / name).mkdir()
    shutil.rmtree(run / "snapshots", ignore_errors=True)
    (run / "snapshots").touch()
    (run / "run.lock").mkdir()
    assert main(["fit", str(run), "--trainer.max_steps=3", "--snapshots.every=1"]) == 0
    assert all((run / name).is_file() for name in names) and (run / "snapshots").is_dir()
    assert len(list(run.rglob("*-before-*"))) == len(names) + 2


def test_a_run_whose_folder_is_removed_fails_and_makes_none(recipe: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "removing.py").write_text(
        "import shutil\nimport pytorch_lightning as pl\n"
        "class Removing(pl.Callback):\n"
        "    def on_train_batch_start(self, trainer, *rest):\n"
        "        if trainer.global_step == 5:\n"
        "            shutil.rmtree(trainer.default_root_dir)\n"
    )
    monkeypatch.chdir(tmp_path)
    options = [*QUICK, "--trainer.callbacks=removing.Removing", "--trust=removing"]
    assert main(["fit", "--config", str(recipe), "--run.name=one", *options]) == 7
    assert "was removed, moved or taken over meanwhile" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "small" / "one").exists()


def test_the_row_of_a_step_is_there_before_its_checkpoint(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill right after a checkpoint loses no row; and no row is there twice."""
    rows: dict[int, list[str]] = {}
    save = AtomicCheckpointIO.save_checkpoint

    def saving(self: AtomicCheckpointIO, checkpoint: dict, path: Path, **options: Any) -> None:
        file = Path(path).parents[1] / "metrics.csv"
        rows[checkpoint["global_step"]] = [row["step"] for row in csv.DictReader(file.open())]
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", saving)
    run = small_run(recipe, *QUICK, "--trainer.max_steps=6", "--checkpoints.every=2", "--trainer.log_every_n_steps=2")
    assert rows == {2: ["2"], 4: ["2", "4"], 6: ["2", "4", "6"]}
    assert [row["step"] for row in csv.DictReader((run / "metrics.csv").open())] == ["2", "4", "6"]


def test_folders_of_runs_are_unique_and_stay_below_their_root(tmp_path: Path) -> None:
    folders = [new_run_folder(tmp_path, "r", "../../Évil: duck", "") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent == tmp_path / "r" for folder in folders)
    new_run_folder(tmp_path, "r", "", "named")
    with pytest.raises(ValueError, match="exists"):
        new_run_folder(tmp_path, "r", "", "named")
    assert slug("A  Yellow/duck!") == "a-yellow-duck"
    assert slug("...") == "run"
