"""Errors that several rooms raise or catch; the exit code of each is in `run.exits`."""

import re
import signal

_REASON = re.compile(r"^ *- (?!Expected a |Does not validate)(.+)$", re.MULTILINE)


class PriorUnavailable(ValueError):
    """A prior can't be loaded: there is no network, it needs a login, it was withdrawn, or a file is damaged."""


def unwrapped(error: BaseException) -> BaseException:
    """The error that a part has raised, which jsonargparse wraps in errors of many lines."""
    # Where a number or a part may stand, the innermost one only says that the part is no number; the reason is among
    # the lines of the next.
    reasons: list[str] = []
    while error.__cause__ is not None and "\n" in str(error):
        reasons = _REASON.findall(str(error)) or reasons
        error = error.__cause__
    return ValueError(reasons[-1]) if reasons and str(error).startswith("Expected a ") else error


class MissingExtra(RuntimeError):
    """An optional package is not installed; the message says how to install it."""


class CannotWrite(OSError):
    """A file can't be written: the disk is full or read-only, or the folder is somebody else's."""


class Diverged(RuntimeError):
    """Training produced a loss, a gradient or a parameter that is not finite."""


class Interrupted(SystemExit):
    """A signal has ended the command; its exit code is 130 for Ctrl-C and 143 for the others."""

    def __init__(self, signum: int) -> None:
        super().__init__(130 if signum == signal.SIGINT else 143)
        self.signum = signal.Signals(signum)


class UsageError(ValueError):
    """A command line that can't be carried out; the message is for the user."""
