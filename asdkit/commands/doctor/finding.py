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
        facts: for programs.
        name: of the check.
    """

    text: str
    state: str = OK
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def lines(self) -> list[str]:
        """The finding as it is printed."""
        found = textwrap.wrap(self.text, WIDTH - 15, break_long_words=False, break_on_hyphens=False)
        remedy = textwrap.wrap(self.remedy, WIDTH - 18, break_long_words=False, break_on_hyphens=False)
        lead = [f"{self.state:<5}{self.name:<10}", *[" " * 15] * len(found)]
        shown = [start + line for start, line in zip(lead, found, strict=False)]
        return shown + [" " * 15 + ("-> " if i == 0 else "   ") + line for i, line in enumerate(remedy)]


def short(path: str | Path) -> str:
    """A path, with ~ for the home folder."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text
