"""What a check of `asdkit doctor` has found."""

import textwrap
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

OK, NOTE, BAD = "ok", "note", "BAD"
_wrap = partial(textwrap.wrap, width=100, break_long_words=False, break_on_hyphens=False)


@dataclass
class Finding:
    """What one check found."""

    text: str  # for people, without a full stop
    state: str = OK  # or NOTE (works, but something is missing), or BAD (something required is broken)
    remedy: str = ""  # what to do; empty when there is nothing to do
    facts: dict[str, Any] = field(default_factory=dict)  # what programs need and can't read off the text

    def lines(self, name: str) -> list[str]:
        """The finding of a check as it is printed."""
        text = _wrap(self.text, initial_indent=f"{self.state:<5}{name:<10}", subsequent_indent=" " * 15)
        return text + _wrap(self.remedy, initial_indent=" " * 15 + "-> ", subsequent_indent=" " * 18)


def short(path: str | Path) -> str:
    """A path, with ~ for the home folder."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text
