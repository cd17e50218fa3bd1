"""One process at a time goes on with a run, whatever becomes of the others."""

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked import Forked, wait_for

from asdkit.core.errors import CannotWrite
from asdkit.run.run_folder import RunLock


def hold(folder: Path) -> int:
    lock = RunLock(folder)
    time.sleep(600)
    lock.release()
    return 0


def test_the_second_is_refused_while_the_first_lives_and_a_kill_lets_go(tmp_path: Path) -> None:
    """Also while the first is stopped."""
    (tmp_path / "run.lock").write_text("what an earlier process has left")
    first = Forked(lambda: hold(tmp_path), tmp_path / "log")
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
