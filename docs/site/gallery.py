"""Makes the films of docs/gallery.md, and the one at the top of the README, of finished runs; `make gallery` calls it.

python docs/site/gallery.py RUNS, where RUNS is the folder that `asdkit sweep docs/gallery.txt` left the runs in.
"""

import json
import re
import sys
from pathlib import Path

import torch

import asdkit
from asdkit.core.text import slug
from asdkit.formats.pictures import save_webp

DOCS = Path(__file__).resolve().parents[1]
COLUMNS = 3  # as many as a phone shows
BETWEEN = re.compile(r"(?<=<!-- the films -->\n).*?(?=<!-- to here -->)", re.DOTALL)


def main(runs: Path, images: Path = DOCS / "images", size: int = 256, frames: int = 48) -> None:
    """Write gallery/PROMPT.webp for each finished run of a prompt of the list, and hero.webp of the first five."""
    hero = []
    for prompt, run in finished(runs).items():
        film = asdkit.load(run).orbit(size, frames)
        (images / "gallery").mkdir(parents=True, exist_ok=True)
        save_webp(film, images / "gallery" / f"{slug(prompt)}.webp")
        hero += [film] if prompt in prompts()[:5] else []
        print(f"{prompt}: {run}")
    if len(hero) == 5:
        save_webp(torch.cat(hero, dim=-1), images / "hero.webp")
    page = images.parent / "gallery.md"
    page.write_text(written(page.read_text(), images / "gallery"))


def prompts() -> list[str]:
    """What the gallery shows, in its order."""
    return [line for line in (DOCS / "gallery.txt").read_text().splitlines() if line and not line.startswith("#")]


def finished(runs: Path) -> dict[str, Path]:
    """The folder of a finished run for each prompt of the list that has one, in the list's order."""
    made = {}
    for file in runs.glob("*/run.json"):
        facts = json.loads(file.read_text())
        if facts["status"] == "finished":
            made[facts["prompt"]] = file.parent
    return {prompt: made[prompt] for prompt in prompts() if prompt in made}


def written(text: str, films: Path) -> str:
    """The page with a table of the films that there are, three in a row above their prompts."""
    shown = [prompt for prompt in prompts() if (films / f"{slug(prompt)}.webp").is_file()]
    cells = [
        line
        for start in range(0, len(shown), COLUMNS)
        for row in [shown[start : start + COLUMNS]]
        for line in ([f"![{prompt}](images/gallery/{slug(prompt)}.webp)" for prompt in row], row)
    ]
    lines = [f"| {' | '.join([*row, *[''] * (COLUMNS - len(row))])} |\n" for row in cells]
    table = "".join(["\n", *lines[:1], "|" + "---|" * COLUMNS + "\n", *lines[1:], "\n"]) if lines else ""
    return BETWEEN.sub(lambda _: table, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
