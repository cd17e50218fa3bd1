"""Runs side by side: who makes which and on what, going on after failures, stops and kills, and exit codes."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.quick_fit import until, use_quick_fit

from asdkit.commands.main import main
from asdkit.core.errors import UsageError
from asdkit.run import machine, pool
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
def test_every_process_knows_its_share(
    environment: dict, gpus: list[str], cores: int, jobs: int | None, expected: Share
) -> None:
    assert plan(environment, gpus, cores, jobs) == expected


def test_runs_of_a_rank_do_not_join_its_group() -> None:
    own = {"PATH": "/bin", "HF_HOME": "/models", "SLURMISH": "1", "LOCAL_MODELS": "x", "ASDKIT_DEBUG": "1"}
    joined = own | TORCHRUN | SRUN | MPIRUN | {"MASTER_ADDR": "n1", "PMI_RANK": "0"}
    joined |= {"MASTER_PORT": "1", "NODE_RANK": "0", "GROUP_RANK": "0", "ROLE_RANK": "5", "PMIX_RANK": "1"}
    assert child_environment(joined, None, 3) == own | {"OMP_NUM_THREADS": "3"}
    assert child_environment(own | {"OMP_NUM_THREADS": "5"}, "2", 3) == own | {
        "OMP_NUM_THREADS": "5",
        "CUDA_VISIBLE_DEVICES": "2",
    }


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


def test_started_again_it_does_what_is_left(tmp_path: Path, called: list) -> None:
    one = grid(tmp_path, "ok", "code4")
    assert make(one) == 4 and len(called) == 2
    assert make(grid(tmp_path, "code4", "ok", "fine")) == 4
    assert [command[-1] for command in called[2:]] == ["code4", "fine"]
    assert rows(one)["ok"]["reason"] == "it was finished before" and rows(one)["ok"]["ok"] == 1.25
    kept = list(run(one, "code4").parent.glob(f"{run(one, 'code4').name}-before-*"))  # no checkpoint to go on from
    assert len(kept) == 1 and json.loads((kept[0] / "run.json").read_text())["status"] == "failed"
    assert make(grid(tmp_path, "ok", "fine")) == 0


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
    holder = int((run(one, "waits") / "ready").read_text())
    os.kill(holder, signal.SIGTERM)
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


def test_there_are_no_more_jobs_than_runs(tmp_path: Path, called: list, capsys: pytest.CaptureFixture) -> None:
    assert make_runs(grid(tmp_path, "ok"), 10**12) == 0
    assert "1 of 1 runs, 1 at a time" in capsys.readouterr().out


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
    done = subprocess.run(
        [*torchrun, "sweep", "list.txt", *one.options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1 and "exitcode  : 3" in done.stderr, done.stderr
    assert done.stdout.count(" of 3 runs, 1 at a time") == 2
    assert [row["status"] for row in rows(one).values()] == ["failed", "finished", "finished"]
