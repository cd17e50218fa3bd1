"""The site: its pages are laid out from docs/, all of them stand in the navigation, and it builds without a warning."""

import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support import methods_page

import asdkit
from asdkit.core.text import slug
from asdkit.toybox.captions import parse

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
LAY_OUT = runpy.run_path(str(SITE / "lay_out.py"))
GALLERY = runpy.run_path(str(SITE / "gallery.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site laid out, as `make docs` does it."""
    folder = tmp_path_factory.mktemp("site")
    LAY_OUT["main"](folder)
    return folder


def places(entry: str | list | dict) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in places(part)]


def test_each_page_stands_in_the_navigation(folder: Path) -> None:
    pages = places(yaml.safe_load((SITE / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted(set(pages)) and all((folder / "pages" / page).is_file() for page in pages)
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)


def test_links_lead_to_pages_of_the_site(folder: Path) -> None:
    """Those to the source, too, and those of the pages that are made of the source."""
    linked: set[Path] = set()
    for page in (folder / "pages").rglob("*.md"):
        text = re.sub(r"^ *(```+).*?^ *\1$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#:\s]+)[)#]", text):
            assert (page.parent / target).is_file(), f"{page} links to {target}"
            linked.add((page.parent / target).resolve().relative_to(folder.resolve()))
    assert {Path("pages/source/SECURITY.md"), Path("pages/source/asdkit/toybox/weights/README.md")} <= linked


def test_a_source_file_becomes_a_page_with_its_text(tmp_path: Path) -> None:
    ramps = ROOT / "asdkit" / "core" / "ramps.py"
    assert LAY_OUT["place"](ramps) == Path("source/asdkit/core/ramps.py.md")
    assert LAY_OUT["place"](ROOT / "README.md") == Path("index.md")
    text, linked = LAY_OUT["page"](ramps)
    assert text == f"# `asdkit/core/ramps.py`\n\n````python\n{ramps.read_text()}````\n" and linked == []
    line = "a [`Ramp`](asdkit/core/ramps.py) and [more](docs/priors.md#over-saturation), [there](https://arxiv.org)"
    expected = line.replace("ramps.py", "ramps.py.md").replace("docs/priors", "../priors")
    assert LAY_OUT["replace_links"](line, ROOT / "SECURITY.md", linked) == expected
    assert linked == [ramps, ROOT / "docs" / "priors.md"]


def test_lists_are_as_python_markdown_wants_them() -> None:
    """What belongs to an item is indented by four, and an item after a paragraph or code follows an empty line."""
    text = "* one\n  more\n\n  ```bash\n  a\n      b\n  ```\n* two\n* three\n\nplain\n"
    text += "1. four\n   more\n```python file=x.py\n  * c\n```"
    expected = "* one\n    more\n\n    ```bash\n    a\n        b\n    ```\n\n* two\n* three\n\nplain\n"
    expected += '\n1. four\n    more\n```python title="x.py"\n  * c\n```'
    assert "\n".join(line for line, _ in LAY_OUT["indented"](text)) == expected
    assert "  * c" not in [line for line, prose in LAY_OUT["indented"](text) if prose]


def test_what_is_made_of_the_source_is_up_to_date(folder: Path) -> None:
    """The API has each public name, the page of methods their docstrings, and the gallery the films that there are."""
    text = (folder / "pages" / "api.md").read_text()
    entries = re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE) + re.findall(r"\[`(\w+)`\]\(methods.md#", text)
    assert sorted(entries) == asdkit.__all__
    assert methods_page.FILE.read_text() == methods_page.page(), "methods have changed: run `make signatures`"
    page = ROOT / "docs" / "gallery.md"
    assert page.read_text() == GALLERY["written"](page.read_text(), ROOT / "docs" / "images" / "gallery")
    readme = (ROOT / "README.md").read_text().lower()
    assert all(parse(prompt) for prompt in GALLERY["prompts"]()) and len(GALLERY["prompts"]()) >= 12
    assert all(f'"{prompt}"' in readme for prompt in GALLERY["prompts"]()[:5])


def test_a_film_of_each_prompt_is_made_of_its_run(finished: Path, tmp_path: Path) -> None:
    """And of the first five the one at the top of the README."""
    prompts = GALLERY["prompts"]()[:6]
    for number, prompt in enumerate(prompts):
        run = tmp_path / "runs" / str(number)
        shutil.copytree(finished, run)
        facts = json.loads((run / "run.json").read_text()) | {"prompt": prompt}
        (run / "run.json").write_text(json.dumps(facts | ({"status": "failed"} if number == 5 else {})))
    (tmp_path / "images").mkdir()
    (tmp_path / "gallery.md").write_text("above\n<!-- the films -->\n<!-- to here -->\nbelow\n")
    GALLERY["main"](tmp_path / "runs", tmp_path / "images", 16, 2)
    films = {film.stem: Image.open(film) for film in (tmp_path / "images" / "gallery").iterdir()}
    assert sorted(films) == sorted(slug(prompt) for prompt in prompts[:5])
    assert all((film.size, film.n_frames) == ((16, 16), 2) for film in films.values())
    assert Image.open(tmp_path / "images" / "hero.webp").size == (80, 16)
    lines = (tmp_path / "gallery.md").read_text().splitlines()
    assert lines[3].startswith("| ![a yellow duck](images/gallery/a-yellow-duck.webp) |")
    assert lines[5] == f"| {' | '.join(prompts[:3])} |"
    assert lines[7] == f"| {prompts[3]} | {prompts[4]} |  |" and len(lines) == 11


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs mkdocs, of the extra docs")
def test_it_builds_without_a_warning(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
    text = (folder / "mkdocs.yml").read_text()
    (folder / "mkdocs.yml").write_text(text.replace("[../..]", f"[{ROOT}]"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "html" / "first_object" / "index.html").is_file()
