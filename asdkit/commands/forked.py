"""Runs as forks of a process that has imported everything: each begins at once instead of after ten seconds."""

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkProcess
from typing import IO, Any

import torch

import asdkit.commands.fit  # noqa: F401, what all forks have
from asdkit.commands.main import main
from asdkit.run import machine
from asdkit.run.exits import heeded
from asdkit.run.pool import spawned

_OF_ASDKIT = "asdkit"  # after it in a command stand the arguments of `asdkit`


def start(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> Any:
    """What carries out `python -P -m asdkit ...`: a fork on Linux without a GPU; CUDA wants a new process."""
    if sys.platform != "linux" or machine.gpus(environment):
        return spawned(command, log, environment)
    return Fork(command[command.index(_OF_ASDKIT) + 1 :], log, environment)


class Fork(ForkProcess):
    """A fork that carries out a command of `asdkit` in an environment and writes a log: what the pool asks of one."""

    def __init__(self, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> None:
        super().__init__(target=_become, args=(list(arguments), log, environment))
        self.start()

    def poll(self) -> int | None:
        """The exit code, or minus the signal that has ended it; None before it has ended."""
        return self.exitcode

    def wait(self) -> int | None:
        """The exit code, when it has ended."""
        self.join()
        return self.exitcode

    def send_signal(self, signum: int) -> None:
        """Nothing, if it has ended."""
        if self.pid and self.exitcode is None:
            os.kill(self.pid, signum)


def _become(arguments: list[str], log: IO[bytes], environment: Mapping[str, str]) -> None:
    """Be a process of its own that carries out a command; never returns."""
    code = 99
    try:
        os.setsid()  # a terminal's Ctrl-C reaches the pool alone, which passes it on once
        for number in heeded():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for to, stream in enumerate((nothing, log.fileno(), log.fileno())):
            os.dup2(stream, to)
        log.close()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the locks of other runs among them
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
        sys.argv = [_OF_ASDKIT, *arguments]
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
