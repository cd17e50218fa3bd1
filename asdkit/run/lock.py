"""One process at a time goes on with a run: a lock in its folder that the system lets go of when the process ends."""

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from asdkit.core.atomic import set_aside, writing
from asdkit.core.errors import CannotWrite

_log = logging.getLogger(__name__)


def locked(file: IO[Any]) -> bool:
    """Lock an open file, unless another process has; a file system that knows no locks refuses nobody, and it is said.

    The lock ends with the last process that has inherited the file, on whatever node, and however it ends.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        sentence = "%s can't be locked (%s): start no second command on this run, for nothing would refuse it."
        _log.warning(sentence, file.name, error.strerror)
    return True


class RunLock:
    """`run.lock` in a run folder: a ValueError if another process holds it; what an ended one has left is no lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        if self.path.is_dir():
            set_aside(self.path)
        self._take()
        while not self.is_held():  # who held it has removed the file before it was locked here
            self._file.close()
            self._take()
        with suppress(OSError):  # the disk is full, as the first file of the run will say
            self._file.truncate(0)
            self._file.write(f"Process {os.getpid()} on {socket.gethostname()}".encode())

    def _take(self) -> None:
        with writing(self.path):
            self._file = self.path.open("ab+", buffering=0)
        if not locked(self._file):
            self._file.seek(0)
            with self._file:
                whose = self._file.read().decode(errors="replace") or "Another process"
            raise ValueError(f"{whose} is at work on {self.path.parent}; wait for its end, or start another run.")

    def is_held(self) -> bool:
        """Whether the lock is where it was taken: the folder was not removed, moved or replaced meanwhile."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def check(self) -> None:
        """Raise a CannotWrite unless the folder is there, and still this process's."""
        if not self.is_held():
            raise CannotWrite(f"The run's folder {self.path.parent} was removed, moved or taken over meanwhile.")

    def release(self) -> None:
        """Let go of the lock, and remove it if it is still this process's."""
        if self.is_held():
            self.path.unlink(missing_ok=True)
        self._file.close()
