"""The words that a prior was trained on, and which of them are nearest to one that it has never seen."""

import difflib
from collections.abc import Mapping, Sequence

_NEAREST = 3


class KnownWords:
    """A prior's vocabulary.

    Args:
        words: what captions were made of; empty for a prior that doesn't say what it knows.
        related: of some known words, words that people may use and that mean something like it.
    """

    def __init__(self, words: Sequence[str], related: Mapping[str, Sequence[str]]) -> None:
        self.words, self.related = frozenset(words), related

    def unknown(self, text: str) -> dict[str, list[str]]:
        """The words of a text that are not known, each with at most three known ones: by meaning, then by spelling."""
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split() if self.words else []
        return {word: self._nearest(word) for word in words if word not in self.words}

    def _nearest(self, word: str) -> list[str]:
        singular = word.removesuffix("s")
        meant = [known for known in self.words & {*self.related} if {word, singular} & {*self.related[known]}]
        spelled = difflib.get_close_matches(word, sorted(self.words), n=_NEAREST, cutoff=0.7)
        return [*dict.fromkeys(sorted(meant) + spelled)][:_NEAREST]
