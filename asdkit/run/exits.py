"""How a command ends: signals, one exit code and one sentence for whatever has happened; and a quiet process."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from asdkit.core import foreign
from asdkit.core.errors import CannotWrite, Diverged, Interrupted, MissingExtra, PriorUnavailable, unwrapped
from asdkit.core.text import shown

_SAVING = b"asdkit: Finishing this step and saving%s.\n"
_LAUNCHER = "ASDKIT_LAUNCHER"  # variable with the id of the process that Lightning starts further ones from
_NO_HANDLES = os.strerror(errno.EMFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LESS_MEMORY = (
    "lower --data.views_per_step, --model.rendering.chunk, --data.size and --model.generator.capacity, in this order, "
    "or set --model.rendering.rerender=true, --model.prior.checkpointing=true and --model.prior.dtype=bfloat16"
)


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
        """From now on signals are remembered; Lightning has its handlers by now, which stay outside of `with`."""
        if self._before:
            self._install()
        self.armed = True

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in heeded():
                self._before.setdefault(signum, signal.signal(signum, self._handle))

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received and "TORCHELASTIC_RUN_ID" not in os.environ:
            os._exit(130)  # torchrun sends its processes a second one of its own
        if not self.armed:
            raise Interrupted(signum)
        if not self.received:
            self.received = signum
            with suppress(OSError):  # the terminal may be gone
                os.write(2, _SAVING % (b"; Ctrl-C again quits at once" if signum == signal.SIGINT else b""))


def slurm_job() -> str:
    """The SLURM job that this is part of, an array's as `ARRAY_TASK`; empty outside, and in interactive jobs."""
    job, array = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_JOB_ID", "")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}" if array else job
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return job if re.fullmatch("[0-9]+(_[0-9]+)?", job) and not interactive else ""


def requeue() -> str:
    """Ask SLURM to start this job again; returns a sentence about it, empty outside SLURM."""
    if not (job := slurm_job()):
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failed = done.returncode and (" ".join(done.stderr.split())[:200] or f"exit code {done.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    return f"Job {job} can't be requeued ({failed})." if failed else f"Job {job} is requeued and will go on from there."


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with this: see `asdkit --help`."""
    error = foreign.raised_in_process(unwrapped(error))
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):  # who read the output has left
        return 128 + signal.SIGPIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    system = error if isinstance(error, OSError) else OSError()
    missing = isinstance(error, MissingExtra | ModuleNotFoundError)
    kinds = {
        6: isinstance(error, Diverged),
        5: foreign.is_out_of_memory(error),
        7: isinstance(error, CannotWrite) or system.errno in _FULL or _is_nowhere(error),
        4: isinstance(error, PriorUnavailable),
        3: missing or foreign.is_no_device(error) or _NO_HANDLES in str(error),
        2: isinstance(error, ValueError) or foreign.is_misconfiguration(error) or system.filename is not None,
    }
    return next((code for code, fits in kinds.items() if fits), 1)


def status(code: int) -> str:
    """What run.json calls the end with this exit code."""
    return {0: "finished", 6: "diverged", 130: "interrupted", 143: "interrupted"}.get(code, "failed")


def sentence(error: BaseException) -> str:
    """What has happened and what to do, in a line."""
    error = foreign.raised_in_process(unwrapped(error))
    text = shown(str(error))
    code = exit_code(error)
    if isinstance(error, Interrupted):
        text = f"Stopped by {error.signum.name}."
    elif code == 5:
        text = f"Out of memory ({text[:200] or type(error).__name__}); {_LESS_MEMORY}."
    elif _NO_HANDLES in text:
        text = f"{text[:200]}. Raise the limit of this shell, e.g. by ulimit -n 65536, or ask for fewer --jobs."
    elif foreign.is_lost_rank(error):
        text = f"Another rank of this run has died, and says why in its own output ({text[:200]})."
    elif _is_nowhere(error):
        text = "The working directory was removed or moved; go to one that is there and start again."
    elif isinstance(error, OSError) and code == 7 and error.strerror:
        text = f"Can't write {error.filename or 'the output'}: {error.strerror}; make room or mend its rights."
    elif isinstance(error, OSError) and error.filename and code == 2:
        text = f"{error.filename} can't be opened or made: {error.strerror}; name another file or folder."
    elif code == 3 and foreign.is_no_device(error):
        text = f"{text[:300]} There is no such device here; --trainer.accelerator=cpu does without."
    elif (code == 1 and not isinstance(error, OSError)) or not text:
        text = f"{type(error).__name__}: {text[:400]} (ASDKIT_DEBUG=1 shows where.)"
    return " ".join(filter(None, [text, *getattr(error, "__notes__", [])]))


def end(error: BaseException) -> int:
    """Say what has happened on stderr, unless a parser has said it already; returns the process's exit code."""
    if os.environ.get("ASDKIT_DEBUG") and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if isinstance(error, Interrupted) or not isinstance(error, SystemExit | KeyboardInterrupt | BrokenPipeError):
        with suppress(OSError):  # nobody reads it
            print(f"asdkit: {sentence(error)}", file=sys.stderr)
    return exit_code(error)


def _is_nowhere(error: BaseException) -> bool:
    """Whether the system no longer knows the process's own folder, which is the one thing that it names no file for."""
    return isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT and error.filename is None


def exit_code_of(act: Callable[[Signals], object]) -> int:
    """Do something with a trainer, given the process's signals; what goes wrong becomes one sentence on stderr."""
    silence_libraries()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("asdkit: %(message)s"))
    logging.getLogger("asdkit").addHandler(handler)
    further = os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(_LAUNCHER) == str(os.getppid())
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        with Signals() as signals:
            act(signals)
        return 0
    except BaseException as error:
        if isinstance(error, Interrupted) and error.signum == signal.SIGUSR1:
            from pytorch_lightning.utilities import rank_zero_only

            rank_zero_only(lambda: error.add_note(requeue()))()
        code = end(error)
        # Lightning kills its first process as soon as a further one fails, but here all have agreed to end.
        return 0 if further and isinstance(error, Interrupted | Diverged) else code
    finally:
        os.environ.pop(_LAUNCHER, None)
        logging.getLogger("asdkit").removeHandler(handler)


def _is_no_advert(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in foreign.ADVERTS)


def silence_libraries() -> None:
    """Leave only what concerns the user: no adverts, no advice that is wrong here."""
    for message in foreign.HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_no_advert)
