"""The examples of two pages, each one file outside the package, run by the commands that the pages give."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from asdkit.commands.main import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("add_your_own.md", "write_a_discriminator.md"))
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGES, re.DOTALL))
BLOCKS = [shlex.split(block.replace("\\\n", " "))[1:] for block in re.findall(r"```bash\n(.*?)```", PAGES, re.DOTALL)]
COMMANDS = [block for block in BLOCKS if block[0] == "fit" and "--trust" in " ".join(block)]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _losses(run: Path) -> list[dict[str, str]]:
    """The rows of the iterations; the judge's own row, at the end, has no losses."""
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    found = [dict(zip(header, row, strict=True)) for row in rows]
    return [row for row in found if row["grad_norm"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[3].split("=")[1])
def test_an_example_runs_by_its_command(outside: Path, tiny_folder: Path, command: list[str]) -> None:
    quick = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--run.name=one", "--run.recipe=own"]
    quick += ["--trainer.callbacks=[]", "--snapshots.every=0", "--trainer.accelerator=cpu"]
    quick += ["--data.size=16"] if "stripes" in command else [f"--model.prior.path={tiny_folder}", "--data.size=16"]
    if "gs3d" in command:
        quick += ["--data.views_per_step=2", "--data.orbit.views=2", "--report.size=16", "--model.generator.count=20"]
    else:
        quick += ["--model.generator.size=16"]
    assert main([*command, *quick]) == 0
    report = json.loads((outside / "runs" / "own" / "one" / "run.json").read_text())
    assert report["status"] == "finished" and report["iterations"] == 2
    rows = _losses(outside / "runs" / "own" / "one")
    assert float(rows[-1]["grad_norm"]) > 0
    if command[3].startswith("--model.guidance="):
        assert float(rows[-1]["discriminator_grad_norm"]) > 0
        assert rows[0]["discriminator_loss"] != rows[-1]["discriminator_loss"]


def test_without_trust_an_example_is_told_what_to_add(outside: Path, refused: Callable) -> None:
    for command in COMMANDS:
        module = command[-1]
        assert command[-2] == "--trust" and f"{module}.py" in FILES
        sentence = refused(*command[:-2])
        assert f"names {module}." in sentence and f"add --trust {module}." in sentence
    assert not (outside / "runs").exists()


def test_there_is_an_example_of_each_kind() -> None:
    assert len(FILES) == len(COMMANDS) == 8
    for name in FILES:
        assert any(name.removesuffix(".py") + "." in argument for command in COMMANDS for argument in command)
