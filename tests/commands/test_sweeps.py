"""`asdkit sweep` and `compare`: what they refuse, real runs that finish, fail, are stopped and go on, and means."""

import io
import json
import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.forked import Forked, fork_runs, kill_at_a_checkpoint, stop_at_the_first_checkpoint

from asdkit.commands.main import main
from asdkit.core.errors import UsageError
from asdkit.formats.prompts import read_prompts
from asdkit.run import comparison, machine
from asdkit.run.comparison import Compared
from asdkit.run.grid import Cell, Grid


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Grid, int | None]]:
    """The grids that would be made, and how many runs at a time; prompts and a recipe are in the working directory."""
    made: list[tuple[Grid, int | None]] = []
    monkeypatch.setattr("asdkit.commands.sweep.make_runs", lambda *call: made.append(call) or 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red duck\na blue ball\n")
    (tmp_path / "made" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "made" / name).write_text("run: {}\n")
    (tmp_path / "my.yaml").write_text(f"run: {{root: {tmp_path / 'runs'}}}\n")
    for name in list(os.environ):
        if machine.is_launchers(name):
            monkeypatch.delenv(name)
    return made


def test_prompts_are_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(
        "\ufeffa red duck\n\n   \n# not this\n  a blue Öl  \r\na red duck\n--odd\n\\# 1e3\n& ?\r1e3\na\u2028b".encode()
    )
    assert read_prompts(str(file)) == ["a red duck", "a blue Öl", "--odd", "# 1e3", "& ?", "1e3", "a\u2028b"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert read_prompts("-") == ["one", "two"]
    monkeypatch.setattr("sys.stdin", None)  # closed
    assert main(["sweep", "-", "--config", "gs3d"]) == 2
    for bad in (b"# none\n\n", b"\xff\xfe\x00", b"a\0b\n"):
        file.write_bytes(bad)
        with pytest.raises(UsageError, match="one prompt per line"):
            read_prompts(str(file))
    with pytest.raises(FileNotFoundError):
        read_prompts(str(tmp_path / "none.txt"))


BAD = {
    "sweep --config gs3d": "PROMPTS",
    "sweep --config gs3d p.txt": "comes first",
    "sweep p.txt": "needs a recipe",
    "sweep p.txt --config gs3dd": "did you mean 'gs3d'?",
    "sweep p.txt q.txt --config gs3d": "is no run folder",
    "sweep p.txt made": "there is a run folder among the options",
    "sweep p.txt --config gs3d --vary=model.gidance.scale=3,4": "did you mean --model.guid",
    "sweep p.txt --print_config": "no recipe among the options",
    "sweep p.txt --config gs3d --vary run.name=a,b": "--run.name is different for each run",
    "sweep p.txt --config gs3d --seeds 1000000000": "--seeds must be within [1, 10000]",
    "sweep p.txt --config gs3d --vary model.seed": "key=value,value,...; got 'model.seed'",
    "sweep p.txt --config gs3d --seeds=0": "--seeds must be within [1, 10000]; got 0",
    "sweep p.txt --config gs3d --seeds=2 --model.seed=3": "--model.seed is different",
    "sweep p.txt --config gs3d --seeds=2 --vary=seed=3,4": "--seed is different",
    "sweep p.txt --config gs3d --vary=config=image2d/vds": "did you mean 'image2d/vsd'?",
    "sweep p.txt --config gs3d --jobs two": "invalid int value",
    "sweep p.txt --config gs3d --model.prompt=x": "--model.prompt is different for each run",
    "sweep p.txt --config gs3d --run.name x": "--run.name is different for each run",
    "compare": "name runs that exist, or --methods",
    "compare a --film=0": "--film must be within [16, 1024]; got 0",
    "compare a --methods=ASD": "name runs that exist, or --methods",
    "compare a --model.seed=3": "these exist; leave it out",
    "compare a --prompts=p.txt": "name runs that exist, or --methods",
    "compare --prompts=p.txt --config gs3d": "--methods A,B needs",
    "compare --methods=, --prompts=p.txt --config gs3d": "--methods A,B needs",
    "compare --methods=ASD,VDS --prompts=p.txt --config gs3d": "no class VDS; did you mean VSD?",
    "compare --methods=ASD --prompts=p.txt --config gs3d --seeds=0": "--seeds must be within",
    "compare a": "a is no folder of a finished run",
    "compare --methods=ASD --config gs3d": "needs --prompts FILE",
    "compare --methods=ASD --prompts=p.txt": "--config RECIPE",
    "compare --methods=ASD --prompts=p.txt --config gs3d --model.seed=2": "--model.seed is different",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence(calls: list, refused: Callable, line: str) -> None:
    assert BAD[line] in refused(*line.split())
    assert not calls and not Path("runs").exists()


def test_the_command_line_arrives(calls: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ok\nfine\n")))
    options = ["--config", "my.yaml", "--model.guidance", "SDS", "--model.source", "-a b", "--data.some=3"]
    assert main(["sweep", "-", *options[:4], "--jobs", "2", *options[4:]]) == 3  # what the runs have ended with
    [(grid, jobs)] = calls
    assert grid.cells == [Cell("ok", {}, []), Cell("fine", {}, [])] and grid.options == options and jobs == 2
    assert main(["sweep", "--help"]) == 0 and "--jobs N" in capsys.readouterr().out
    for name, value in {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}.items():
        monkeypatch.setenv(name, value)
    assert main(["sweep", "-", *options]) == 2 and "give them in a file" in capsys.readouterr().err


def test_options_and_seeds_vary(calls: list) -> None:
    vary = ["--vary", "model.guidance.scale=3, 7.5", "--vary=--model.guidance=SDS,VSD", "--seeds", "2"]
    main(["sweep", "p.txt", "--config", "my.yaml", *vary])
    [(grid, jobs)] = calls
    assert jobs is None and grid.options == ["--config", "my.yaml"] and len(grid.cells) == 2 * 2 * 2 * 2
    assert grid.cells[-1] == Cell(
        "a blue ball",
        {"model.guidance.scale": "7.5", "model.guidance": "VSD", "seed": "1"},
        ["--model.guidance.scale=7.5", "--model.guidance=VSD", "--model.seed=1"],
    )
    assert len({grid.run_folder(cell) for cell in grid.cells}) == 16
    together = ["--vary=model.guidance=ASD,ReleasedASD", "--vary=model.guidance.gamma=-0.5,-0.6"]  # SDS has none
    assert main(["sweep", "p.txt", "--config", "image2d", "--model.guidance=SDS", *together]) == 3
    vary = ["--vary=model.cfg.interval=[0.2, 5],[0,1]", "--vary=model.cfg.interval=null", "--trust=json"]
    main(["sweep", "p.txt", "--config", "my.yaml", *vary])
    grid, _ = calls[-1]
    values = ("[0.2, 5]", "[0,1]", "null")
    assert [cell.options for cell in grid.cells[::2]] == [[f"--model.cfg.interval={value}"] for value in values]
    assert "--trust=json" in grid.options


def test_real_runs_finish_fail_are_stopped_and_go_on(recipe: Path, tmp_path: Path, monkeypatch) -> None:
    """One run ends, one fails, for a file is in its folder's place; one is stopped by SIGTERM and ends later.

    They are forks, whose commands tests/run/test_grid.py holds; those of tests/run/test_pool.py are started anew.
    """
    prompts = ["a red duck with a long story that no folder's name can hold", "a blue ball"]
    (tmp_path / "p.txt").write_text("\n".join(prompts))
    monkeypatch.chdir(tmp_path)
    fork_runs(monkeypatch)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    options = ["--config", str(recipe), "--checkpoints.every=2", "--snapshots.every=1000", "--trainer.max_steps=4"]

    grid = Grid([Cell(prompt) for prompt in prompts], options, "p")
    grid.folder.mkdir(parents=True)
    grid.run_folder(grid.cells[1]).touch()
    assert main(["sweep", "p.txt", *options, "--jobs=2"]) == 2
    duck, ball = json.loads((grid.folder / "sweep.json").read_text())
    report = grid.report(grid.cells[0])
    assert duck["status"] == "finished" and duck["iterations"] == 4 and report["prompt"] == prompts[0]
    assert duck == duck | report["metrics"] and report["metrics"]
    assert ball["exit_code"] == 2 and "exists; choose another" in ball["reason"]

    options[-1] = "--trainer.max_steps=5"
    (tmp_path / "p.txt").write_text(prompts[0])
    cell = Cell(prompts[0])
    grid = Grid([cell], options, "p")
    with monkeypatch.context() as first:
        stop_at_the_first_checkpoint(first)
        assert main(["sweep", "p.txt", *options]) == 143
    [row] = json.loads((grid.folder / "sweep.json").read_text())
    assert row["status"] == grid.report(cell)["status"] == "interrupted" and grid.report(cell)["iterations"] == 3
    assert main(["sweep", "p.txt", *options]) == 0
    [row] = json.loads((grid.folder / "sweep.json").read_text())
    assert (row["status"], row["iterations"]) == ("finished", 5)
    folder = grid.run_folder(cell)
    assert not list(folder.parent.glob(f"{folder.name}-before-*"))  # it went on, and was not made anew


def judged(folder: Path, **metrics: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "seconds": 60, "metrics": metrics}))
    return folder


def test_means_and_differences(tmp_path: Path) -> None:
    """Two methods on three prompts, of which one method has finished two: by the textbook's formulas."""
    psnr = {"ASD": [20.0, 22.0, 27.0], "SDS": [19.0, 20.0]}
    runs = [
        Compared(method, f"prompt {i}", judged(tmp_path / f"{method}{i}", psnr=value))
        for method, values in psnr.items()
        for i, value in enumerate(values)
    ]
    (tmp_path / "SDS1" / "test.json").write_text(json.dumps({"metrics": {"clip": 0.25}}))
    assert comparison.means(runs).splitlines()[2:] == [
        f"| ASD | 3 | 60 ± 0 | 23 ± {13**0.5 / 3**0.5:.3g} |  |",  # variance ((3^2 + 1^2 + 4^2) / 2 = 13
        "| SDS | 2 | 60 ± 0 | 19.5 ± 0.5 | 0.25 |",
    ]
    assert statistics.stdev([-1, -2]) / 2**0.5 == pytest.approx(0.5)
    assert comparison.differences(runs).splitlines()[2:] == ["| SDS - ASD | 2 | 0 ± 0 | -1.5 ± 0.5 |"]
    alone = [Compared(run.run.name, "", run.run) for run in runs[:1]]
    assert comparison.differences(alone) == "" and "| ASD0 | 1 | 60 | 20 |" in comparison.means(alone)


@pytest.mark.slow
def test_methods_on_prompts_and_seeds(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two methods, a prompt, two seeds, killed in between; called again, no run is made anew; then runs as such."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red duck\n")
    words = ["compare", "--methods", "ASD,SDS", "--prompts=p.txt", "--seeds=2", "--config", str(recipe)]
    words += ["--trainer.max_steps=2", "--snapshots.every=0", "--data.orbit.views=2", "--data.size=8"]
    with monkeypatch.context() as first:
        kill_at_a_checkpoint(first, lambda: True)
        assert Forked(lambda: main(words), tmp_path / "log").wait() == -signal.SIGKILL
    assert len(list((tmp_path / "runs").rglob("last.ckpt"))) == 1 and not list((tmp_path / "runs").rglob("compare.md"))
    assert main(words) == 0 and not list((tmp_path / "runs").rglob("*-before-*"))
    folder = next((tmp_path / "runs").rglob("compare.md")).parent
    text = (folder / "compare.md").read_text()
    assert "SDS - ASD | 2 |" in text and "\n| SDS | a red duck 1 | " in text
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["label"], row["seed"]) for row in rows] == [("ASD", 0), ("ASD", 1), ("SDS", 0), ("SDS", 1)]
    assert {"psnr", "iou"} <= rows[0]["metrics"].keys()
    assert Image.open(folder / "compare.png").size == (2 * 192, 2 * 192)
    assert Image.open(folder / "curves.png").width > 1000
    ended = {file: file.stat().st_mtime_ns for file in folder.parent.rglob("run.json")}
    assert main(words) == 0 and ended == {file: file.stat().st_mtime_ns for file in folder.parent.rglob("run.json")}
    capsys.readouterr()
    runs = [row["folder"] for row in rows[1:3]]
    assert main(["compare", *runs, "--out", "side", "--film=16"]) == 0
    assert f"| {Path(runs[0]).name} | 1 |" in capsys.readouterr().out
    assert Image.open("side/compare.png").size == (192, 2 * 192)
    film = Image.open("side/compare.webp")
    assert film.size == (32, 16) and film.n_frames > 10


def test_runs_that_have_logged_nothing_have_no_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    comparison.draw_curves([Compared("ASD", "", judged(tmp_path / "run"))], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 1000
