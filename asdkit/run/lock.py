"""One process at a time goes on with a run: a lock in its folder that beats like a heart, and dies with its process."""

import json
import os
import secrets
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from asdkit.core.atomic import set_aside, writing
from asdkit.core.errors import CannotWrite
from asdkit.run.side_files import read_facts

BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0


class RunLock:
    """`run.lock` in a run folder, which says who goes on with the run.

    Whether a process of this machine lives, the system knows. Of one elsewhere, the lock says so by its time, which is
    new every ten seconds; one that stands still for a minute is left over, and is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._ended, self._is_lost = folder / "run.lock", threading.Event(), False
        self._facts = {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid()}
        self._facts |= {"start": _start(os.getpid()), "token": secrets.token_hex(8)}

    def acquire(self) -> None:
        """Take the lock; waits for a minute where it can't be known at once whether its holder lives.

        Raises:
            ValueError: another process goes on with the run.
        """
        if self.path.is_dir():
            set_aside(self.path)
        while not self._create():
            holder = read_facts(self.path)
            if not self._is_left_over(holder):
                whose = f"Process {holder.get('pid')} on {holder.get('host')}"
                raise ValueError(f"{whose} is at work on {self.path.parent}; wait for its end, or start another run.")
            self._remove(holder)
        threading.Thread(target=self._beat, daemon=True).start()

    def check(self) -> None:
        """Raise a CannotWrite unless the folder is there, and still this process's."""
        if self._is_lost or not self.path.exists():
            self._is_lost = True
            raise CannotWrite(f"The run's folder {self.path.parent} was removed, moved or taken over meanwhile.")

    def is_held(self) -> bool:
        """Whether the lock is there, and this process's."""
        return read_facts(self.path) == self._facts

    def release(self) -> None:
        """Remove the lock, if it is still this process's."""
        self._ended.set()
        if self.is_held():
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            with writing(self.path), self.path.open("x") as file:
                json.dump(self._facts, file)
        except FileExistsError:
            return False
        except CannotWrite:  # the disk is full, and the file is there
            if not read_facts(self.path):
                self.path.unlink(missing_ok=True)
            raise
        return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and self.is_held():
            with suppress(FileNotFoundError):
                os.utime(self.path)
        self._is_lost = not self._ended.is_set()

    def _is_left_over(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") == _machine() and holder.get("start"):
            return _start(holder.get("pid")) != str(holder["start"])
        beat = _time(self.path)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".") as now:  # by the clock of the file system
            deadline = time.monotonic() + STALE_SECONDS - (_time(Path(now.name)) - beat)
        while time.monotonic() < deadline and beat and _time(self.path) == beat:
            time.sleep(0.5)
        return _time(self.path) in (beat, 0.0)

    def _remove(self, holder: dict[str, Any]) -> None:
        """Remove what was found to be left over, and nothing that has taken its place meanwhile."""
        aside = self.path.with_name(f".run.lock.{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if read_facts(aside) == holder:
                aside.unlink()
            else:
                aside.rename(self.path)


def _time(path: Path) -> float:
    """When a file was last written; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _machine() -> str:
    """What tells machines, and containers that number processes anew, from each other; empty where it can't be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start(pid: Any) -> str:
    """When a process of this machine started, in the system's count; empty where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
