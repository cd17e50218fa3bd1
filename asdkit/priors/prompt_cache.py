"""Prompts that have been embedded: remembered on disk, and blended between two directions."""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.core.version import __version__
from asdkit.priors.families import Embedded

_log = logging.getLogger(__name__)
_REVISION = re.compile(r"[0-9a-f]{40}")


def blended(
    first: Shaped[Tensor, "B ..."], second: Shaped[Tensor, "B ..."], share: Float[Tensor, " B"]
) -> Shaped[Tensor, "B ..."]:
    """Each sample's embedding, `share` of the way from the first to the second; of masks, whatever either marks."""
    if not first.is_floating_point():
        return torch.maximum(first, second)
    return torch.lerp(first, second, share.to(first).reshape(-1, *[1] * (first.ndim - 1)))


class EmbeddingCache:
    """Embedded prompts of one model in `$ASDKIT_CACHE/prompts` (`~/.cache/asdkit/prompts`), a file for each, whole or
    not at all. A file's name tells everything that an embedding depends on.

    Args:
        folder: of the model. In the Hub's own cache the revision in its path stands for its contents; elsewhere they
            are hashed.
        family: how its prompts are embedded.
        also: what else they depend on: what its text encoders compute in, and what is added to them.
    """

    def __init__(self, folder: Path, family: str, also: str) -> None:
        root = Path(os.environ.get("ASDKIT_CACHE") or "~/.cache/asdkit").expanduser()
        self.folder = root / "prompts"
        programs = f"asdkit {__version__}, diffusers {version('diffusers')}, transformers {version('transformers')}"
        self.model = f"{fingerprint(folder)}, {family}, {also}, {programs}"

    def path(self, text: str) -> Path:
        """The file of a prompt."""
        return self.folder / f"{hashlib.sha256(self._of(text).encode()).hexdigest()}.safetensors"

    def recall(self, texts: list[str], embed: Callable[[list[str]], dict[str, Embedded]]) -> dict[str, Embedded]:
        """Each prompt's embedding, from its file; those without one are embedded, together, and remembered."""
        found = {text: embedded for text in texts if (embedded := self.read(text)) is not None}
        missing = [text for text in texts if text not in found]
        fresh = embed(missing) if missing else {}
        for text, embedded in fresh.items():
            self.write(text, embedded)
        return found | fresh

    def read(self, text: str) -> Embedded | None:
        """A prompt's embedding; None if there is none, or with a warning if its file is torn or is another's."""
        from safetensors import SafetensorError, safe_open

        path = self.path(text)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                if file.metadata() == {"of": self._of(text)}:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            reason = "it is of something else"
        except (OSError, SafetensorError) as error:
            reason = str(error)
        _log.warning("%s is no embedding of %r (%s); the prompt is embedded again.", path, text, reason)
        return None

    def write(self, text: str, embedded: Embedded) -> None:
        """Remember an embedding; where nothing can be written, a warning says so."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {name: value.contiguous().clone() for name, value in embedded.items()}
        try:
            with atomic(self.path(text)) as temporary:
                save_file(tensors, temporary, metadata={"of": self._of(text)})
        except (OSError, SafetensorError) as error:
            _log.warning("The embedding of %r can't be kept in %s (%s).", text, self.folder, error)

    def _of(self, text: str) -> str:
        return f"{self.model}: {text}"


def fingerprint(folder: Path) -> str:
    """What tells a model's prompt embeddings from another's: the revision of a snapshot in the Hub's cache, else the
    SHA-256 over the names and contents of its index, tokenizers and text encoders.
    """
    if folder.parent.name == "snapshots" and _REVISION.fullmatch(folder.name):
        return f"{folder.parent.parent.name} {folder.name}"
    sha = hashlib.sha256((folder / "model_index.json").read_bytes())
    for file in sorted([*folder.glob("tokenizer*/**/*"), *folder.glob("text_encoder*/**/*")]):
        if file.is_file():
            sha.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as opened:
                sha.update(hashlib.file_digest(opened, "sha256").digest())
    return sha.hexdigest()
