"""Prompts longer than a text encoder reads: the words for the view survive, and what is left out is said."""

import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from asdkit.core.errors import PriorUnavailable

_MOST_TOKENS = 4096
_log = logging.getLogger(__name__)


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
