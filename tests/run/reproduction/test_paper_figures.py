"""The figures' file: whatever it names is there, `asdkit fit` takes its options, and shared runs are planned once."""

from collections import Counter
from pathlib import Path

import pytest

from asdkit.commands.main import main
from asdkit.run.reproduction.figures import FULL, QUICK, REFERENCES, START_SECONDS, Figure, Planned, as_cell, declared
from asdkit.run.reproduction.runs import costs
from asdkit.toybox.captions import parse

FIGURES = declared()
PAPERS = ("fig1", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "table1")


def methods_of(figure: Figure, part: str) -> set[str]:
    return {run.method.name for run in FIGURES.runs(figure, QUICK) if run.part.name == part}


@pytest.mark.parametrize("name", FIGURES.figures)
def test_rules_speak_of_methods_that_the_figure_has(name: str) -> None:
    """In each part that a rule is about; a rule about no part would never judge."""
    figure = FIGURES.figures[name]
    for rule in figure.rules:
        parts = [cell["part"] for cell in figure.cells if rule.part in ("", cell["part"])]
        assert any({rule.of, rule.than} - {*REFERENCES} <= methods_of(figure, part) for part in parts), str(rule)
        assert rule.between[0] < rule.between[1] and {*rule.between} != {float("-inf"), float("inf")}
    assert figure.claim.endswith(".") and figure.rules and figure.show


def test_the_papers_figures_are_there() -> None:
    assert [name for name in FIGURES.figures if name.startswith(("fig", "table"))] == list(PAPERS)
    settings = {run.method.name for name in PAPERS for run in FIGURES.runs(FIGURES.figures[name], FULL)}
    assert {"SDS 7.5", "SDS 100", "SDS 10000", "VSD 7.5", "VSD, 50 steps", "CSD", "DDS", "ASDEdit"} <= settings
    for name in ("fig6", "fig8"):
        runs = FIGURES.runs(FIGURES.figures[name], FULL)
        prompts = {part: {run.subject.prompt for run in runs if run.part.name == part} for part in ("2D", "3D")}
        assert [len(prompts[part]) for part in prompts] == [3, 3]


def test_comparisons_have_their_prompts_methods_and_seeds() -> None:
    """Textures: six prompts in 2D, two of them in 3D as well, or what they show, by four methods with three seeds each.

    Eight kinds of phi on three prompts, and with and without the real sample on six, each with one seed.
    """
    runs = FIGURES.runs(FIGURES.figures["texture"], FULL)
    counts = Counter((run.part.name, run.subject.prompt) for run in runs)
    assert Counter(part for part, _ in counts) == {"2D": 6, "3D": 2} and {*counts.values()} == {4 * 3}
    assert all(parse(prompt).material for _, prompt in counts)
    for name, methods, prompts in (("phi", 8, 3), ("picture", 2, 6)):
        runs = FIGURES.runs(FIGURES.figures[name], FULL)
        assert len(runs) == methods * prompts and {run.seed for run in runs} == {0}
        assert len({run.method.name for run in runs}) == methods
        assert len({run.subject.prompt for run in runs}) == prompts


def planned() -> list[Planned]:
    """A run of each kind that any figure needs, of each of its prompts' kinds."""
    runs = [run for figure in FIGURES.figures.values() for run in FIGURES.runs(figure, FULL)]
    return list({(run.part.name, run.method.name, bool(run.subject.options)): run for run in runs}.values())


def test_fit_takes_all_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As its parser reads them; and it refuses what there is not."""
    given = tmp_path / "duck.png"
    given.touch()
    for run in planned():
        cell = as_cell(run, FULL, [], given)
        assert main(["fit", *cell.options, "--model.prompt", cell.prompt, "--print_config"]) == 0, capsys.readouterr()
    assert main(["fit", *cell.options, "--model.nothing_such=1", "--model.prompt=x"]) == 2


def test_prompts_are_of_the_world() -> None:
    """All have a truth; Figure 9's situations are there."""
    subjects = [subject for part in FIGURES.parts.values() for subject in part.prompts]
    assert all(parse(subject.prompt) for subject in subjects)
    assert {subject.of for subject in subjects} >= {"simplification", "refinement", "replacement"}
    for subject in subjects:
        words = [option.split("=", 1) for option in subject.options]
        named = [word for option, word in words if option.startswith(("--model.so", "--data.th"))]
        assert all(map(parse, named)) and len(set(named)) <= 1


def test_runs_of_several_figures_are_made_once() -> None:
    """Figures 1, 6, 7, 8 and Table 1 share one grid; a setting of a sweep is the one of the same options."""
    rows = {row["figure"]: row for row in costs(list(FIGURES.figures.values()), FULL)}
    assert rows["fig7"]["of its own"] == rows["fig8"]["of its own"] == rows["table1"]["of its own"] == 0
    by_name = {run.method.name: run for run in FIGURES.runs(FIGURES.figures["gamma"], QUICK)}
    ours = {run.method.name: run for run in FIGURES.runs(FIGURES.figures["fig6"], QUICK) if run.part.name == "2D"}
    assert by_name["gamma -0.5"].key == ours["ASD 7.5"].key != by_name["gamma -0.75"].key


def test_what_is_promised_of_the_costs() -> None:
    """A quick run takes at most 15 minutes of two cores, a full one at most 10 core-hours."""
    figures = list(FIGURES.figures.values())
    for size, hours in ((QUICK, 0.5), (FULL, 10)):
        assert costs(figures, size)[-1]["core-hours"] <= hours
    [row, total] = costs([FIGURES.figures["fig1"]], QUICK)
    part = FIGURES.parts["2D"]
    expected = 3 * START_SECONDS + part.quick * part.seconds * (0.42 + 0.42 + 1)
    assert row["core-hours"] == total["core-hours"] == pytest.approx(expected / 3600)
