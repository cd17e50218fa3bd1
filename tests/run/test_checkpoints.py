"""Checkpoints: whole or absent whatever kills the writer, loadable without code or recipe, and never the prior."""

import errno
import io
import json
import os
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.forked import Forked, wait_for
from support.recipe import small_run
from support.resuming import assert_same
from support.resuming import last as checkpoint

from asdkit import Distillation
from asdkit.commands.main import main
from asdkit.core.atomic import atomic, remove_leftovers, write_text
from asdkit.core.errors import CannotWrite
from asdkit.run.checkpoints import is_whole

QUICK = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]")


def tearing(save: Callable) -> Callable:
    """A `torch.save` whose third call writes half of the file, and kills the process."""
    calls = []

    def half(checkpoint: dict, file: BinaryIO) -> None:
        calls.append(checkpoint)
        whole = io.BytesIO()
        save(checkpoint, whole)
        file.write(whole.getvalue()[: whole.tell() // (2 if len(calls) == 3 else 1)])
        if len(calls) == 3:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    return half


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """A folder on another file system than tmp_path."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def go_on_until_killed(run: Path, temporary: Path, log: Path, tears: bool) -> None:
    """Let a run go on without end, and kill it just after its next checkpoint, or in the middle of its third."""

    def act() -> int:
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        torch.save = tearing(torch.save) if tears else torch.save
        return main(["fit", str(run), "--trainer.max_steps=10000"])

    last = run / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns
    child = Forked(act, log)
    if not tears:
        wait_for(lambda: last.stat().st_mtime_ns > before or child.has_ended())
        child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.text()


def test_no_kill_tears_a_checkpoint(recipe: Path, tmp_path: Path, shared_memory: Path) -> None:
    """The run is killed, and goes on, again and again; run folder and TMPDIR are on different file systems.

    In the end it is, bit by bit, a run that nobody has killed.
    """
    run, temporary, step = shared_memory / "small" / "one", tmp_path / "tmp", 1
    temporary.mkdir()
    assert shared_memory.stat().st_dev != temporary.stat().st_dev
    options = ["--config", str(recipe), *QUICK, "--data.views_per_step=1", "--checkpoints.every=1"]
    assert main(["fit", *options, f"--run.root={shared_memory}", "--run.name=one", "--trainer.max_steps=1"]) == 0
    for kill, tears in enumerate((False, True, True)):
        go_on_until_killed(run, temporary, tmp_path / f"{kill}.log", tears)
        assert all(is_whole(file) for file in run.glob("checkpoints/*.ckpt"))
        reached, step = step, checkpoint(run)["global_step"]
        assert step > reached, "the run did not go on from where it was"
        assert len(list(run.rglob(".*.tmp*"))) in ((1,) if tears else (0, 1))
        assert not any(path.is_file() for path in temporary.iterdir())
        assert len(list(run.glob("checkpoints/step-*.ckpt"))) <= 2
        assert json.loads((run / "run.json").read_text())["status"] == "running"
    end = f"--trainer.max_steps={step + 2}"
    assert main(["fit", str(run), end]) == 0
    straight = small_run(recipe, *options[2:], end)
    assert checkpoint(run)["global_step"] == step + 2
    assert_same(checkpoint(run)["state_dict"], checkpoint(straight)["state_dict"])


def test_a_file_is_on_the_disk_before_the_old_one_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        events.append(("fsync", "folder" if Path(name).is_dir() else Path(name).read_text()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", Path(b).name)), replace(a, b)))
    write_text(tmp_path / "file.txt", "new")
    assert events == [("fsync", "new"), ("replace", "file.txt"), ("fsync", "folder")]
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(CannotWrite) as raised, atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "file.txt") and raised.value.errno == 28
    for number in (errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG):
        with pytest.raises(CannotWrite), atomic(tmp_path / "file.txt"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(OSError) as raised, atomic(tmp_path / "file.txt"):
        raise FileNotFoundError(2, "of something else", "other")
    assert not isinstance(raised.value, CannotWrite)
    assert (tmp_path / "file.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Neither in a file's place nor in that of its temporary one, whose name can be guessed."""
    (tmp_path / "victim").write_text("kept")
    for name in ("file.txt", f".file.{os.getpid()}.tmp.txt"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_text(tmp_path / "file.txt", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"victim": "kept", "file.txt": "new"}


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    """Other people's processes may not be asked, and live."""

    def refuse(pid: int, signum: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    child = Forked(lambda: 0, tmp_path / "log")
    child.wait()
    gone = [f".last.{child.pid}.tmp.ckpt", f".run.{os.getpid()}.tmp.json"]
    gone += [f".noending.{child.pid}.tmp", f".no.{10**20}.tmp"]
    stay = [f".last.{os.getppid()}.tmp.ckpt", "last.ckpt", ".hidden.tmp.txt", "a.1.tmp.b"]
    (tmp_path / "checkpoints").mkdir()
    for name in (*gone, *stay):
        (tmp_path / "checkpoints" / name).touch()
    for kill, left in ((refuse, [*gone, *stay]), (os.kill, stay)):
        monkeypatch.setattr(os, "kill", kill)
        remove_leftovers(tmp_path)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted(left)


@pytest.mark.parametrize(("name", "suffix"), [("a.ckpt", ".tmp"), ("a.safetensors", ".tmp"), ("a.webp", ".webp")])
def test_half_a_file_of_weights_does_not_look_whole(tmp_path: Path, name: str, suffix: str) -> None:
    with atomic(tmp_path / name) as temporary:
        temporary.touch()
        assert temporary.suffix == suffix and temporary.name.startswith(".a.")


def test_the_module_is_rebuilt_from_the_checkpoint_alone(finished: Path, tmp_path: Path, monkeypatch) -> None:
    """Elsewhere, with this file and the prior, and no recipe; it even predicts what the run does."""
    alone = shutil.copy(finished / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    monkeypatch.chdir(tmp_path)
    module = Distillation.load_from_checkpoint(alone, map_location="cpu", weights_only=True)
    module.setup()
    state, saved = module.state_dict(), torch.load(alone, weights_only=True)["state_dict"]
    assert_same(dict(state), dict(saved))
    assert any("lora_A" in name for name in saved)
    assert (type(module.guidance).__name__, module.prompt) == ("Sum", "a red duck")


def test_the_weights_alone_are_there_as_safetensors(finished: Path) -> None:
    saved = checkpoint(finished)
    for name, part in {"generator": "generator", "discriminator": "guidance"}.items():
        file = finished / "weights" / f"{name}.safetensors"
        expected = {k.removeprefix(f"{part}."): v for k, v in saved["state_dict"].items() if k.startswith(f"{part}.")}
        assert_same(expected, load_file(file))
        assert expected
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        assert json.loads(about["spec"])["class_path"].startswith("asdkit.") and about["step"] == "4"
        assert about["prior"] == json.loads((finished / "run.json").read_text())["prior"]
    assert {path.stem for path in (finished / "weights").iterdir()} == {"discriminator", "generator"}


def test_what_was_kept_with_all_others_stays(recipe: Path) -> None:
    """A run that goes on without keep_all removes the checkpoints that it has saved since, and no other file."""
    run = small_run(recipe, *QUICK, "--checkpoints.every=1", "--checkpoints.keep_all=true", "--trainer.max_steps=2")
    kept, folder = ["last.ckpt", "step-000001.ckpt", "step-000002.ckpt"], run / "checkpoints"
    (folder / "step-best.ckpt").touch()
    (run / "run.json").unlink()
    saved = checkpoint(run)
    saved["callbacks"]["RunFolder"]["seconds"] += 1000
    torch.save(saved, folder / "last.ckpt")
    assert main(["fit", str(run), "--checkpoints.keep_all=false", "--trainer.max_steps=4"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [*kept, "step-000004.ckpt", "step-best.ckpt"]
    assert 1000 < json.loads((run / "run.json").read_text())["seconds"] < 1200, "the time of all its parts"


def test_a_damaged_last_checkpoint_is_said_and_the_newest_whole_one_named(finished, tmp_path: Path, refused) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    with zipfile.ZipFile(last) as archive:  # between its records there is room that nobody reads
        record = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    middle = content.index(record) + len(record) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    foreign = (tmp_path / "foreign.pt").read_bytes()
    (run / "checkpoints" / "step-000009.ckpt").write_bytes(content[:100])
    whole = run / "checkpoints" / "step-000004.ckpt"
    said = f"{last} is broken, or no checkpoint of asdkit. The newest whole one beside it is --ckpt_path {whole}."
    for damaged in (content[:middle], b"", flipped, foreign):
        last.write_bytes(damaged)
        assert said in refused("fit", run, "--trainer.max_steps=5")
    assert main(["fit", str(run), "--ckpt_path", str(whole), "--trainer.max_steps=5"]) == 0
    assert checkpoint(run)["global_step"] == 5
