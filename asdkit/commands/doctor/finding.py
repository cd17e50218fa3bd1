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
        return [*_wrapped(self.text, f"{self.state:<5}{name:<10}"), *_wrapped(self.remedy, " " * 15 + "-> ")]


def _wrapped(text: str, start: str) -> list[str]:
    further = " " * len(start)
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=further, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def short(path: str | Path) -> str:
    """A path, with ~ for the home folder."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text
