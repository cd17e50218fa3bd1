"""Prompts of a pretrained model: each embedded once, kept on disk, and blended between directions."""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.core.version import __version__, version_of
from asdkit.priors.families import Embedded, Family
from asdkit.priors.network_runner import to_float32
from asdkit.rendering.cameras import Views
from asdkit.rendering.view_words import ViewWords
from asdkit.scores.conditions import Condition, Words
from asdkit.scores.prior import Noised, Prior

_log = logging.getLogger(__name__)


class PromptEmbedder:
    """Embeds the prompts of a prior's conditions once, and gives each sample of a draw its embedding.

    The prior's `view_words` and `view_prompts` say which prompts a condition needs.
    """

    def __init__(self, prior: Prior, embed: Callable[[list[str]], dict[str, Embedded]]) -> None:
        self._prior, self._embed = prior, embed
        self.embedded: dict[str, Embedded] = {}  # by prompt, in single precision or better

    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Embed what is new in these conditions."""
        texts = dict.fromkeys(text for condition in conditions for text in self._texts(condition))
        if missing := [text for text in texts if text not in self.embedded]:
            device = self._prior.schedule.alphas.device
            for text, rows in self._embed(missing).items():
                self.embedded[text] = {name: to_float32(value).to(device) for name, value in rows.items()}

    def to(self, device: torch.device) -> None:
        """Move what has been embedded."""
        for text, rows in self.embedded.items():
            self.embedded[text] = {name: value.to(device) for name, value in rows.items()}

    def rows(self, x: Noised, condition: Condition) -> Embedded:
        """A condition's embedding for each sample of x."""
        return x.by_own(condition, lambda own, rows: self._rows(own, len(x.t[rows]), x.views and x.views[rows]))

    def _rows(self, condition: Condition, count: int, cameras: Views | None) -> Embedded:
        """A condition's embedding for so many samples."""
        plain, *views = [self.embedded[text] for text in self._texts(condition)]
        words = self._prior.view_words
        if not views or words is None or cameras is None:
            return {name: value.expand(count, *value.shape) for name, value in plain.items()}
        directions = {name: torch.stack([rows[name] for rows in views]) for name in plain}
        return {name: _of_views(value, words, cameras, condition.words) for name, value in directions.items()}

    def _texts(self, condition: Condition) -> list[str]:
        """What is embedded for a condition: its text, and if it depends on the view that of each direction."""
        words = self._prior.view_words
        if condition.view_dependent and words is not None and condition.text:
            return [condition.text, *words.prompts(condition.text, self._prior.view_prompts.get(condition.text))]
        return [condition.text]


def _of_views(
    directions: Shaped[Tensor, "K ..."], view_words: ViewWords, views: Views, words: Words
) -> Shaped[Tensor, "B ..."]:
    if words == "blended":
        first, second, share = view_words.neighbours(views.azimuth, views.elevation)
        return blended(directions[first], directions[second], share)
    if words == "nearest":
        return directions[view_words.index(views.azimuth, views.elevation)]
    return directions[view_words.opposed(views.azimuth, words)]


def blended(
    first: Shaped[Tensor, "B ..."], second: Shaped[Tensor, "B ..."], share: Float[Tensor, " B"]
) -> Shaped[Tensor, "B ..."]:
    """Each sample's embedding, `share` of the way from the first to the second; of masks, whatever either marks."""
    if not first.is_floating_point():
        return torch.maximum(first, second)
    return torch.lerp(first, second, share.to(first).reshape(-1, *[1] * (first.ndim - 1)))


@torch.no_grad()
def encode_texts(family: Family, pipeline: Any, texts: list[str]) -> dict[str, Embedded]:
    """Prompts through a pipeline's text encoders, on a GPU if it has room for them; embeddings on the CPU."""
    encoders = [part for name, part in pipeline.components.items() if part and name.startswith("text_encoder")]
    size = sum(weights.nbytes for encoder in encoders for weights in encoder.parameters())
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * size:
        for encoder in encoders:
            encoder.to("cuda")
    embedded = {name: value.cpu() for name, value in family.embed(pipeline, texts).items()}
    return {text: {name: value[row] for name, value in embedded.items()} for row, text in enumerate(texts)}


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
    """In `$ASDKIT_CACHE/prompts` or `~/.cache/asdkit/prompts`, named by a hash of all that the embedding depends on."""
    programs = f"asdkit {__version__}, diffusers {version_of('diffusers')}, transformers {version_of('transformers')}"
    name = hashlib.sha256(f"{model}, {programs}: {text}".encode()).hexdigest()
    root = Path(os.environ.get("ASDKIT_CACHE") or "~/.cache/asdkit").expanduser()
    return root / "prompts" / f"{name}.safetensors"


def _read(file: Path) -> Embedded:
    """An embedding; empty if there is none, or with a warning if its file is torn."""
    try:
        return load_file(file) if file.is_file() else {}
    except (OSError, SafetensorError) as error:
        _log.warning("%s holds no embedding (%s); the prompt is embedded again.", file, error)
        return {}


def _write(file: Path, embedded: Embedded) -> None:
    """Keep an embedding; where nothing can be written, a warning says so."""
    try:
        with atomic(file) as temporary:
            save_file({name: value.contiguous().clone() for name, value in embedded.items()}, temporary)
    except (OSError, SafetensorError) as error:
        _log.warning("An embedded prompt can't be kept in %s (%s).", file.parent, error)
