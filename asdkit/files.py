"""Files that are whole or absent: everything asdkit writes is first written beside its place, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, of the same suffix, that takes the place of `path` when the block succeeds.

    Args:
        path: the file to write; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def slug(text: str, limit: int = 48) -> str:
    """A text as a folder name: lower-case letters, digits and hyphens."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:limit].strip("-") or "run"


def recipe_slug(path: Path) -> str:
    """The name of the folder that the runs of a recipe go to."""
    return slug(f"{path.parent.name}-{path.stem}" if path.parent.name == "toybox" else path.stem)
