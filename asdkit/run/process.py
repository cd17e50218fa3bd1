"""A process that uses a trainer: quiet, heedful of signals, and ended by one sentence and an exit code."""

import logging
import os
import signal
import warnings
from collections.abc import Callable

from pytorch_lightning.utilities import rank_zero_only

from asdkit.core.errors import Diverged, Interrupted
from asdkit.core.foreign import ADVERTS, HARMLESS_WARNINGS
from asdkit.run.exits import end
from asdkit.run.signals import Signals, requeue

_LAUNCHER = "ASDKIT_LAUNCHER"  # variable with the id of the process that Lightning starts further ones from


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
            rank_zero_only(lambda: error.add_note(requeue()))()
        code = end(error)
        # Lightning kills its first process as soon as a further one fails, but here all have agreed to end.
        return 0 if further and isinstance(error, Interrupted | Diverged) else code
    finally:
        os.environ.pop(_LAUNCHER, None)
        logging.getLogger("asdkit").removeHandler(handler)


def _is_no_advert(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in ADVERTS)


def silence_libraries() -> None:
    """Leave only what concerns the user: no adverts, no advice that is wrong here."""
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_no_advert)
