"""What the documents say runs."""

import re
from pathlib import Path

import pytest
import yaml

import asdkit

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [(page.name, code) for page in PAGES for code in PYTHON.findall(page.read_text())]


@pytest.mark.parametrize(("page", "code"), BLOCKS)
@pytest.mark.slow
def test_python_blocks_run(page: str, code: str) -> None:
    exec(compile(code.replace("range(200)", "range(2)"), page, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_gives_ci_its_test_command() -> None:
    assert ".venv/bin/pytest" in (ROOT / "README.md").read_text()
    assert re.search(r"^pytest", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_citation_has_the_packages_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == asdkit.__version__
