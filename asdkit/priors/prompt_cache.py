"""Embedded prompts that are kept on disk: a file for each, whole or not at all."""

import hashlib
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from asdkit.core.atomic import atomic
from asdkit.core.version import __version__, version_of
from asdkit.priors.families import Embedded

_log = logging.getLogger(__name__)


def recall(
    model: str, texts: list[str], embed: Callable[[list[str]], dict[str, Embedded]], passing: Collection[str] = ()
) -> dict[str, Embedded]:
    """Each prompt's embedding from its file; prompts without one are embedded, together, and kept, but for `passing`.

    `model` says all that an embedding depends on beside the prompt and the versions of the libraries.
    """
    files = {text: cache_file(model, text) for text in texts}
    embedded = {text: rows for text, file in files.items() if (rows := _read(file))}
    if missing := [text for text in texts if text not in embedded]:
        embedded |= (fresh := embed(missing))
        for text in fresh.keys() - set(passing):
            _write(files[text], fresh[text])
    return embedded


def cache_file(model: str, text: str) -> Path:
    """The file of a prompt in `$ASDKIT_CACHE/prompts` (`~/.cache/asdkit/prompts`), named by the hash of all that its
    embedding depends on.
    """
    programs = f"asdkit {__version__}, diffusers {version_of('diffusers')}, transformers {version_of('transformers')}"
    name = hashlib.sha256(f"{model}, {programs}: {text}".encode()).hexdigest()
    root = Path(os.environ.get("ASDKIT_CACHE") or "~/.cache/asdkit").expanduser()
    return root / "prompts" / f"{name}.safetensors"


def _read(file: Path) -> Embedded:
    """An embedding; empty if there is none, or with a warning if its file is torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file) if file.is_file() else {}
    except (OSError, SafetensorError) as error:
        _log.warning("%s holds no embedding (%s); the prompt is embedded again.", file, error)
        return {}


def _write(file: Path, embedded: Embedded) -> None:
    """Keep an embedding; where nothing can be written, a warning says so."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic(file) as temporary:
            save_file({name: value.contiguous().clone() for name, value in embedded.items()}, temporary)
    except (OSError, SafetensorError) as error:
        _log.warning("An embedded prompt can't be kept in %s (%s).", file.parent, error)
