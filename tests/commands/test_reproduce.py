"""`asdkit reproduce`: a real run of each figure, small; stopped and called again; what it refuses, and its plan."""

import fnmatch
import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from support.forked import Forked, kill_at_a_checkpoint, stop_at_the_first_checkpoint

from asdkit.commands.main import main
from asdkit.run.reproduction.figures import REFERENCES, declared

TWO_D = ["--model.generator.size=16", "--model.generator.count=2"]
THREE_D = ["--data.size=16", "--data.views_per_step=1", "--data.orbit.views=2", "--report.size=16"]
SMALL = {"2D": TWO_D, "2D, short": TWO_D[:1], "2D, exact scores": ["--model.prior.pictures=4"], "one step": TWO_D}
SMALL |= {"edits": []} | dict.fromkeys(("3D", "a spoilt object", "a picture"), THREE_D)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path) -> list[str]:
    """Runs of two iterations with a tiny prior; one of a figure's methods alone, in each of its parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asdkit.toybox.given._FITTED", 2)
    for name, part in declared().parts.items():
        options = [*part.options, *SMALL[name]]
        monkeypatch.setitem(declared().parts, name, replace(part, quick=2, steps=2, options=options))
    nerf = declared().methods["NeRF"]  # whose pictures grow from 64 pixels to 128
    smaller = ["--data.size.start=8", "--data.size.end=16", "--model.generator.samples=8"]
    monkeypatch.setitem(declared().methods, "NeRF", replace(nerf, options=[*nerf.options, *smaller]))
    for name, figure in declared().figures.items():
        first = {cell["part"]: cell for cell in reversed(figure.cells)}
        cells = [cell | {"methods": [one_of(cell)], "sweeps": [], "prompts": 1} for cell in first.values()]
        monkeypatch.setitem(declared().figures, name, replace(figure, cells=cells))
    return [f"--model.prior.path={tiny_folder}", "--jobs=2"]


def one_of(cell: dict) -> str:
    """The method that goes on from another one, or that most figures share, else the last; of a sweep its last."""
    swept = [declared().sweeps[name] for name in cell.get("sweeps", ())]
    methods = cell.get("methods") or [f"{list(swept[0]['series'])[-1]} {swept[0]['values'][-1]:g}"]
    return next((method for method in ("ASD after SDS 10000", "ASD 7.5") if method in methods), methods[-1])


@pytest.mark.slow
def test_a_run_of_each_figure(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each leaves what it measures, on a page and as data; called again, no run is made anew."""
    assert main(["reproduce", "--quick", "--out=out", *small]) == 0, capsys.readouterr()
    data = json.loads(Path("out/results.json").read_text())
    assert data["mode"] == "quick" and set(data["figures"]) == set(declared().figures)
    assert {figure["verdict"] for figure in data["figures"].values()} == {"not judged"}
    for name, figure in declared().figures.items():
        runs = [run for run in data["runs"] if name in run["figures"]]
        assert {run["part"] for run in runs} == {cell["part"] for cell in figure.cells}, name
        named = {metric for run in runs for metric in run["metrics"]}
        assert {"seconds"} <= named and named & set(figure.show), name
        for rule, cell in product(figure.rules, figure.cells):  # a measure that isn't there would judge nothing
            measured = {metric for run in runs if run["part"] == cell["part"] for metric in run["metrics"]}
            prefix = REFERENCES.get(rule.than, "")
            if rule.part in ("", cell["part"]) and rule.measure != "diversity":  # which is of several seeds
                assert fnmatch.filter(measured, f"{prefix}{rule.measure}"), (name, str(rule), cell["part"])
    [run] = [run for run in data["runs"] if run["method"] == "ASD after SDS 10000"]
    assert run["iterations"] == 2 and run["digest"] and run["versions"]["torch"] and run["seed"] == 0
    text = Path("out/index.html").read_text()
    assert text.count('<h2 id="') == len(declared().figures) and text.count("<img") >= len(data["runs"])
    assert "| 3D | ASD 7.5 |" in Path("out/table1.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert main(["reproduce", "--quick", "--out=out", *small]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}


@pytest.mark.slow
def test_three_seeds_are_judged_and_a_stop_loses_nothing(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 8 in 2D, stopped by SIGTERM in its first run, which goes on from its checkpoint."""
    show(monkeypatch, "SDS 7.5", "ASD 7.5")
    monkeypatch.setitem(declared().parts, "2D", replace(declared().parts["2D"], steps=4))
    words = ["reproduce", "fig8", "--full", "--out=out", small[0], "--jobs=1", "--checkpoints.every=2"]
    with monkeypatch.context() as first:
        stop_at_the_first_checkpoint(first)
        assert main(words) == 143 and not Path("out/index.html").exists()
    assert main(words) == 0 and not list(Path("out").rglob("*-before-*"))
    data = json.loads(Path("out/results.json").read_text())
    assert [run["seed"] for run in data["runs"]] == [0, 1, 2, 0, 1, 2, None, None]
    assert all(run["metrics"]["structure"] > 0 for run in data["runs"][:6])  # also of the one that went on
    rules = data["figures"]["fig8"]["rules"]
    assert [rule["pairs"] for rule in rules] == [1, 3] and rules[0]["verdict"] == "not judged"
    assert rules[1]["verdict"] in ("confirmed", "refuted", "not shown")


def show(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Figure 8 has these methods in 2D, of one prompt."""
    cells = [{"part": "2D", "methods": methods, "prompts": 1}]
    monkeypatch.setitem(declared().figures, "fig8", replace(declared().figures["fig8"], cells=cells))


def measured() -> list[dict]:
    """The rows of out/results.json without what differs by time and place."""
    rows = json.loads(Path("out/results.json").read_text())["runs"]
    facts = [{name: row[name] for name in row.keys() - {"seconds", "folder"}} for row in rows]
    return [row | {"metrics": row["metrics"] | {"seconds": 0}} for row in facts]


@pytest.mark.slow
def test_a_kill_loses_nothing(small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed by SIGKILL in its second run, with that run, and called again it has the table of one left alone."""
    show(monkeypatch, "SDS 7.5", "ASD 7.5")
    words = ["reproduce", "fig8", "--quick", "--out=out", small[0], "--jobs=1", "--checkpoints.every=1"]
    with monkeypatch.context() as first:
        kill_at_a_checkpoint(first, lambda: Path("out/results.json").exists())
        assert Forked(lambda: main(words), tmp_path / "log").wait() == -signal.SIGKILL
    assert len(json.loads(Path("out/results.json").read_text())["runs"]) == 1
    assert main(words) == 0 and not list(Path("out").rglob("*-before-*"))
    killed, table = measured(), Path("out/index.html").read_text().count("<td>")
    shutil.move("out", "killed")
    assert main(words) == 0 and measured() == killed
    assert Path("out/index.html").read_text().count("<td>") == table


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fig1"], "one of the arguments --quick --full --plan is required"),
        (["fig1", "--quick", "--full"], "not allowed with"),
        (["fgi1", "--quick"], "no figure 'fgi1'; did you mean 'fig1'; there are fig1, texture"),
        (["fig1", "--quick", "--seed=3"], "--seed is different for each run"),
        (["fig1", "--quick", "--model.guidance.gama=3"], "no option --model.guidance.gama"),
        (["fig1", "--quick", "--jobs=0"], "--jobs must be at least 1; got 0"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], expected: str, refused, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused("reproduce", *words) and not list(tmp_path.rglob("run.json"))


def test_plots_need_an_extra(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said before a run starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "This needs matplotlib" in refused("reproduce", "fig1", "--quick", code=3) and not list(tmp_path.iterdir())


def test_the_plan_says_what_runs_cost(capsys: pytest.CaptureFixture) -> None:
    assert main(["reproduce", "fig1", "fig7", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "--quick:" and lines[4].startswith("| fig1 | 3 | 3 | ")
    assert [line for line in lines if line.startswith("| all | ")][1].startswith("| all | 57 | 57 | ")
