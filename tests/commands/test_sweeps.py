"""`asdkit sweep`: its prompts and options, what it refuses, and real runs that finish, fail, are stopped and go on."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked import fork_runs, stop_at_the_first_checkpoint

from asdkit.commands.main import main
from asdkit.core.errors import UsageError
from asdkit.formats.prompts import read_prompts
from asdkit.run import machine
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
    "no prompts": (["none.txt", "--config", "gs3d"], "none.txt can't be opened"),
    "no file": (["--config", "gs3d"], "PROMPTS"),
    "prompts last": (["--config", "gs3d", "p.txt"], "comes first"),
    "no recipe": (["p.txt"], "needs a recipe"),
    "unknown recipe": (["p.txt", "--config", "gs3dd"], "did you mean 'gs3d'?"),
    "two files": (["p.txt", "q.txt", "--config", "gs3d"], "is no run folder"),
    "a run folder": (["p.txt", "made"], "there is a run folder among the options"),
    "unknown, varied": (["p.txt", "--config", "gs3d", "--vary=model.gidance.scale=3,4"], "did you mean --model.guid"),
    "only printing": (["p.txt", "--print_config"], "no recipe among the options"),
    "a run": (["p.txt", "--config", "gs3d", "--vary", "run.name=a,b"], "--run.name is different for each run"),
    "seeds without end": (["p.txt", "--config", "gs3d", "--seeds", str(10**9)], "--seeds must be within [1, 10000]"),
    "nothing varies": (["p.txt", "--config", "gs3d", "--vary", "model.seed"], "key=value,value,...; got 'model.seed'"),
    "no seeds": (["p.txt", "--config", "gs3d", "--seeds=0"], "--seeds must be within [1, 10000]; got 0"),
    "two seeds": (["p.txt", "--config", "gs3d", "--seeds=2", "--model.seed=3"], "--model.seed is different"),
    "a short seed": (["p.txt", "--config", "gs3d", "--seeds=2", "--vary=seed=3,4"], "--seed is different"),
    "unknown overlay": (["p.txt", "--config", "gs3d", "--vary=config=image2d/vds"], "did you mean 'image2d/vsd'?"),
    "jobs in words": (["p.txt", "--config", "gs3d", "--jobs", "two"], "invalid int value"),
    "a prompt": (["p.txt", "--config", "gs3d", "--model.prompt=x"], "--model.prompt is different for each run"),
    "a name": (["p.txt", "--config", "gs3d", "--run.name", "x"], "--run.name is different for each run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(calls: list, refused: Callable, case: str) -> None:
    arguments, expected = BAD[case]
    assert expected in refused("sweep", *arguments)
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
    calls.clear()
    together = ["--vary=model.guidance=ASD,ReleasedASD", "--vary=model.guidance.gamma=-0.5,-0.6"]  # SDS has none
    assert main(["sweep", "p.txt", "--config", "image2d", "--model.guidance=SDS", *together]) == 3
    calls.clear()
    vary = ["--vary=model.cfg.interval=[0.2, 5],[0,1]", "--vary=model.cfg.interval=null", "--trust=json"]
    main(["sweep", "p.txt", "--config", "my.yaml", *vary])
    [(grid, _)] = calls
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
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    options = ["--config", str(recipe), "--checkpoints.every=2", "--snapshots.every=1000", "--trainer.max_steps=4"]

    def rows(grid: Grid) -> list[dict]:
        return json.loads((grid.folder / "sweep.json").read_text())

    grid = Grid([Cell(prompt) for prompt in prompts], options, "p")
    grid.folder.mkdir(parents=True)
    grid.run_folder(grid.cells[1]).touch()
    assert main(["sweep", "p.txt", *options, "--jobs=2"]) == 2
    duck, ball = rows(grid)
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
    assert rows(grid)[0]["status"] == grid.report(cell)["status"] == "interrupted"
    assert grid.report(cell)["iterations"] == 3
    assert main(["sweep", "p.txt", *options]) == 0
    assert rows(grid)[0]["status"] == "finished" and rows(grid)[0]["iterations"] == 5
    folder = grid.run_folder(cell)
    assert not list(folder.parent.glob(f"{folder.name}-before-*"))  # it went on, and was not made anew
