"""The words that a prior was trained on, and which of them are nearest to one that it has never seen."""

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_NEAREST = 3


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
