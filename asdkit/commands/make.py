"""`asdkit.make` and `asdkit.load`: what `asdkit fit` does, and what a run has made, in a line of Python."""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdkit.commands.arguments import expand, prepare_libraries, trusted
from asdkit.core.errors import UsageError
from asdkit.run.exits import Signals, exit_code, sentence, silence_libraries

if TYPE_CHECKING:
    from asdkit.run.export import Result


def make(
    prompt: str,
    *,
    prior: str | None = None,
    method: str | None = None,
    steps: int | None = None,
    recipe: str = "gs3d",
    options: Mapping[str, Any] | None = None,
    trust: tuple[str, ...] = (),
) -> "Result":
    """Makes what a prompt says, as `asdkit fit --config RECIPE` does, in a run folder of its own.

    Args:
        prompt: what to make, in words.
        prior: the prior, named as for `--prior`: an alias, an id of the hub, a folder or a file. The recipe's when
            None.
        method: the method, e.g. "SDS". The recipe's when None.
        steps: the number of iterations. The recipe's when None.
        recipe: a name that `asdkit recipes` lists, or a YAML file.
        options: further options of `asdkit fit` by their dotted names, e.g. `{"model.generator.lr": 0.01}`.
        trust: packages whose classes the recipe may name, as with `--trust`.

    Returns:
        The result; a notebook shows it.

    Raises:
        ValueError: an option, a recipe or a prior's name that is wrong, in one sentence.
        PriorUnavailable, Diverged, CannotWrite, MissingExtra: as `asdkit fit` ends with (`asdkit.core.errors`).
        KeyboardInterrupt: it was interrupted; `asdkit fit RUN` goes on from the last checkpoint.
    """
    short = {"prior": prior, "method": method, "steps": steps}
    given = {name: value for name, value in short.items() if value is not None} | dict(options or {})
    text = partial(json.dumps, default=lambda held: getattr(held, "tolist", held.__str__)())  # of numpy and torch, too
    words = [
        f"--{name.removeprefix('--')}={value if isinstance(value, str | Path) else text(value)}"
        for name, value in given.items()
    ]
    arguments, _ = expand("fit", ["--config", recipe, f"--model.prompt={prompt}", *words])
    with trusted(list(trust)), _interruptible():
        prepare_libraries()
        from asdkit.commands.fit import CLI

        silence_libraries()
        try:
            trainer = CLI(["fit", *arguments], None, Signals()).trainer
        except Exception as error:
            if exit_code(error) == 2:  # a part's sentence, within what parsers say of it
                raise UsageError(sentence(error)) from error
            raise
    return load(trainer.default_root_dir)


def load(run: str | Path, prompt: str = "") -> "Result":
    """Loads what a run has made, from its last checkpoint; a ValueError if there is none, or it is broken.

    Args:
        run: a run folder or a checkpoint, or a file of Gaussians (.ply, .splat, .spz, .glb).
        prompt: what to show in place of the run's own prompt, for a generator that knows many.
    """
    prepare_libraries()
    from asdkit.run.export import Result

    return Result(run, prompt)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays KeyboardInterrupt, of which Lightning makes an end of the process, and what handles it is kept."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
