"""Texts that become paths, folder names and lines on a terminal."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any


def local(path: str | Path) -> Path:
    """A path on this machine, where ~ is the home folder; a ValueError if it is an address, for nothing is fetched."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", str(path)):  # a Path has one slash left of the two
        address, opened = re.sub(":/+", "://", str(path), count=1), "only files of this machine"
        raise ValueError(f"{address} is an address, and asdkit opens {opened}; fetch it and name the file.")
    return Path(os.path.expanduser(path))


def existing(path: str | Path, kinds: str = "a run folder, a checkpoint or a file of splats") -> Path:
    """A path on this machine at which something is; a ValueError that says what `kinds` may be named if nothing is."""
    if not (place := local(path)).exists():
        raise ValueError(f"There is no {path}; name {kinds}.")
    return place


def shown(text: str) -> str:
    """A text as a terminal may show it: on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def clock(seconds: float) -> str:
    """A time as minutes and seconds, and hours where there are some: 2:05, 1:02:05."""
    return str(timedelta(seconds=int(seconds))).removeprefix("0:").removeprefix("0")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its last full stop; the error's kind where it says nothing."""
    return str(error).splitlines()[0].strip(" .") if str(error) else type(error).__name__


def rendered(template: Path, values: Mapping[str, Any]) -> str:
    """A template of jinja2 with values, which stay texts in a page, a file whose name ends in .html."""
    from jinja2 import Environment, StrictUndefined

    rules: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(autoescape=template.suffix == ".html", **rules)
    return environment.from_string(template.read_text("utf-8")).render(values)


def slug(text: str, limit: int = 48) -> str:
    """A text as a folder name: lower-case letters, digits and hyphens."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:limit].strip("-") or "run"


def recipe_slug(path: Path) -> str:
    """The name of the folder that the runs of a recipe go to."""
    return slug(f"{path.parent.name}-{path.stem}" if path.parent.name == "toybox" else path.stem)


def run_folder(root: Path, recipe: str, name: str) -> Path:
    """The folder of a run with a name of its own; whoever makes or looks for one asks this function alone."""
    return root / slug(recipe) / slug(name)


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, if any is near."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else "."


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like another one, whatever its capitals; empty where none is like it."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return names[near[0]] if near else ""
