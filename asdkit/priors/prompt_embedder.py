"""Prompts of a pretrained model: their words, and embeddings that are kept on disk and blended between directions."""

import difflib
import hashlib
import logging
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.core.errors import PriorUnavailable
from asdkit.core.version import __version__, version_of
from asdkit.priors.families import Embedded, Family
from asdkit.priors.network_runner import to_float32
from asdkit.rendering.cameras import Views
from asdkit.rendering.view_words import ViewWords
from asdkit.scores.prior import Condition, Noised, Prior, Words

_log = logging.getLogger(__name__)
Rows = Shaped[Tensor, "B ..."]  # of embedded prompts
Embed = Callable[[list[str]], dict[str, Embedded]]
_NEAREST = 3  # known words that are named in the place of an unknown one
_MOST_TOKENS = 4096


class PromptEmbedder:
    """Embeds the prompts of a prior's conditions once, and gives each sample of a draw its embedding."""

    def __init__(self, prior: Prior, embed: Embed) -> None:
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


def _of_views(directions: Shaped[Tensor, "K ..."], view_words: ViewWords, views: Views, words: Words) -> Rows:
    if words == "blended":
        first, second, share = view_words.neighbours(views.azimuth, views.elevation)
        return blended(directions[first], directions[second], share)
    if words == "nearest":
        return directions[view_words.index(views.azimuth, views.elevation)]
    return directions[view_words.opposed(views.azimuth, words)]


def blended(first: Rows, second: Rows, share: Float[Tensor, " B"]) -> Rows:
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


def recall(model: str, texts: list[str], embed: Embed, passing: Collection[str] = ()) -> dict[str, Embedded]:
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
    return Path(os.environ.get("ASDKIT_CACHE") or "~/.cache/asdkit").expanduser() / "prompts" / f"{name}.safetensors"


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


class KnownWords(NamedTuple):
    """What captions were made of, none where a prior doesn't say; and words that mean something like some of them."""

    words: Sequence[str] = ()
    related: Mapping[str, Sequence[str]] = {}

    def unknown(self, text: str) -> dict[str, list[str]]:
        """The words of a text that are not known, each with at most three known ones: by meaning, then by spelling."""
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split() if self.words else []
        return {word: self._nearest(word) for word in words if word not in self.words}

    def doubt(self, prompt: str) -> str:
        """A sentence that names a prompt's unknown words and the nearest known ones; empty where all are known."""
        words = [
            f"{word!r} (the nearest that it knows: {', '.join(map(repr, nearest))})" if nearest else repr(word)
            for word, nearest in self.unknown(prompt).items()
        ]
        return f"The prior has never seen {', '.join(words)}; expect no likeness." if words else ""

    def _nearest(self, word: str) -> list[str]:
        meant = [known for known, others in self.related.items() if {word, word.removesuffix("s")} & {*others}]
        spelled = difflib.get_close_matches(word, sorted(self.words), n=_NEAREST, cutoff=0.7)
        return [*dict.fromkeys(sorted({*meant} & {*self.words}) + spelled)][:_NEAREST]


class ViewKeepingTokenizer:
    """A tokenizer that shortens a prompt before its words for the view, where the tokenizer itself would cut those off.

    Prompts for directions end in `view_words`, after a comma; those that were too long are added to `cut`.
    """

    def __init__(self, tokenizer: Any, view_words: tuple[str, ...], cut: set[str]) -> None:
        self._tokenizer, self._endings = tokenizer, tuple(f", {words}".lower() for words in view_words)
        self._cut = cut
        self._said: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: str | list[str], *args: Any, **options: Any) -> Any:
        limit = options.get("max_length")
        options.setdefault("verbose", False)  # transformers says the same in its own words
        if limit and limit > _MOST_TOKENS:
            raise PriorUnavailable(f"The model's tokenizer says that {limit} tokens are read; copy the prior again.")
        if options.get("truncation") and limit:
            shortened = [self._shortened(text, limit) for text in ([texts] if isinstance(texts, str) else texts)]
            texts = shortened[0] if isinstance(texts, str) else shortened
        return self._tokenizer(texts, *args, **options)

    def _shortened(self, text: str, limit: int) -> str:
        """The prompt within so many tokens, with its words for the view."""
        ending = next((text[-len(words) :] for words in self._endings if text.lower().endswith(words)), "")
        prompt = text[: len(text) - len(ending)]

        def too_long(characters: int) -> bool:
            return len(self._tokenizer(prompt[:characters] + ending, verbose=False).input_ids) > limit

        if not too_long(len(prompt)):
            return text
        words = [match.end() for match in re.finditer(r"\S+", prompt)]
        ends: Sequence[int] = range(1, len(prompt)) if too_long(words[0]) else words  # of a text without spaces
        count = bisect_right(ends, False, key=too_long)
        kept = prompt[: ends[count - 1]] if count else ""
        self._cut.add(text)
        if prompt not in self._said:
            self._said.add(prompt)
            rest = shorten(prompt[len(kept) :], 200, placeholder=" ...")
            _log.warning("The prompt is longer than the %d tokens that are read; left out is %r.", limit, rest)
        return kept.rstrip(" ,") + ending
