"""Runs side by side: who makes which and on what, going on after failures, stops and kills, exit codes, and tables."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.quick_fit import until, use_quick_fit

from asdkit.commands.main import main
from asdkit.core.errors import UsageError
from asdkit.run import machine, pool, tables
from asdkit.run.grid import Cell, Grid
from asdkit.run.pool import Pool, Share, child_environment, make_runs, plan

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "2"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
ONE = Share(0, 1, (None,), 1)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Runs are made by a quick program, outside of any launcher; the list is of the commands of `asdkit fit`."""
    monkeypatch.setattr(Grid, "command", Grid.command)  # put back afterwards
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in list(os.environ):
        if machine.is_launchers(name) or name == "CUDA_VISIBLE_DEVICES":
            monkeypatch.delenv(name)
    return use_quick_fit()


def grid(base: Path, *prompts: str) -> Grid:
    (base / "my.yaml").write_text(f"run: {{root: {base / 'runs'}}}\n")
    return Grid([Cell(prompt) for prompt in prompts], ["--config", str(base / "my.yaml")], "list")


def make(one: Grid, share: Share = ONE) -> int:
    one.folder.mkdir(parents=True, exist_ok=True)
    return Pool(one, share).run()


def rows(one: Grid) -> dict[str, dict]:
    return {row["prompt"]: row for row in json.loads((one.folder / "sweep.json").read_text())}


def run(one: Grid, prompt: str) -> Path:
    return one.run_folder(Cell(prompt))


@pytest.mark.parametrize(
    ("environment", "gpus", "cores", "jobs", "expected"),
    [
        ({}, [], 8, None, Share(0, 1, (None,), 8)),
        ({}, [], 8, 3, Share(0, 1, (None, None, None), 2)),
        ({}, [], 2, 5, Share(0, 1, (None,) * 5, 1)),
        ({}, ["0", "1"], 8, None, Share(0, 1, ("0", "1"), 4)),
        ({}, ["GPU-a", "3"], 9, 3, Share(0, 1, ("GPU-a", "3", "GPU-a"), 3)),
        ({}, ["0", "1", "2"], 8, 1, Share(0, 1, ("0",), 8)),
        (TORCHRUN, ["0", "1", "2", "3"], 8, None, Share(5, 8, ("1",), 8)),
        (TORCHRUN, [], 8, None, Share(5, 8, (None,), 8)),
        (SRUN, ["7"], 4, None, Share(2, 3, ("7",), 4)),
        (SRUN, ["0", "1"], 4, 2, Share(2, 3, ("0", "0"), 2)),
        (MPIRUN, ["0", "1"], 4, None, Share(1, 2, ("1",), 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, [], 4, None, Share(0, 1, (None,), 4)),  # no srun: all is its own
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, [], 4, None, Share(0, 1, (None,), 4)),
    ],
)
def test_every_process_knows_its_share(environment: dict, gpus, cores: int, jobs: int | None, expected: Share) -> None:
    assert plan(environment, gpus, cores, jobs) == expected


def test_runs_of_a_rank_do_not_join_its_group() -> None:
    own = {"PATH": "/bin", "HF_HOME": "/models", "SLURMISH": "1", "LOCAL_MODELS": "x", "ASDKIT_DEBUG": "1"}
    joined = own | TORCHRUN | SRUN | MPIRUN | {"MASTER_ADDR": "n1", "PMI_RANK": "0"}
    joined |= {"MASTER_PORT": "1", "NODE_RANK": "0", "GROUP_RANK": "0", "ROLE_RANK": "5", "PMIX_RANK": "1"}
    assert child_environment(joined, None, 3) == own | {"OMP_NUM_THREADS": "3"}
    own |= {"OMP_NUM_THREADS": "5"}
    assert child_environment(own, "2", 3) == own | {"CUDA_VISIBLE_DEVICES": "2"}


def test_others_go_on_after_failures(tmp_path: Path, called: list, capsys: pytest.CaptureFixture) -> None:
    one = grid(tmp_path, "ok", "nothing", "code6", "dies", "code3", "fine")
    assert make(one, Share(0, 1, (None, None), 1)) == 1
    codes = {prompt: (row["status"], row["exit_code"], row["reason"]) for prompt, row in rows(one).items()}
    assert list(codes) == [cell.prompt for cell in one.cells]
    assert codes["ok"] == codes["fine"] == ("finished", 0, "")
    assert codes["code6"] == ("diverged", 6, "asdkit: no good") and codes["code3"] == ("failed", 3, "asdkit: no good")
    assert codes["dies"][:2] == ("failed", 137) and codes["nothing"][:2] == ("failed", 1)
    table = list(csv.DictReader((one.folder / "sweep.csv").open()))
    assert [(row["prompt"], row["ok"], row["fi"]) for row in table][::5] == [("ok", "1.25", ""), ("fine", "", "1.25")]
    assert (table[0]["seconds"], table[0]["iterations"], table[0]["folder"]) == ("2.5", "7", str(run(one, "ok")))
    out = capsys.readouterr().out
    assert "6 of 6 runs, 2 at a time" in out and len([line for line in out.splitlines() if "'code6'" in line]) == 1
    assert f"exit code 6: asdkit: no good ({one.folder / run(one, 'code6').name}.log)" in out
    assert "ok 1.25" in out and not list(tmp_path.rglob("*.tmp*"))


def test_started_again_it_does_what_is_left(tmp_path: Path, called: list, capsys: pytest.CaptureFixture) -> None:
    one = grid(tmp_path, "ok", "code4")
    assert make(one) == 4 and len(called) == 2
    assert make(grid(tmp_path, "code4", "ok", "fine")) == 4
    assert [command[-1] for command in called[2:]] == ["code4", "fine"]
    assert rows(one)["ok"]["reason"] == "it was finished before" and rows(one)["ok"]["ok"] == 1.25
    kept = list(run(one, "code4").parent.glob(f"{run(one, 'code4').name}-before-*"))  # no checkpoint to go on from
    assert len(kept) == 1 and json.loads((kept[0] / "run.json").read_text())["status"] == "failed"
    assert make_runs(grid(tmp_path, "ok", "fine"), 10**12) == 0
    assert "2 of 2 runs, 2 at a time" in capsys.readouterr().out  # no more jobs than runs


def test_ranks_share_the_cells_and_one_table(tmp_path: Path, called: list) -> None:
    one = grid(tmp_path, "p0", "p1", "p2", "p3", "p4")
    assert make(one, Share(1, 3, (None,), 1)) == 0
    assert [command[-1] for command in called] == ["p1", "p4"]
    assert [row["status"] for row in rows(one).values()] == ["waiting", "finished", "waiting", "waiting", "finished"]
    assert make(one, Share(0, 3, (None,), 1)) == make(one, Share(2, 3, (None,), 1)) == 0
    assert [command[-1] for command in called] == ["p1", "p4", "p0", "p3", "p2"]
    assert {row["status"] for row in rows(one).values()} == {"finished"}


def test_a_run_that_another_process_makes_is_left_alone(tmp_path: Path, called: list) -> None:
    one = grid(tmp_path, "ok", "fine")
    one.folder.mkdir(parents=True)
    with (one.folder / f"{run(one, 'ok').name}.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert make(one) == 1
    assert "another process" in rows(one)["ok"]["reason"] and [command[-1] for command in called] == ["fine"]
    assert make(one) == 0


def test_a_run_that_outlives_its_killed_pool_is_left_alone(tmp_path: Path, called: list) -> None:
    """A process that was killed by SIGKILL lets go of its files; the run still holds the lock, until it ends."""
    one = grid(tmp_path, "waits", "ok")
    killed = os.fork()
    if killed == 0:
        make(one)
        os._exit(0)
    until(run(one, "waits") / "ready")
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    assert make(one) == 1 and "another process" in rows(one)["waits"]["reason"]
    assert rows(one)["ok"]["status"] == "finished"
    os.kill(int((run(one, "waits") / "ready").read_text()), signal.SIGTERM)
    until(run(one, "waits") / "checkpoints" / "last.ckpt")


def test_a_full_disk_ends_the_runs_with_the_pool(tmp_path: Path, called: list, monkeypatch, capsys) -> None:
    def full(path: Path, text: str) -> None:
        until(run(one, "waits") / "ready")
        raise OSError(28, "No space left on device", str(path))

    one = grid(tmp_path, "waits", "ok")
    monkeypatch.setattr(pool, "write_text", full)
    (tmp_path / "list.txt").write_text("waits\nok\n")
    assert main(["sweep", str(tmp_path / "list.txt"), *one.options, "--jobs=2"]) == 7
    assert "No space left on device; make room" in capsys.readouterr().err
    assert json.loads((run(one, "waits") / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_runs_which_save_and_go_on(tmp_path: Path, called: list, number: int, code: int) -> None:
    one, before = grid(tmp_path, "waits", "ok"), signal.getsignal(number)
    for _ in range(2):  # the second time it goes on from its checkpoint
        helper = os.fork()
        if helper == 0:  # a process that sends the signal when the run is there
            until(run(one, "waits") / "ready")
            os.kill(os.getppid(), number)
            os._exit(0)
        assert make(one) == code
        os.waitpid(helper, 0)
        (run(one, "waits") / "ready").unlink()
        assert signal.getsignal(number) == before
        assert (rows(one)["waits"]["status"], rows(one)["waits"]["exit_code"]) == ("interrupted", code)
        assert rows(one)["waits"]["reason"] == f"saved after {int(number)}" and rows(one)["ok"]["status"] == "waiting"
    assert called[1] == [str(run(one, "waits"))] and len(called) == 2


def test_what_can_not_be_started_is_one_sentence(tmp_path: Path, called: list) -> None:
    with pytest.raises(UsageError, match="--jobs must be at least 1; got 0"):
        make_runs(grid(tmp_path, "ok"), 0)
    with pytest.raises(NotADirectoryError):
        make_runs(Grid([Cell("ok")], ["--config", "gs3d"], "list", Path("/dev/null/runs")), None)
    assert not called


def test_a_failure_on_one_rank_does_not_stop_the_others(tmp_path: Path) -> None:
    """torchrun would; the rank that is done first waits for the other."""
    one = grid(tmp_path, "code3", "late", "ok")
    script = tmp_path / "quick.py"
    script.write_text(
        "import sys\nfrom asdkit.commands.main import main\nfrom support.quick_fit import until, use_quick_fit\n"
        "use_quick_fit()\nsys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "list.txt").write_text("code3\nlate\nok\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    place = {"env": environment, "cwd": tmp_path, "timeout": 200}
    done = subprocess.run([*torchrun, "sweep", "list.txt", *one.options], capture_output=True, text=True, **place)
    assert done.returncode == 1 and "exitcode  : 3" in done.stderr, done.stderr
    assert done.stdout.count(" of 3 runs, 1 at a time") == 2
    assert [row["status"] for row in rows(one).values()] == ["failed", "finished", "finished"]


@pytest.fixture
def filled(tmp_path: Path) -> Grid:
    cells = [Cell("a", {"seed": 0}), Cell("a", {"seed": 1}), Cell("b", {"seed": 0})]
    one = Grid(cells, ["--config", "gs3d"], "list", tmp_path)
    one.folder.mkdir(parents=True)
    return one


def finish(filled: Grid, cell: Cell, psnr: float = 25.61) -> dict:
    report = {"seconds": 12.5, "iterations": 7, "prior": "abc", "metrics": {"psnr": psnr}}
    filled.run_folder(cell).mkdir()
    (filled.run_folder(cell) / "run.json").write_text(json.dumps({"status": "finished", **report}))
    return report


def test_a_row_has_labels_what_was_recorded_and_metrics(filled: Grid) -> None:
    cell, failed, waiting = filled.cells
    report = finish(filled, cell)
    outcome = {"status": "finished", "exit_code": 0, "seconds": 3.0, "reason": ""}
    pool.record_path(filled, cell).write_text(json.dumps(outcome))
    metrics = report.pop("metrics")
    assert pool.row(filled, cell) == {
        "prompt": "a", "seed": 0, "folder": str(filled.run_folder(cell)), **outcome, **report, **metrics,
    }  # fmt: skip
    pool.record_path(filled, failed).write_text(json.dumps(outcome | {"status": "failed", "reason": "no good"}))
    pool.write_tables(filled)
    assert (filled.folder / "sweep.csv").read_text() == (
        "prompt,seed,status,exit_code,seconds,iterations,folder,reason,prior,psnr\n"
        f"a,0,finished,0,12.5,7,{filled.run_folder(cell)},,abc,25.61\n"
        f"a,1,failed,0,3.0,,{filled.run_folder(failed)},no good,,\n"
        f"b,0,waiting,,,,{filled.run_folder(waiting)},,,\n"
    )
    assert json.loads((filled.folder / "sweep.json").read_text()) == [pool.row(filled, cell) for cell in filled.cells]
    assert (filled.folder / "sweep.md").read_text().splitlines()[2:] == [
        "| a | 0 | finished | 12.5 | 25.6 |",
        "| a | 1 | failed | 3 |  |",
        "| b | 0 | waiting |  |  |",
    ]


def test_whoever_writes_last_has_seen_all_records(filled: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's record comes while this one writes the table: it is written again.

    A measure may be no number: NaN is never equal to itself, and the tables are done all the same.
    """
    real = pool.write_text

    def late(path: Path, text: str) -> None:
        real(path, text)
        real(pool.record_path(filled, filled.cells[1]), json.dumps({"status": "failed"}))

    finish(filled, filled.cells[0], psnr=float("nan"))
    monkeypatch.setattr(pool, "write_text", late)
    pool.write_tables(filled)
    statuses = [row["status"] for row in json.loads((filled.folder / "sweep.json").read_text())]
    assert statuses == ["waiting", "failed", "waiting"]
    assert "| a | 0 | waiting | 12.5 | nan |" in (filled.folder / "sweep.md").read_text()


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


def test_a_sheet_has_a_place_for_each_picture(filled: Grid, tmp_path: Path) -> None:
    for cell, size in zip(filled.cells[::2], ((32, 16), (32, 8)), strict=True):
        finish(filled, cell)
        Image.new("RGB", size, (255, 0, 0)).save(filled.run_folder(cell) / "contact.png")
    pool.write_contacts(filled)
    red = np.array(Image.open(filled.folder / "sweep.png"))[..., 1] == 0  # the rest is white
    assert red.shape == (16, 32) and red[:8, :16].all() and not red[:8, 16:].any()
    assert red[8:12, :16].all() and not red[12:].any() and not red[:, 16:].any()


def test_a_sheet_of_very_many_pictures_is_small(filled: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "run_folder", lambda self, cell: tmp_path)
    filled.cells = [Cell(str(number)) for number in range(32 * 32)]
    pool.write_contacts(filled)
    assert Image.open(filled.folder / "sweep.png").size == (32, 32)  # of no pictures
    Image.new("RGB", (64, 32), (255, 0, 0)).save(tmp_path / "contact.png")
    pool.write_contacts(filled)
    assert Image.open(filled.folder / "sweep.png").size == (32 * 16, 32 * 8)  # a quarter


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_smi", lambda *fields: [["0"], ["1"]])
    assert machine.gpus({}) == ["0", "1"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ["2", "GPU-ab"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": ""}) == machine.gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_the_driver_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_smi("index") == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\n[ "$*" = "--query-gpu=index,name --format=csv,noheader" ] && echo "0, A B" && echo "1, C"'
    )
    tool.chmod(0o755)
    assert machine.nvidia_smi("index", "name") == [["0", "A B"], ["1", "C"]]
    assert machine.nvidia_smi("other") == []  # it fails
