"""One process at a time goes on with a run, whatever becomes of the others."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.forked import Forked, wait_for

from asdkit.core.errors import CannotWrite
from asdkit.run import lock
from asdkit.run.lock import RunLock


def hold(folder: Path) -> int:
    RunLock(folder).acquire()
    time.sleep(600)
    return 0


def test_the_second_is_refused_while_the_first_lives_and_a_kill_lets_go(tmp_path: Path) -> None:
    first = Forked(lambda: hold(tmp_path), tmp_path / "log")
    wait_for((tmp_path / "run.lock").exists)
    with pytest.raises(ValueError, match=f"Process {first.pid} on .* is at work on {tmp_path}; wait for its end"):
        RunLock(tmp_path).acquire()
    first.send(signal.SIGKILL)
    wait_for(first.has_ended)  # nobody has asked for its exit code yet, so the system still knows it
    second = RunLock(tmp_path)
    second.acquire()
    first.wait()
    second.check()
    second.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"machine": "another", "start": "1", "pid": 1}'])
def test_a_lock_of_another_machine_is_left_over_when_it_beats_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path, waited, beats = tmp_path / "run.lock", [0.0], True

    def sleep(seconds: float) -> None:
        waited[0] += seconds
        if beats:
            os.utime(path, (0, time.time() + waited[0]))

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: waited[0]))
    path.write_text(text)
    with pytest.raises(ValueError, match="is at work on"):
        RunLock(tmp_path).acquire()
    beats, own, waited[0] = False, RunLock(tmp_path), 0.0
    path.touch()
    own.acquire()
    assert 30 < waited[0] <= 60.5 and own.is_held()
    own.release()
    path.write_text(text)
    os.utime(path, (0, time.time() - 61))
    waited[0] = 0.0
    own.acquire()
    assert waited[0] == 0 and own.is_held()


def test_who_is_held_up_for_more_than_a_minute_finds_the_lock_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    own = RunLock(tmp_path)
    own.acquire()
    before = own.path.stat().st_mtime_ns
    wait_for(lambda: own.path.stat().st_mtime_ns > before)
    own.path.write_text(json.dumps({"pid": 1}))
    wait_for(lambda: own._is_lost)
    with pytest.raises(CannotWrite, match="taken over"):
        own.check()
    own.release()
    assert own.path.exists(), "it is somebody else's"
