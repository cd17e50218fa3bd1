"""What a run leaves behind, what test, validate and predict make of it, its loggers, and whose folder it is."""

import csv
import errno
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from support.forked import Forked, wait_for
from support.recipe import small_run, write_recipe

from asdkit.commands.main import main
from asdkit.core.errors import CannotWrite
from asdkit.core.text import slug
from asdkit.formats.splat_files import read_splats
from asdkit.run.checkpoints import AtomicCheckpointIO
from asdkit.run.grid import Cell, Grid
from asdkit.run.pool import record_path, row, write_contacts, write_tables
from asdkit.run.run_folder import RunLock, new_run_folder, peak_memory
from asdkit.run.side_files import read_facts

QUICK = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]", "--data.views_per_step=1")


def test_a_finished_run_is_complete(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    run = small_run(recipe, "--trainer.callbacks+=asdkit.StabilityJudge")
    report = json.loads((run / "run.json").read_text())
    assert report["status"] == "finished"
    assert (report["iterations"], report["seed"], report["prompt"]) == (10, 0, "a red duck")
    assert len(report["prior"]) == 12 and report["versions"]["torch"] and report["seconds"] > 0
    assert {"psnr", "iou", "azimuth", "movement", "structure"} <= set(report["metrics"])
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["prompt"] == "a red duck"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {row["prior"] for row in rows} == {report["prior"]}
    assert [row["step"] for row in rows if row["discriminator_loss"]] == [str(step) for step in range(1, 11)]
    judged = [(row["step"], float(row["psnr"])) for row in rows if row["psnr"]]
    assert judged == [("10", pytest.approx(report["metrics"]["psnr"]))]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "step-000010.ckpt"]
    assert sorted(int(path.stem.removeprefix("step-")) for path in (run / "snapshots").iterdir()) == [1, 2, 4, 5, 10]
    assert Image.open(run / "snapshots" / "step-000010.png").size == (4 * 16 * 12, 4 * 16 * 12)
    assert Image.open(run / "contact.png").size == (4 * 16, 2 * 16)
    assert len(read_splats(run / "splats.ply").means) > 60
    page = (run / "viewer.html").read_text()
    assert "a red duck" in page and '"background": [0.85, 0.85, 0.85]' in page
    text = (run / "report.html").read_text()
    assert 'href="viewer.html"' in text and "PSNR" in text and "snapshots/step-000005.png" in text
    assert report["peak_mb"]["rss"] == pytest.approx(peak_memory()["rss"] / 1e6, rel=0.2)
    assert list(run.glob("orbit.*")) and (run / "progress.png").is_file()
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


def test_other_words_are_named_and_the_orbit_is_webp_without_the_video_extra(recipe, capsys, monkeypatch) -> None:
    """Of words that the toybox doesn't know there is no truth."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    run = small_run(recipe, "--trainer.max_steps=1", "--model.prompt", "a red corgi")
    err = capsys.readouterr().err
    assert "never seen 'corgi'" in err and "seen &#39;corgi&#39;" in (run / "report.html").read_text()
    assert "'a red corgi' is not of the toybox" in err
    assert "psnr" not in json.loads((run / "run.json").read_text())["metrics"]
    assert Image.open(run / "orbit.webp").n_frames == 3


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
    assert slug("A  Yellow/duck!") == "a-yellow-duck" and slug("...") == "run"


def test_the_second_is_refused_while_the_first_lives_and_a_kill_lets_go(tmp_path: Path) -> None:
    """Also while the first is stopped."""

    def hold() -> int:
        lock = RunLock(tmp_path)
        time.sleep(600)
        return int(lock.is_held())

    (tmp_path / "run.lock").write_text("what an earlier process has left")
    first = Forked(hold, tmp_path / "log")
    wait_for(lambda: str(first.pid) in (tmp_path / "run.lock").read_text())
    for signum in (signal.SIGSTOP, signal.SIGCONT):
        first.send(signum)
        with pytest.raises(ValueError, match=f"Process {first.pid} on .* is at work on {tmp_path}; wait for its end"):
            RunLock(tmp_path)
    first.send(signal.SIGKILL)
    wait_for(first.has_ended)  # nobody has asked for its exit code yet, so the system still knows it
    second = RunLock(tmp_path)
    assert (tmp_path / "run.lock").read_text().startswith(f"Process {os.getpid()} on ")
    first.wait()
    second.check()
    second.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_who_has_opened_the_file_just_before_it_is_removed_takes_the_new_one(tmp_path: Path, monkeypatch) -> None:
    first, open_file = RunLock(tmp_path), Path.open

    def opened(self: Path, *how: object, **rest: object) -> object:
        file = open_file(self, *how, **rest)
        monkeypatch.setattr(Path, "open", open_file)
        first.release()
        return file

    monkeypatch.setattr(Path, "open", opened)
    second = RunLock(tmp_path)
    assert second.is_held()
    with pytest.raises(ValueError, match=f"Process {os.getpid()} on .* is at work"):
        RunLock(tmp_path)


MEANWHILE: dict[str, Callable[[Path], object]] = {
    "removed": shutil.rmtree,
    "moved": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "replaced": lambda folder: (shutil.rmtree(folder), folder.mkdir(), (folder / "run.lock").write_text("x")),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_who_has_lost_its_folder_says_so_and_removes_nothing(tmp_path: Path, meanwhile: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = RunLock(folder)
    MEANWHILE[meanwhile](folder)
    with pytest.raises(CannotWrite, match="was removed, moved or taken over meanwhile"):
        lock.check()
    lock.release()
    assert (folder / "run.lock").exists() == (meanwhile == "replaced")


def test_a_file_system_without_locks_is_told_and_refuses_nobody(tmp_path: Path, monkeypatch, caplog) -> None:
    def without_locks(*args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    for lock in (RunLock(tmp_path), RunLock(tmp_path)):
        lock.check()
    (sentence, _) = caplog.messages
    assert sentence.startswith(f"{tmp_path / 'run.lock'} can't be locked (Function not implemented): start no second")


HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
LOGGED = (*QUICK[1:], "--trainer.max_steps=2")


@pytest.fixture(scope="module")
def logged(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two loggers; with one where tensorboard is not installed."""
    names = "csv,tensorboard" if HAS_TENSORBOARD else "csv"
    return small_run(write_recipe(tmp_path_factory.mktemp("logged"), tiny_folder), *LOGGED, f"--logger={names}")


def test_a_csv_has_the_runs_numbers_and_hyperparameters(logged: Path) -> None:
    """Lightning counts batches from 0."""
    own, further = (list(csv.DictReader(path.open())) for path in (logged / "metrics.csv", logged / "csv/metrics.csv"))
    assert [float(row["residual_norm"]) for row in further] == [float(row["residual_norm"]) for row in own]
    assert [int(row["step"]) for row in further] == [0, 1] and [int(row["step"]) for row in own] == [1, 2]
    assert "a red duck" in (logged / "csv" / "hparams.yaml").read_text()
    assert yaml.safe_load((logged / "config.yaml").read_text())["logger"]["names"][0] == "csv"


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="needs tensorboard")
def test_tensorboard_has_the_pictures_too(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("snapshot")] == [1, 2]
    assert [event.step for event in events.Images("views")] == [2]
    own = [float(row["residual_norm"]) for row in csv.DictReader((logged / "metrics.csv").open())]
    assert [event.value for event in events.Scalars("residual_norm")] == pytest.approx(own)
    assert "a red duck" in str(events.PluginTagToContent("hparams"))


@pytest.mark.parametrize(("name", "code"), [("tensorboard", 3), ("wandb", 3), ("tensorbord", 2)])
def test_a_logger_that_is_not_there_is_said_before_anything_is_made(recipe, refused, monkeypatch, name, code) -> None:
    """Its package is missing, or nobody knows it."""
    monkeypatch.setitem(sys.modules, name, None)
    sentence = refused("fit", "--config", recipe, *LOGGED, "--logger", name, code=code)
    assert (f"This needs {name}: " if code == 3 else "tensorboard") in sentence
    assert not (recipe.parent / "runs").exists()
