"""Ctrl-C, SIGTERM, SIGUSR1 and a terminal that is closed; and what a scheduler wants to be told."""

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from asdkit.core.errors import Interrupted

_SAVING = b"asdkit: Finishing this step and saving; Ctrl-C again quits at once.\n"


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that end a command; a closed terminal's does not where it is ignored from the start (nohup)."""
    closed = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *closed)


class Signals:
    """Inside, signals end the command: at once, or, once it is `armed`, when training asks what was `received`."""

    def __init__(self) -> None:
        self.received = 0  # the first signal that has come since it was armed; 0 for none
        self.armed = False  # whether training is under way, whose state is whole only between two steps
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._install()
        return self

    def __exit__(self, *raised: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def arm(self) -> None:
        """From now on signals are remembered. Called after Lightning has put its own handlers in place.

        Outside of `with`, as in somebody's notebook, their handlers are left alone.
        """
        if self._before:
            self._install()
        self.armed = True

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in heeded():
                before = signal.signal(signum, self._handle)
                self._before.setdefault(signum, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received and "TORCHELASTIC_RUN_ID" not in os.environ:
            os._exit(130)  # torchrun sends its processes a second one of its own
        if not self.armed:
            raise Interrupted(signum)
        if not self.received:
            self.received = signum
            with suppress(OSError):  # the terminal may be gone
                os.write(2, _SAVING)


def slurm_job() -> str:
    """The SLURM job that this is part of, an array's as `ARRAY_TASK`; empty outside, and in interactive jobs."""
    job, array = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_JOB_ID", "")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}" if array else job
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return job if re.fullmatch("[0-9]+(_[0-9]+)?", job) and not interactive else ""


def requeue() -> str:
    """Ask SLURM to start this job again; returns a sentence about it, empty outside SLURM."""
    job = slurm_job()
    if not job:
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failed = done.returncode and (" ".join(done.stderr.split())[:200] or f"exit code {done.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    return f"Job {job} can't be requeued ({failed})." if failed else f"Job {job} is requeued and will go on from there."
