"""`asdkit sweep`: who makes which run and on what, going on after failures and stops, and the tables."""

import csv
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asdkit.commands import sweep as sweeps
from asdkit.commands.main import main
from asdkit.commands.sweep import Share, Sweep, child_environment, plan, read_prompts, values
from asdkit.core.errors import UsageError
from asdkit.run import machine

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "2"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
STUB = """
import json, pathlib, signal, sys, time
run, prompt = pathlib.Path(sys.argv[1]), sys.argv[2]
run.mkdir(parents=True, exist_ok=True)
def report(status, **more):
    (run / "run.json").write_text(json.dumps({"status": status, "seconds": 2.5, "iterations": 7, **more}))
caught = []
if prompt == "waits":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: caught.append(number))
    report("running")
    (run / "ready").touch()
    while not caught:
        time.sleep(0.02)
    time.sleep(0.4)  # more would be counted
    report("interrupted")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.ckpt").touch()
    print("saved after", *map(int, caught))
    sys.exit(128 + caught[0])
elif prompt == "dies":
    signal.raise_signal(signal.SIGKILL)
elif prompt.startswith("code"):
    print("asdkit: no good", flush=True)
    print("  ", flush=True)
    report("failed")
    sys.exit(int(prompt[4:]))
elif prompt != "nothing":
    time.sleep(2 if prompt == "late" else 0)
    report("finished", metrics={prompt[:2]: 1.25})
"""
ONE = Share(0, 1, (None,), 1)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A recipe of which only its folder of runs is looked at, and prompts beside it."""
    (tmp_path / "my.yaml").write_text(f"run: {{root: {tmp_path / 'runs'}}}\n")
    return tmp_path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Runs are made by a small script; what would have been called is appended to the list."""
    called, real = [], Sweep.command

    def command(self: Sweep, prompt: str) -> list[str]:
        called.append(real(self, prompt))
        return [sys.executable, "-S", "-c", STUB, str(self.run_folder(prompt)), prompt]

    monkeypatch.setattr(Sweep, "command", command)
    for name in list(os.environ):
        if machine.is_launchers(name) or name == "CUDA_VISIBLE_DEVICES":
            monkeypatch.delenv(name)
    return called


def sweep(base: Path, *prompts: str, options: tuple[str, ...] = ()) -> Sweep:
    return Sweep(list(prompts), ["--config", str(base / "my.yaml"), *options], "list")


def rows(one: Sweep) -> dict[str, dict]:
    return {row["prompt"]: row for row in json.loads((one.folder / "sweep.json").read_text())}


# ---------------------------------------------------------------------------------------------- who does what


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


def test_prompts_are_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa red duck\n\n   \n# not this\n  a blue Öl  \r\na red duck\n--odd\n".encode())
    assert read_prompts(str(file)) == ["a red duck", "a blue Öl", "--odd"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert read_prompts("-") == ["one", "two"]
    for bad in (b"# none\n\n", b"\xff\xfe\x00", b"a\0b\n"):
        file.write_bytes(bad)
        with pytest.raises(UsageError, match="one prompt per line"):
            read_prompts(str(file))
    with pytest.raises(UsageError, match="can't be read"):
        read_prompts(str(tmp_path / "none.txt"))


def test_values_of_options() -> None:
    assert values(["--a", "1", "--b", "--a=2=3", "--ab", "4", "--a"], "--a") == ["1", "2=3", ""]


# ---------------------------------------------------------------------------------------------- names and places


def test_names_of_runs_are_stable_and_their_own(base: Path) -> None:
    one = sweep(base, "a red duck")
    assert one.run_folder("a red duck") == sweep(base, "else", "a red duck").run_folder("a red duck")
    assert one.run_folder("a red duck").parent == base / "runs" / "my" == one.folder.parent
    others = [one.run_folder("A RED duck!"), sweep(base, "x", options=("--seed", "1")).run_folder("a red duck")]
    (base / "my.yaml").write_text((base / "my.yaml").read_text() + "# another\n")
    others.append(sweep(base, "x").run_folder("a red duck"))
    names = [folder.name for folder in [one.run_folder("a red duck"), *others]]
    assert len(set(names)) == 4 and all(name.startswith("a-red-duck-") for name in names)
    evil = one.run_folder("../../etc/" + "x" * 300)
    assert evil.parent == base / "runs" / "my" and len(evil.name) < 60


def test_options_say_where_the_runs_go(base: Path) -> None:
    (base / "over.yaml").write_text("run: {recipe: named, name: ''}\ndata: {}\n")
    over = ("--config", str(base / "over.yaml"))
    assert sweep(base, "x", options=over).parent == base / "runs" / "named"
    assert sweep(base, "x", options=(*over, "--run.root", "a", "--run.root=b", "--run.recipe=c")).parent == Path("b/c")
    assert Sweep(["x"], ["-c", "gs3d"], "list").parent == Path("runs/gs3d")
    assert Sweep(["x"], ["--config=toybox/vae"], "list").parent == Path("runs/toybox-vae")
    (base / "my.yaml").write_text("run: nonsense")
    assert sweep(base, "x").parent == Path("runs/my")


def test_a_run_is_made_once_and_then_continued(base: Path) -> None:
    one = sweep(base, "a: duck", options=("--trust", "mine", "--trust=yours", "--seed=3"))
    run = one.run_folder("a: duck")
    made = one.command("a: duck")
    assert made[:5] == [sys.executable, "-P", "-m", "asdkit", "fit"] and made[5:11] == one.options[:6]
    places = [f"--run.root={base / 'runs'}", "--run.recipe=my", f"--run.name={run.name}"]
    assert made[-5:] == [*places, "--model.prompt", "a: duck"]
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    assert one.command("a: duck")[5:] == [str(run), "--trust=mine", "--trust=yours"]


# ---------------------------------------------------------------------------------------------- carrying it out


def test_a_sweep_goes_on_after_failures_and_writes_tables(
    base: Path, stub: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    one = sweep(base, "ok", "nothing", "code6", "dies", "code3", "fine")
    assert one.run(Share(0, 1, (None, None), 1)) == 1
    codes = {prompt: (row["status"], row["exit_code"], row["reason"]) for prompt, row in rows(one).items()}
    assert codes["ok"] == codes["fine"] == ("finished", 0, "")
    assert codes["code6"] == ("failed", 6, "asdkit: no good") and codes["code3"] == ("failed", 3, "asdkit: no good")
    assert codes["dies"][:2] == ("failed", 137) and codes["nothing"][:2] == ("failed", 1)
    assert list(codes) == one.prompts
    table = list(csv.DictReader((one.folder / "sweep.csv").open()))
    assert [(row["prompt"], row["ok"], row["fi"]) for row in table][::5] == [("ok", "1.25", ""), ("fine", "", "1.25")]
    assert table[0]["seconds"] == "2.5" and table[0]["iterations"] == "7"
    assert table[0]["folder"] == str(one.run_folder("ok"))
    out = capsys.readouterr().out
    assert "6 of 6 prompts, 2 at a time" in out and len([line for line in out.splitlines() if "'code6'" in line]) == 1
    assert f"exit code 6: asdkit: no good ({one.folder / one.run_folder('code6').name}.log)" in out
    assert "ok 1.25" in out and not list(base.rglob("*.tmp*"))


def test_started_again_it_does_what_is_left(base: Path, stub: list[list[str]]) -> None:
    one = sweep(base, "ok", "code4")
    assert one.run(ONE) == 4 and len(stub) == 2
    (one.run_folder("code4") / "run.json").unlink()
    assert sweep(base, "code4", "ok", "fine").run(ONE) == 4
    assert [call[-1] for call in stub[2:]] == ["code4", "fine"]
    assert rows(one)["ok"]["reason"] == "it was finished before" and rows(one)["ok"]["metrics"] == {"ok": 1.25}
    kept = list(one.parent.glob(f"{one.run_folder('code4').name}-before-*"))  # it had no checkpoint to go on from
    assert len(kept) == 1 and not (kept[0] / "run.json").exists()
    assert sweep(base, "ok", "fine").run(ONE) == 0


def test_ranks_share_the_prompts_and_one_table(base: Path, stub: list[list[str]]) -> None:
    prompts = ("p0", "p1", "p2", "p3", "p4")
    one = sweep(base, *prompts)
    assert one.run(Share(1, 3, (None,), 1)) == 0
    assert [call[-1] for call in stub] == ["p1", "p4"]
    assert [row["status"] for row in rows(one).values()] == ["waiting", "finished", "waiting", "waiting", "finished"]
    assert sweep(base, *prompts).run(Share(0, 3, (None,), 1)) == sweep(base, *prompts).run(Share(2, 3, (None,), 1)) == 0
    assert [call[-1] for call in stub] == ["p1", "p4", "p0", "p3", "p2"]
    assert {row["status"] for row in rows(one).values()} == {"finished"}


def test_whoever_writes_last_has_seen_all_records(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's record comes while this one writes the table: it is written again."""
    one = sweep(base, "a", "b")
    one.folder.mkdir(parents=True)
    record = {"prompt": "a", "status": "finished", "metrics": {}}
    real = sweeps.write_text

    def late(path: Path, text: str) -> None:
        real(path, text)
        real(one.folder / f"{one.run_folder('a').name}.json", json.dumps(record))

    monkeypatch.setattr(sweeps, "write_text", late)
    one.write_tables()
    assert rows(one)["a"] == record and rows(one)["b"]["status"] == "waiting"


def test_a_run_that_another_process_makes_is_left_alone(base: Path, stub: list[list[str]]) -> None:
    one = sweep(base, "ok", "fine")
    one.folder.mkdir(parents=True)
    with (one.folder / f"{one.run_folder('ok').name}.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert one.run(ONE) == 1
    assert "another process" in rows(one)["ok"]["reason"] and [call[-1] for call in stub] == ["fine"]
    assert one.run(ONE) == 0


def test_a_run_that_outlives_its_sweep_is_left_alone(base: Path, stub: list[list[str]]) -> None:
    """A sweep that was killed lets go of its files; the run still holds the lock."""
    one = sweep(base, "waits")
    one.folder.mkdir(parents=True)
    job = one._start("waits", None, 1)
    job.log.close()
    assert sweep(base, "waits").run(ONE) == 1 and "another process" in rows(one)["waits"]["reason"]
    until(one.run_folder("waits") / "ready")
    job.process.terminate()
    assert job.process.wait(30) == 143


def test_a_disk_that_is_full_ends_the_runs_with_the_sweep(
    base: Path, stub: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        until(one.run_folder("waits") / "ready")
        raise OSError(28, "No space left on device")

    one = sweep(base, "waits", "ok")
    monkeypatch.setattr(sweeps, "write_text", full)
    (base / "list.txt").write_text("waits\nok\n")
    assert main(["sweep", str(base / "list.txt"), "--config", str(base / "my.yaml"), "--jobs=2"]) == 7
    assert "No space left on device; started again, it goes on" in capsys.readouterr().err
    assert json.loads((one.run_folder("waits") / "run.json").read_text())["status"] == "interrupted"


def until(path: Path) -> None:
    deadline = time.monotonic() + 150
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_runs_which_save(base: Path, stub: list[list[str]], number: int, code: int) -> None:
    one = sweep(base, "waits", "ok")
    before = signal.getsignal(number)
    helper = os.fork()
    if helper == 0:  # a process that sends the signal when the run is there
        until(one.run_folder("waits") / "ready")
        os.kill(os.getppid(), number)
        os._exit(0)
    assert one.run(ONE) == code
    os.waitpid(helper, 0)
    assert signal.getsignal(number) == before
    found = rows(one)
    assert (found["waits"]["status"], found["waits"]["exit_code"]) == ("interrupted", code)
    assert found["waits"]["reason"] == f"saved after {int(number)}" and found["ok"]["status"] == "waiting"
    sweep(base, "waits").command("waits")  # the next start goes on with it
    assert len(stub) == 2 and stub[1][5:] == [str(one.run_folder("waits"))]


BAD = {
    "no prompts": (["none.txt", "--config", "gs3d"], "can't be read"),
    "no file": (["--config", "gs3d"], "PROMPTS"),
    "prompts last": (["--config", "gs3d", "p.txt"], "comes first"),
    "no recipe": (["p.txt"], "needs a recipe"),
    "unknown recipe": (["p.txt", "--config", "gs3dd"], "did you mean 'gs3d'?"),
    "two files": (["p.txt", "q.txt", "--config", "gs3d"], "is no run folder"),
    "only printing": (["p.txt", "--print_config"], "needs one file of prompts and a recipe"),
    "no jobs": (["p.txt", "--config", "gs3d", "--jobs=0"], "--jobs must be at least 1; got 0"),
    "jobs in words": (["p.txt", "--config", "gs3d", "--jobs", "two"], "invalid int value"),
    "a prompt": (["p.txt", "--config", "gs3d", "--model.prompt=x"], "--model.prompt is different for each run"),
    "a name": (["p.txt", "--config", "gs3d", "--run.name", "x"], "--run.name is different for each run"),
    "unwritable": (["p.txt", "--config", "gs3d", "--run.root=/dev/null/runs"], "can't be made"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    base: Path, stub: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, case: str
) -> None:
    monkeypatch.chdir(base)
    (base / "p.txt").write_text("a red duck\n")
    arguments, expected = BAD[case]
    assert main(["sweep", *arguments]) == 2
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1
    assert not stub and not (base / "runs").exists()


def test_the_command_line_arrives(
    base: Path, stub: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(base)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ok\nfine\n")))
    options = ["--config", "my.yaml", "--model.guidance", "SDS", "--model.source", "-a b", "--jo=3"]
    assert main(["sweep", "-", *options[:4], "--jobs", "2", *options[4:]]) == 0
    assert stub[0][5:13] == [*options, f"--run.root={base / 'runs'}"] and "2 at a time" in capsys.readouterr().out
    (base / "one.txt").write_text("ok\n")
    assert main(["sweep", "one.txt", *options, "--jobs=1"]) == 0 and len(stub) == 2  # it is finished
    capsys.readouterr()
    assert main(["sweep", "--help"]) == 0 and "--jobs N" in capsys.readouterr().out
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert main(["sweep", "-", *options]) == 2 and "give them in a file" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- real runs


@pytest.mark.slow
def test_real_runs_finish_fail_and_are_stopped(recipe: Path, tmp_path: Path) -> None:
    """One run ends, one fails, for a file is in its folder's place; a third one is stopped by SIGTERM."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red duck\na blue ball\n")
    options = ["--config", str(recipe), "--checkpoints.every=2", "--snapshots.every=1000"]
    command = [sys.executable, "-m", "asdkit", "sweep", str(prompts), *options]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "RANK": "0", "WORLD_SIZE": "1"}
    one = Sweep(["a red duck", "a blue ball"], options, "p")
    one.parent.mkdir(parents=True)
    one.run_folder("a blue ball").touch()
    done = subprocess.run(
        [*command, "--jobs", "2"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stdout + done.stderr
    found = rows(one)
    assert found["a red duck"]["status"] == "finished" and found["a red duck"]["iterations"] == 10
    report = json.loads((one.run_folder("a red duck") / "run.json").read_text())
    assert report["prompt"] == "a red duck" and found["a red duck"]["metrics"] == report["metrics"] != {}
    assert found["a blue ball"]["exit_code"] == 2 and "exists; choose another" in found["a blue ball"]["reason"]

    options.append("--trainer.max_steps=100000")
    long = Sweep(["a red duck", "a blue ball"], options, "p")
    process = subprocess.Popen([*command, options[-1]], env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
    until(long.run_folder("a red duck") / "checkpoints" / "last.ckpt")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 143
    assert [row["status"] for row in rows(long).values()] == ["interrupted", "waiting"]
    assert json.loads((long.run_folder("a red duck") / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_failure_on_one_rank_does_not_stop_the_others(base: Path) -> None:
    """torchrun would; the rank that is done first waits for the other."""
    script = base / "stubbed.py"
    script.write_text(
        "import os, sys\nfrom asdkit.commands.main import main\nfrom asdkit.commands.sweep import Sweep\n"
        f"STUB = {STUB!r}\n"
        "def command(self, prompt):\n"
        "    assert not [name for name in ('RANK', 'WORLD_SIZE') if name not in os.environ]\n"
        '    code = \'import os; assert not {"RANK", "MASTER_PORT"} & set(os.environ)\\n\' + STUB\n'
        "    return [sys.executable, '-S', '-c', code, str(self.run_folder(prompt)), prompt]\n"
        "Sweep.command = command\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (base / "list.txt").write_text("code3\nlate\nok\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "sweep", "list.txt", "--config", str(base / "my.yaml")],
        env=environment,
        cwd=base,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and "exitcode  : 3" in done.stderr, done.stderr
    assert done.stdout.count(" of 3 prompts, 1 at a time") == 2
    found = rows(sweep(base, "code3", "late", "ok"))
    assert [row["status"] for row in found.values()] == ["failed", "finished", "finished"]
