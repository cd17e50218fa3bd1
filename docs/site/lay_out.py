"""Lays out the pages of the site and its settings in a folder, for mkdocs or another program that reads them.

The pages in docs/ are written for GitHub, too. Here they get what the site needs: files of the repository that a page
links to become pages of their own below source/, lists have the indentation of Python-Markdown, and the page of the API
gets its names.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from asdkit.core.names import FUNCTIONS, PUBLIC_NAMES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")  # pages of the site, whether a page links to them or not
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
FENCE = re.compile(r"^(\s*)(`{3,})")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}
TITLE = re.compile(r"^`(\S+)`\n\n(?=```python file=\1$)", re.MULTILINE)  # which is the fence's own title there
NAMES = "<!-- the public names -->"


def main(folder: Path) -> None:
    """Write mkdocs.yml into the folder, and into its folder pages the pages and what they link to."""
    (folder / "pages").mkdir(parents=True, exist_ok=True)
    for name in ("mkdocs.yml", "settings_are_dataclasses.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    shutil.copy(Path(__file__).with_name("extra.css"), folder / "pages")
    waiting = [*DOCS.glob("*.md"), *(ROOT / name for name in ALWAYS)]
    done: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in done:
            continue
        done.add(file)
        text, linked = page(file)
        waiting += linked
        target = folder / "pages" / place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            target.write_bytes(file.read_bytes())
        elif not target.is_file() or target.read_text() != text:  # so that `mkdocs serve` sees what has changed
            target.write_text(text)


def place(file: Path) -> Path:
    """Where a file of the repository lies in the folder; the README's place is the first page."""
    if file == ROOT / "README.md":
        return Path("index.md")
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS)
    inner = Path("source") / file.relative_to(ROOT)
    return inner if file.suffix == ".md" else inner.with_name(inner.name + ".md")


def page(file: Path) -> tuple[str | None, list[Path]]:
    """The text of a page, None where it is no text, and the files that it links to."""
    if file.suffix == ".md":
        linked: list[Path] = []
        text = re.sub(TITLE, "", file.read_text()).replace(NAMES, "\n".join(api()))
        lines = [replace_links(line, file, linked) if shown else line for line, shown in indented(text)]
        return "\n".join(lines) + "\n", linked
    if file.is_relative_to(DOCS):
        return None, []
    language = LANGUAGES.get(file.suffix, "text")
    return f"# `{file.relative_to(ROOT)}`\n\n````{language}\n{file.read_text()}````\n", []


def replace_links(line: str, file: Path, linked: list[Path]) -> str:
    """The line with its links to files as they are in the folder; the files are noted."""

    def replaced(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve()
        if not target.is_file():
            return match[1]  # which the strict build refuses
        linked.append(DOCS / "index.md" if target == ROOT / "README.md" else target)
        return os.path.relpath(place(target), place(file).parent)

    return LINK.sub(replaced, line)


def indented(text: str) -> Iterator[tuple[str, bool]]:
    """The lines, and whether each is prose. What belongs to an item of a list is indented by four, and set off."""
    fence, content, before = "", 0, ""  # the open fence; where the text of the last item begins; the line before
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        item = None if fence else re.match(r"([*-]|\d+\.) ", line)
        if item and before and (not content or before.strip() == "```"):
            yield "", True
        if item:
            content = len(item[0])
        elif not fence and line and depth < content:
            content = 0
        before = line
        line = " " * (4 - content) + line if content and line and not item else line
        marks = FENCE.match(line)
        opens = bool(marks and not fence)
        if marks and (opens or line.strip() == fence):
            fence = marks[2] if opens else ""
        yield re.sub(r" file=(\S+)$", r' title="\1"', line) if opens else line, not fence and not marks


def api() -> Iterator[str]:
    """The sections of the API: the public names, by the module that holds them."""
    methods = [name for name, module in PUBLIC_NAMES.items() if module == "asdkit.methods"]
    modules = {name: module for name, module in {**FUNCTIONS, **PUBLIC_NAMES}.items() if name not in methods}
    yield "## Methods\n\n" + ", ".join(f"[`{name}`](methods.md#{name.lower()})" for name in methods)
    for module in dict.fromkeys(modules.values()):
        yield f"\n## `{module}`\n"
        yield from (f"::: {module}.{name}\n" for name, place in modules.items() if place == module)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
