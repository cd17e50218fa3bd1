"""What a check of `asdkit doctor` has found."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, NOTE, BAD = "ok", "note", "BAD"
WIDTH = 100


@dataclass
class Finding:
    """What one check found.

    Attributes:
        text: for people, without a full stop.
        state: "ok", "note" (works, but something is missing), or "BAD" (something required is broken).
        remedy: what to do; empty when there is nothing to do.
        facts: what programs need and can't read off the text.
    """

    text: str
    state: str = OK
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """The finding of a check as it is printed."""
        paragraphs = {f"{self.state:<5}{name:<10}": self.text, " " * 15 + "-> ": self.remedy}
        wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
        lines = []
        for wrapper.initial_indent, text in paragraphs.items():
            wrapper.subsequent_indent = " " * len(wrapper.initial_indent)
            lines += wrapper.wrap(text)
        return lines


def short(path: str | Path) -> str:
    """A path, with ~ for the home folder."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text
