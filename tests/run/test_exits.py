"""How runs end: exit codes by real signals and real full disks in real processes, and what is left of the run."""

import errno
import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from support.forked import Forked, wait_for
from support.recipe import small_run, write_recipe
from support.resuming import last
from support.two import free_port

from asdkit import Pretrained
from asdkit.commands.main import main
from asdkit.core.errors import CannotWrite, Diverged, Interrupted
from asdkit.core.foreign import raised_in_process
from asdkit.core.optional import require_package
from asdkit.run.checkpoints import is_whole
from asdkit.run.exits import Signals, exit_code, sentence
from asdkit.run.guard import Guard, _Verdict

OPTIONS = ("--data.views_per_step=1", "--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]")
OPTIONS += ("--checkpoints.every=2",)
LONG = "--trainer.max_steps=100000"


@pytest.fixture(scope="module", autouse=True)
def warm(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything is imported before processes fork off."""
    small_run(write_recipe(tmp_path_factory.mktemp("warm"), tiny_folder), *OPTIONS, "--trainer.max_steps=1")


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    Forked.end_all()


def process(recipe: Path, *options: str, name: str = "one", run: Path | None = None, **environment: str) -> Forked:
    """A run of its own, or one that goes on in its folder."""
    start = ["--config", str(recipe), *OPTIONS, *([f"--run.name={name}"] if name else [])]
    arguments = ["fit", *([str(run)] if run else start), *options]
    arguments += ["--trust=ending_parts"] if any("ending_parts" in option for option in options) else []
    log = recipe.parent / f"{name}{environment.get('RANK', '')}.log"
    return Forked(lambda: main(arguments), log, environment)


def folder(recipe: Path, name: str = "one") -> Path:
    return recipe.parent / "runs" / "small" / name


def report(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def started(child: Forked, run: Path) -> None:
    wait_for(lambda: (run / "checkpoints" / "last.ckpt").is_file() or child.has_ended())
    assert not child.has_ended(), child.text()


def test_ctrl_c_saves_the_step_and_ends_with_its_code(recipe: Path) -> None:
    """The other signals are those of the next tests: of two processes, of a preempted job, of a terminal."""
    child, run = process(recipe, LONG), folder(recipe)
    started(child, run)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    written = report(run)
    assert (written["status"], written["exit_code"]) == ("interrupted", 130)
    assert written["iterations"] == last(run)["global_step"] > 1
    assert not (run / "run.lock").exists()
    assert "Stopped by SIGINT." in child.text() and f"asdkit fit {run}" in written["reason"]
    assert len(list((run / "checkpoints").iterdir())) == 2 and "Traceback" not in child.text()
    assert f"It was stopped at step {written['iterations']} of" in (run / "report.html").read_text()
    assert (run / "contact.png").is_file() and (run / "splats.ply").is_file() and list(run.glob("orbit.*"))


def test_a_signal_before_training_ends_at_once(recipe: Path, parts: None) -> None:
    child = process(recipe, "--model.guidance=ending_parts.Slow")
    wait_for(lambda: "setting up" in child.text())
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    assert report(folder(recipe))["status"] == "interrupted"


def test_a_second_ctrl_c_quits_at_once(recipe: Path, parts: None) -> None:
    child = process(recipe, "--model.guidance=ending_parts.Stuck")
    wait_for(lambda: "stepping" in child.text())
    child.send(signal.SIGINT)
    wait_for(lambda: "Ctrl-C again quits" in child.text())
    child.send(signal.SIGTERM)  # schedulers send it more than once: that is no reason to lose the step
    time.sleep(0.2)
    assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert not folder(recipe).joinpath("checkpoints").exists()


def group() -> dict[str, str]:
    """What torchrun tells two processes."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return shared | {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}


def ranks(recipe: Path, *options: str, name: str = "", run: Path | None = None) -> list[Forked]:
    """Two processes as torchrun starts them."""
    ddp, own = ("--trainer.devices=2", "--trainer.strategy=ddp", *options), group()
    return [process(recipe, *ddp, name=name, run=run, **own, RANK=str(r), LOCAL_RANK=str(r)) for r in (0, 1)]


def test_two_processes_stop_at_the_same_step(recipe: Path) -> None:
    """Both are told; a test below tells one alone."""
    children = ranks(recipe, LONG)
    runs = recipe.parent / "runs" / "small"
    wait_for(lambda: list(runs.glob("*/checkpoints/last.ckpt")))
    for child, signum in zip(children, (signal.SIGTERM, signal.SIGUSR1), strict=True):
        child.send(signum)
    assert [child.wait() for child in children] == [143, 143]
    (run,) = runs.iterdir()  # both are in the folder that the first has made
    assert report(run)["status"] == "interrupted" and report(run)["iterations"] == last(run)["global_step"]
    assert len(list((run / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.slow
def test_a_killed_rank_ends_the_other_which_says_so(recipe: Path, killed: int) -> None:
    children = ranks(recipe, LONG)
    wait_for(lambda: list((recipe.parent / "runs" / "small").glob("*/checkpoints/last.ckpt")))
    children[killed].send(signal.SIGKILL)
    assert children[1 - killed].wait() == 1
    assert "asdkit: Another rank of this run has died" in children[1 - killed].text()


@pytest.mark.parametrize("rank", ["0", "1", "of another node"])
def test_a_rank_does_not_wait_for_one_that_is_gone(recipe: Path, rank: str) -> None:
    """For as long as a variable says, where ranks start far apart."""
    options, own = ("--trainer.devices=1", "--trainer.num_nodes=2"), group()
    if rank.isdecimal():
        options, own = ("--trainer.devices=2", "--trainer.strategy=ddp"), own | {"RANK": rank, "LOCAL_RANK": rank}
    else:
        own = {name: own[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
    alone = process(recipe, *options, **own, ASDKIT_JOIN_SECONDS="1")
    assert alone.wait() == 1 and "have not found each other in 1 seconds" in alone.text()


@pytest.mark.slow
def test_a_run_is_one_commands_at_a_time(finished: Path, recipe: Path, tmp_path: Path, refused: Callable) -> None:
    """The second, of one rank or of two, is refused and changes nothing; a kill lets go at once."""
    run = shutil.copytree(finished, tmp_path / "one")
    child = process(recipe, *OPTIONS[1:4], LONG, name="again", run=run)
    wait_for(lambda: "max_steps: 100000" in (run / "config.yaml").read_text())
    before = (run / "config.yaml").read_bytes()
    assert f"Process {child.pid} on" in refused("fit", run, "--trainer.max_steps=9", "--seed_everything=3")
    others = ranks(recipe, run=run)
    assert [other.wait() for other in others] == [2, 2]
    assert all(f"Process {child.pid} on" in other.text() for other in others)
    assert (run / "config.yaml").read_bytes() == before
    child.send(signal.SIGKILL)
    child.wait()
    assert main(["fit", str(run), f"--trainer.max_steps={last(run)['global_step'] + 1}"]) == 0


def scheduler(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: int = 0) -> Path:
    """A stub of SLURM's `scontrol`; returns the file of its calls."""
    stub = folder / "bin" / "scontrol"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\necho no such job >&2\nexit {answer}\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    return folder / "calls"


SLURM = {"SLURM_JOB_ID": "42", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def test_a_preempted_job_goes_on_in_its_folder(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scheduler(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["asdkit", "fit", "the same command"])
    run = folder(recipe, "a-red-duck@job42")
    child = process(recipe, LONG, name="", **SLURM)
    started(child, run)
    child.send(signal.SIGUSR1)
    assert child.wait() == 143
    assert not (run / "report.html").exists(), "no time is lost before the job is requeued"
    assert calls.read_text() == "requeue 42\n" and "is requeued" in child.text()
    step = last(run)["global_step"]
    assert report(run)["status"] == "interrupted"
    assert process(recipe, f"--trainer.max_steps={step + 3}", name="", **SLURM).wait() == 0
    assert last(run)["global_step"] == step + 3 and report(run)["status"] == "finished"
    assert sorted(folder(recipe).parent.iterdir()) == [run]
    monkeypatch.setattr(sys, "argv", ["asdkit", "fit", "another command of the job"])
    assert process(recipe, "--trainer.max_steps=1", name="", **SLURM).wait() == 0
    assert (folder(recipe, "a-red-duck@job42-2") / "run.json").is_file() and last(run)["global_step"] == step + 3


def test_two_ranks_of_a_job_requeue_once(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scheduler(tmp_path, monkeypatch, answer=1)
    slurm = SLURM | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "MASTER_ADDR": "127.0.0.1"}
    slurm |= {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "7", "MASTER_PORT": str(free_port())}
    ddp = ("--trainer.devices=2", "--trainer.strategy=ddp", LONG)
    places = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "RANK": str(rank)} for rank in (0, 1)]
    children = [process(recipe, *ddp, name="", **(slurm | place)) for place in places]
    run = folder(recipe, "a-red-duck@job40_7")
    started(children[0], run)
    children[1].send(signal.SIGUSR1)
    assert [child.wait() for child in children] == [143, 143]
    assert calls.read_text() == "requeue 40_7\n"
    assert "can't be requeued (no such job)" in children[0].text() and "requeued" not in children[1].text()
    assert list(run.parent.iterdir()) == [run] and report(run)["iterations"] == last(run)["global_step"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.name == "posix" and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(recipe: Path, small_disk: Path) -> None:
    """The write is torn at its beginning, and in its middle."""
    options = [*OPTIONS, f"--run.root={small_disk}", "--run.name=one"]
    run = small_disk / "small" / "one"
    ballast = small_disk / "ballast"
    assert main(["fit", "--config", str(recipe), *options, "--trainer.max_steps=2"]) == 0
    used = sum(file.stat().st_size for file in (run / "checkpoints").iterdir()) // 2
    for share in (0.02, 0.6):
        room = os.statvfs(small_disk)
        ballast.write_bytes(b"0" * max(0, int(room.f_bavail * room.f_frsize - share * used)))
        assert main(["fit", str(run), "--trainer.max_steps=4"]) == 7, share
        assert not list(run.rglob("*.tmp*"))
        for file in (run / "checkpoints").iterdir():
            assert is_whole(file) and torch.load(file, weights_only=True)["global_step"] >= 2
        ballast.unlink()
    assert main(["fit", str(run), "--trainer.max_steps=4"]) == 0
    assert last(run)["global_step"] == 4 and report(run)["exit_code"] == 0


PARTS = """
import os, time, torch
from asdkit.scores.fields import Noise
from asdkit.generators.gaussians import Gaussians

class Ends(Noise):
    def forward(self, x):
        if x.step == 2:
            self.end()
        return x.eps

class Broken(Ends):
    def end(self): raise RuntimeError("something is broken")
class Hungry(Ends):
    def end(self): torch.empty(10**15)
class Slow(Noise):
    def setup(self, prior): print("setting up", flush=True); time.sleep(600)
class Stuck(Noise):
    def forward(self, x): print("stepping", flush=True); time.sleep(600)
class Rank1(Noise):
    def forward(self, x):
        return x.eps * (float("nan") if x.step == 2 and os.environ.get("RANK") == "1" else 1.0)
class BadGradient(Gaussians):
    def before_step(self):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3: self.opacity_logits.grad[5] = float("inf")
class BadWeight(Gaussians):
    def after_step(self, optimizer, step, generator):
        if step == 2: self.sh.data[0, 0, 0] = float("nan")
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of which each ends its run in its own way in the third step, after a checkpoint of the second."""
    (tmp_path / "ending_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("ending_parts", None)


ENDS = {
    "guidance=ending_parts.Broken": (1, "RuntimeError: something is broken"),
    "guidance=ending_parts.Hungry": (5, "Out of memory"),
    "generator=ending_parts.BadGradient": (6, "Not finite at step 3: the gradient of generator.opacity_logits and"),
    "generator=ending_parts.BadWeight": (6, "Not finite at step 3: generator.sh,"),
}


@pytest.mark.parametrize("part", ENDS)
def test_an_end_has_its_code_and_names_the_last_checkpoint(recipe: Path, parts: None, part: str) -> None:
    """What is not finite is named, causes first."""
    (code, words), run = ENDS[part], folder(recipe)
    child = process(recipe, f"--model.{part}", "--trainer.max_steps=5")
    assert child.wait() == code, child.text()
    reason = report(run)["reason"]
    assert words in reason and f"asdkit: {reason}" in child.text().splitlines() and "Traceback" not in child.text()
    assert f"The last good checkpoint is {run}/checkpoints/step-000002.ckpt; go on with asdkit fit {run}." in reason
    assert report(run)["exit_code"] == code and last(run)["global_step"] == 2
    assert report(run)["status"] == ("diverged" if code == 6 else "failed")
    if code == 6:
        seen = r", t \d+, azimuth/elevation -?\d+/-?\d+ degrees, prompt 'a red duck'\. The last good"
        assert reason.startswith(words) and re.search(seen, reason)
        assert all(bool(value.isfinite().all()) for value in last(run)["state_dict"].values())
        assert not (run / "splats.ply").exists() and not (run / "report.html").exists()


def test_a_closed_terminal_is_heeded_unless_it_was_ignored_from_the_start() -> None:
    for ignored in (True, False):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        try:
            with Signals() as signals:
                signals.arm()
                signal.raise_signal(signal.SIGHUP)
                assert signals.received == (0 if ignored else signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_goes_away_saves_its_step(recipe: Path, tmp_path: Path) -> None:
    """The system sends SIGHUP, and whatever is written to the terminal then is an error."""
    ours, its = os.openpty()

    def act() -> int:
        os.close(ours)
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        for stream in range(3):
            os.dup2(its, stream)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        return main(["fit", "--config", str(recipe), *OPTIONS, LONG, "--run.name=one"])

    child, run = Forked(act, tmp_path / "log"), folder(recipe)
    os.close(its)
    wait_for(lambda: os.read(ours, 9999) and (run / "checkpoints" / "last.ckpt").is_file())
    os.close(ours)
    assert child.wait() == 143
    assert report(run)["status"] == "interrupted" and report(run)["iterations"] == last(run)["global_step"] > 1


ENDED = SystemExit(1)  # into which Lightning turns Ctrl-C, while it handles it
ENDED.__context__ = KeyboardInterrupt()
MISTAKE = type("MisconfigurationException", (Exception,), {})
OTHER_ENDS = [
    (MISTAKE("Trainer was configured with ..."), 2),
    (MISTAKE("You requested gpu: [3]"), 3),
    (RuntimeError("Found no NVIDIA driver on your system"), 3),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5),
    (RuntimeError("CUDA error: out of memory"), 5),
    *((OSError(number, os.strerror(number)), 7) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
    (CannotWrite(errno.EFBIG, "File too large", "last.ckpt"), 7),
    (OSError(errno.EIO, "Input/output error"), 1),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.png"), 3),
    (RuntimeError("[/pytorch/gloo] Too many open files"), 3),
    (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:26497"), 1),
    (KeyboardInterrupt(), 130),
    (ENDED, 130),
    (SystemExit(3), 3),
    (SystemExit("words"), 1),
    (Interrupted(signal.SIGTERM), 143),
]


@pytest.mark.parametrize(("error", "code"), OTHER_ENDS, ids=lambda value: repr(value)[:40])
def test_other_ends_have_their_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("reached", [True, False])
def test_forked_ranks_save_when_their_parent_is_told(tmp_path: Path, reached: bool) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-000003.ckpt"
    checkpoint.parent.mkdir()

    def saves_slowly() -> None:
        with Signals() as signals:
            signals.arm()
            (tmp_path / "ready").touch()
            wait_for(lambda: signals.received)
            time.sleep(0.3)
            checkpoint.touch()

    launcher = _MultiProcessingLauncher(None, start_method="fork")
    process = torch.multiprocessing.get_context("fork").Process(target=saves_slowly)
    process.start()
    launcher.procs = [process]
    wait_for((tmp_path / "ready").exists)
    if reached:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy._launcher, trainer.state.fn = launcher, "fit"
    stopped = Interrupted(signal.SIGINT)
    Guard(Signals()).on_exception(trainer, pl.LightningModule(), stopped)
    assert process.exitcode == 0 and exit_code(stopped) == 130
    assert f"The last good checkpoint is {checkpoint}" in sentence(stopped)


SAID: dict[str, tuple[Callable[[], object], int]] = {
    "gone": (lambda: Pretrained("/no/such/folder").setup(), 4),
    "diverged": (lambda: _raise(Diverged("Not finite at step 3: x0,\n  and more:\nof rank 1.")), 6),
    "lacks": (lambda: require_package("no_such_package", "video"), 3),
    "memory": (lambda: torch.empty(10**15), 5),
    "a GPU's memory": (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory.")), 5),
    "no words": (lambda: _raise(MemoryError()), 5),
    "full": (lambda: _raise(CannotWrite(28, "No space left on device", "/runs/a file")), 7),
    "full, without a file": (lambda: _raise(OSError(28, "No space left")), 7),
    "value": (lambda: _raise(ValueError("gamma must be: above -1.")), 2),
    "no file": (lambda: Path("/no/such/file").read_text(), 2),
    "bug": (lambda: 1 / 0, 1),
}


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("case", SAID)
def test_what_a_forked_rank_says_is_passed_on(case: str) -> None:
    act, code = SAID[case]
    with pytest.raises(Exception) as own:
        act()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as passed_on:
        torch.multiprocessing.start_processes(lambda rank: act(), nprocs=1, start_method="fork")
    for error in (own.value, passed_on.value):
        error.add_note("There is no checkpoint yet.")
        assert exit_code(error) == code
    again = raised_in_process(passed_on.value)
    assert sentence(again) == sentence(passed_on.value) == sentence(own.value)
    assert type(again) is type(own.value) and str(again) == str(own.value)
    assert getattr(again, "filename", None) == getattr(own.value, "filename", None)


def test_a_traceback_of_unknown_classes_stays_what_it_is() -> None:
    text = "-- Process 0 terminated with the following error:\nTraceback\n  File\nelsewhere.Odd: what is it?\n"
    error = torch.multiprocessing.ProcessRaisedException(text, 0, 1)
    assert exit_code(error) == 1 and "elsewhere.Odd: what is it?" in sentence(error)


def test_the_advice_on_memory_is_of_options_that_exist(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    options = re.findall(r"--([a-z_.]+[a-z])", sentence(MemoryError()))
    assert options[:4] == ["data.views_per_step", "model.rendering.chunk", "data.size", "model.generator.capacity"]
    assert main(["fit", "--config", str(recipe), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    for option in options:
        place = config
        for key in option.split("."):
            place = place.get("init_args", place)
            assert key in place, option
            place = place[key]


def test_a_gpu_that_is_not_there_is_the_environments_fault(recipe: Path, refused: Callable) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    said = refused("fit", "--config", recipe, "--run.name=one", "--trainer.accelerator=gpu", code=3)
    assert "--trainer.accelerator=cpu does without" in said and not folder(recipe).exists()


def test_a_rank_that_diverges_stops_all_at_the_same_step(recipe: Path, parts: None) -> None:
    children = ranks(recipe, "--model.guidance=ending_parts.Rank1", LONG)
    assert [child.wait() for child in children] == [6, 6]
    one, two = (child.text() for child in children)
    assert "Not finite at step 3: residual_norm" in one and "of rank 1, which tells where" in one
    assert "Not finite at step 3: residual_norm and" in two and ", t " in two and "azimuth" in two


class Later:
    """Stands for what a GPU has not finished yet; reading before waiting is an error."""

    def __init__(self, flags: list[float]) -> None:
        self.flags, self.waited = flags, False

    def synchronize(self) -> None:
        self.waited = True

    def tolist(self) -> list[float]:
        assert self.waited, "read before it is there"
        return self.flags


def test_a_verdict_that_comes_later_is_heeded_before_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = pl.LightningModule(), pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    flags = iter([[0.0, 0.0], [15.0, 0.0], [0.0, 1.0]])

    def look(self: Guard, *given: object) -> _Verdict:
        later = Later(next(flags))
        return _Verdict(later, later, ["residual_norm"], 7, (None, None))

    monkeypatch.setattr(Guard, "_look", look)
    watch, stops = Guard(Signals()), []
    for _ in range(3):
        watch.on_train_batch_end(trainer, module, {}, None, 0)
        stops.append(watch.stop)
    assert stops == [0, 0, 15]
    with pytest.raises(Diverged, match="step 7: residual_norm"):
        watch.settle(trainer, module)
    watch.settle(trainer, module)  # there is nothing left to wait for


def test_a_working_directory_that_was_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path("runs").absolute()
    monkeypatch.undo()
    assert exit_code(caught.value) == 7
    assert sentence(caught.value).startswith("The working directory was removed or moved; go to one that is there")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_is_large_is_finite(dtype: torch.dtype) -> None:
    """Largest numbers of each precision, whose sum it does not hold, beside the smallest thing that is not finite."""
    module, trainer = pl.LightningModule(), SimpleNamespace(optimizers=[], world_size=1, global_rank=2, global_step=1)
    large = torch.full((9,), min(torch.finfo(dtype).max, 1e150), dtype=dtype)
    broken = large.index_fill(0, torch.tensor([4]), -math.inf)
    verdict = Guard(Signals())._look(trainer, module, {"large": large, "broken": broken}, None)
    assert verdict.flags.tolist() == [0, 0, 3] and verdict.names == ["large", "broken"]
