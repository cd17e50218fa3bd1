"""Real processes that start at once: forks of the warm test process, each with its own end of a command."""

import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import pytest
import torch


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
            torch.set_num_threads(torch.get_num_threads())  # a fork's pool is made anew; two threads at once make none
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

    def wait(self, seconds: float = 200) -> int:
        """Its exit code, or minus the signal that has killed it; one that hangs is killed and is an error."""
        try:
            wait_for(self.has_ended, seconds)
        except AssertionError as error:
            self.end_all()
            raise AssertionError(f"The process hangs; it has said:\n{self.text()}") from error
        self._running.remove(self)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @classmethod
    def end_all(cls) -> None:
        """Kill those that nobody has waited for."""
        while cls._running:
            child = cls._running.pop()
            child.send(signal.SIGKILL)
            os.waitpid(child.pid, 0)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class ForkedRun(subprocess.Popen):
    """Stands for `subprocess.Popen(["python", "-P", "-m", MODULE, ...])`, or a file's, which a fork carries out."""

    def __init__(
        self, command: list[str], *, stdout: IO[bytes], stderr: IO[bytes] | int, env: dict[str, str] | None = None,
        **others: Any,
    ) -> None:  # fmt: skip
        self.returncode: int | None = None
        self._child = Forked(lambda: self._main(command[2:], stdout, stderr, env), Path(stdout.name))

    @staticmethod
    def _main(words: list[str], stdout: IO[bytes], stderr: IO[bytes] | int, environment: dict[str, str] | None) -> int:
        os.setsid()
        if stderr != subprocess.STDOUT:
            os.dup2(stderr.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        sys.argv = words[1:] if words[0] == "-m" else words
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def poll(self) -> int | None:
        return self.wait() if self.returncode is None and self._child.has_ended() else self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            self._child.send(signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        self.returncode = self._child.wait() if self.returncode is None else self.returncode
        return self.returncode


def fork_runs(monkeypatch: pytest.MonkeyPatch, *starters: str) -> None:
    """The runs of grids, and the processes of other modules, are forks of the warm process with their own commands."""
    like = SimpleNamespace(**vars(subprocess) | {"Popen": ForkedRun})
    for module in ("asdkit.run.pool", *starters):
        monkeypatch.setattr(f"{module}.subprocess", like)


def _after_checkpoints(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> None:
    """Runs do something with their trainer after each checkpoint."""
    from asdkit.run.checkpoints import Checkpoints

    save = Checkpoints._save

    def also(self: Checkpoints, trainer: Any) -> None:
        save(self, trainer)
        act(trainer)

    monkeypatch.setattr(Checkpoints, "_save", also)


def stop_at_the_first_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs tell the process that has started them to stop, as SIGTERM does, and go on when they are told so, too."""
    from asdkit.run.guard import Guard

    def stop(trainer: Any) -> None:
        [signals] = (callback._signals for callback in trainer.callbacks if isinstance(callback, Guard))
        if not signals.received:
            os.kill(os.getppid(), signal.SIGTERM)
            wait_for(lambda: signals.received)

    _after_checkpoints(monkeypatch, stop)


def kill_at_a_checkpoint(monkeypatch: pytest.MonkeyPatch, condition: Callable[[], bool]) -> None:
    """When it holds, runs kill the process that has started them and themselves, as a machine that is lost does."""

    def kill(trainer: Any) -> None:
        if condition():
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    _after_checkpoints(monkeypatch, kill)


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
