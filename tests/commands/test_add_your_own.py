"""Parts of one's own: what `asdkit new` writes, and the examples of two pages, run by the commands that these give."""

import csv
import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from asdkit.commands.main import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("add_your_own.md", "write_a_discriminator.md"))
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGES, re.DOTALL))
BLOCKS = [shlex.split(block.replace("\\\n", " "))[1:] for block in re.findall(r"```bash\n(.*?)```", PAGES, re.DOTALL)]
COMMANDS = [block for block in BLOCKS if block[0] == "fit" and "--trust" in " ".join(block)]


QUICK = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.callbacks=[]", "--snapshots.every=0"]
QUICK += ["--data.size=16", "--report.size=16", "--run.recipe=own", "--run.name=one"]
IN_3D = ["--data.views_per_step=2", "--data.orbit.views=2"]
RUN = Path("runs") / "own" / "one"
KINDS = {
    "generator": ("Balls", "balls"),
    "discriminator": ("my_critic", "my_critic"),
    "prior": ("SmallWorld", "small_world"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that asdkit and pytest are started in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (module for _, name in KINDS.values() for module in (name, f"test_{name}")):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


@pytest.fixture
def outside(folder: Path) -> Path:
    """One with the files of the examples."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[3].split("=")[1])
def test_an_example_runs_by_its_command(outside: Path, tiny_folder: Path, command: list[str]) -> None:
    quick = [*QUICK, "--trainer.log_every_n_steps=1"]
    quick += [] if "stripes" in command else [f"--model.prior.path={tiny_folder}"]
    quick += [*IN_3D, "--model.generator.count=20"] if "gs3d" in command else ["--model.generator.size=16"]
    assert main([*command, *quick]) == 0
    report = json.loads((RUN / "run.json").read_text())
    assert report["status"] == "finished" and report["iterations"] == 2
    rows = list(csv.DictReader((RUN / "metrics.csv").open()))
    losses = [row for row in rows if row["grad_norm"]]  # the judge's own row, at the end, has none
    assert float(losses[-1]["grad_norm"]) > 0
    if command[3].startswith("--model.guidance="):
        assert float(losses[-1]["discriminator_grad_norm"]) > 0
        assert losses[0]["discriminator_loss"] != losses[-1]["discriminator_loss"]


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_check_and_runs(kind: str, folder: Path, tiny_folder: Path, capsys) -> None:
    name, module = KINDS[kind]
    assert main(["new", kind, name]) == 0
    *files, command, check = capsys.readouterr().out.splitlines()
    assert files == [f"{module}.py", f"test_{module}.py"] and check == f"pytest test_{module}.py"
    getattr(importlib.import_module(f"test_{module}"), f"test_{module}")()
    small = IN_3D if kind == "generator" else ["--model.generator.size=16", "--model.generator.count=1"]
    prior = [] if kind == "prior" else [f"--model.prior.path={tiny_folder}"]
    assert main([*shlex.split(command)[1:], *QUICK, *small, *prior]) == 0
    report = json.loads((RUN / "run.json").read_text())
    assert report["status"] == "finished" and report["iterations"] == 2


@pytest.mark.slow
def test_what_gives_no_density_is_exported_as_pictures_and_films(folder, tiny_folder: Path, refused: Callable) -> None:
    assert main(["new", "generator", "Balls"]) == 0
    Path("hollow.py").write_text("from balls import Balls\n\n\nclass Hollow(Balls):\n    def volume(self): ...\n")
    own = ["--model.generator=hollow.Hollow", f"--model.prior.path={tiny_folder}", "--trust", "hollow"]
    assert main(["fit", "gs3d", "--model.prompt", "a red cube", *QUICK, *IN_3D, *own]) == 0
    assert {"contact.png", "report.html"} <= {path.name for path in RUN.iterdir()} and list(RUN.glob("orbit.*"))
    export = ["export", str(RUN), "--size=16", "--frames=2", "--trust", "hollow"]
    assert main([*export, "--format=png,webp"]) == 0
    assert Image.open(RUN / "export" / "views.png").size == (8 * 16, 4 * 16)
    assert Image.open(RUN / "export" / "orbit.webp").n_frames == 2
    for kind, said in {"mesh-glb": "a density in space, and Hollow has no volume()", "ply": "made of Hollow"}.items():
        sentence = refused(*export, f"--format={kind}")
        assert said in sentence and sentence.endswith("export png, mp4 or webp.")


@pytest.mark.parametrize("name", ["2balls", "a-ball", "Tensor", "class", "None", "torch", "Views"])
def test_names_that_can_not_be(name: str, folder: Path, refused: Callable) -> None:
    said = "There is a torch already" if name == "torch" else "can't be the name of the class"
    assert said in refused("new", "generator", name) and not list(folder.iterdir())


def test_nothing_is_replaced(folder: Path, refused: Callable) -> None:
    Path("test_balls.py").write_text("mine\n")
    assert "There is a test_balls already" in refused("new", "generator", "Balls")
    assert [path.name for path in folder.iterdir()] == ["test_balls.py"]
