"""How a command ends: one exit code and one sentence for whatever has happened."""

import errno
import os
import re
import sys
import traceback

from asdkit.core.errors import CannotWrite, Diverged, Interrupted, MissingExtra, PriorUnavailable, unwrapped
from asdkit.core.text import shown

_NO_DEVICE = ("can not run on your system", "No supported gpu backend", "You requested gpu", "no NVIDIA driver")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TRACEBACK = re.compile(r".*\n +[^\n]*\n([\w.]+)(?:: (.*))?", re.DOTALL)  # the exception's class and its text
_OF_SYSTEM = re.compile(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?")
_LESS_MEMORY = (
    "lower --data.views_per_step, --model.chunk, --data.size and --model.generator.capacity, in this order, or set "
    "--model.rerender=true, --model.prior.checkpointing=true and --model.prior.dtype=bfloat16"
)


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with this: see `asdkit --help`."""
    error = _heard(error)
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    kinds = {
        6: isinstance(error, Diverged),
        5: _out_of_memory(error),
        7: _cannot_write(error),
        4: isinstance(error, PriorUnavailable),
        3: isinstance(error, MissingExtra) or _no_device(error),
        2: isinstance(error, ValueError) or _is_a(error, "MisconfigurationException") or _names_a_file(error),
    }
    return next((code for code, fits in kinds.items() if fits), 1)


def status(code: int) -> str:
    """What run.json calls the end with this exit code."""
    return {0: "finished", 6: "diverged", 130: "interrupted", 143: "interrupted"}.get(code, "failed")


def sentence(error: BaseException) -> str:
    """What has happened and what to do, in a line."""
    error = _heard(error)
    text = shown(str(error))
    code = exit_code(error)
    if isinstance(error, Interrupted):
        text = f"Stopped by {error.signum.name}."
    elif code == 5:
        text = f"Out of memory ({text[:200] or type(error).__name__}); {_LESS_MEMORY}."
    elif code == 7:
        text = f"Can't write {error.filename or 'into the run folder'}: {error.strerror}; make room or mend its rights."
    elif code == 3 and not isinstance(error, MissingExtra):
        text = f"{text[:300]} There is no such device here; --trainer.accelerator=cpu does without."
    elif (code == 1 and not isinstance(error, OSError)) or not text:
        text = f"{type(error).__name__}: {text[:400]} (ASDKIT_DEBUG=1 shows where.)"
    return " ".join(filter(None, [text, *getattr(error, "__notes__", [])]))


def end(error: BaseException) -> int:
    """Say what has happened on stderr, unless a parser has said it already; returns the process's exit code."""
    if os.environ.get("ASDKIT_DEBUG") and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if isinstance(error, Interrupted) or not isinstance(error, SystemExit | KeyboardInterrupt):
        print(f"asdkit: {sentence(error)}", file=sys.stderr)
    return exit_code(error)


def _heard(error: BaseException) -> BaseException:
    """The error itself; of a process that was forked or spawned torch passes on the text of a traceback."""
    error = unwrapped(error)
    told = _TRACEBACK.fullmatch(str(error).strip()) if _is_a(error, "ProcessRaisedException") else None
    module, _, name = told[1].rpartition(".") if told else ("", "", "")
    kind = getattr(sys.modules.get(module or "builtins"), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return error
    text = told[2] or ""
    system = _OF_SYSTEM.fullmatch(text) if issubclass(kind, OSError) else None
    arguments = (int(system[1]), *filter(None, system.groups()[1:])) if system else (text,)
    heard = kind.__new__(kind, *arguments)
    heard.__notes__ = getattr(error, "__notes__", [])
    return heard


def _is_a(error: BaseException, name: str) -> bool:
    """By name, so that nothing heavy is imported for it."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _out_of_memory(error: BaseException) -> bool:
    says = isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    return says or isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError")


def _cannot_write(error: BaseException) -> bool:
    return isinstance(error, CannotWrite) or (isinstance(error, OSError) and error.errno in _FULL)


def _no_device(error: BaseException) -> bool:
    asked = _is_a(error, "MisconfigurationException") or isinstance(error, RuntimeError)
    return asked and any(words in str(error) for words in _NO_DEVICE)


def _names_a_file(error: BaseException) -> bool:
    """A file that the user has named can't be read."""
    return isinstance(error, OSError) and error.filename is not None
