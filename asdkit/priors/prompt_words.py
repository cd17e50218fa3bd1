"""Words of prompts: which of them a prior was trained on, and which are left out where a text encoder reads no more."""

import difflib
import logging
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

from asdkit.core.errors import PriorUnavailable

_NEAREST = 3  # known words that are named in the place of an unknown one
_MOST_TOKENS = 4096
_log = logging.getLogger(__name__)


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
