"""Real processes that start at once: forks of the warm test process, each with its own end of a command."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar


class Forked:
    """A child process that runs a function and ends with the exit code that it returns.

    Args:
        function: what it does.
        log: file of its output.
        environment: beside this process's own.
    """

    _running: "ClassVar[list[Forked]]" = []

    def __init__(self, function: Callable[[], int], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid:
            self._running.append(self)
            return
        code = 99
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(handle, stream)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
            os.environ |= environment or {}
            code = function()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def has_ended(self) -> bool:
        """Whether there is something to `wait` for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, or minus the signal that has killed it; one that hangs is killed and is an error."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._running.remove(self)
                return os.waitstatus_to_exitcode(code)
            time.sleep(0.02)
        self.end_all()
        raise AssertionError(f"The process hangs; it has said:\n{self.text()}")

    @classmethod
    def end_all(cls) -> None:
        """Kill those that nobody has waited for."""
        while cls._running:
            child = cls._running.pop()
            child.send(signal.SIGKILL)
            os.waitpid(child.pid, 0)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
