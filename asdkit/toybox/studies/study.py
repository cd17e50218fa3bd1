"""A study: runs of one recipe side by side, a table of their figures, and a sheet of their pictures."""

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from asdkit.core.atomic import write_text
from asdkit.core.optional import require_package
from asdkit.core.text import slug
from asdkit.formats.pictures import save_grid
from asdkit.run import tables
from asdkit.run.grid import Cell, Grid, product
from asdkit.run.pool import make_runs
from asdkit.toybox.studies import curves, measures, truths
from asdkit.toybox.studies.truths import Subject

_RUN_OF = re.compile(r"RUN_OF\((.+)\)")
_STOPPED = (130, 143)  # exit codes of runs that a signal has ended
_SHOWN = 128  # pixels of a picture in a sheet


@dataclass(frozen=True)
class Study:
    """What a YAML file declares.

    Attributes:
        name: of the file.
        description: what is compared.
        recipe: of every run.
        options: of `asdkit fit`, for every run.
        prompts: those of the runs, in the place of which the command line may name others.
        edits: in the place of prompts, the fields of a `Subject` each.
        given: options of `asdkit fit` for each subject, in which its fields stand as {prompt}, {source}, {picture} ...
        start: the function of `truths` that makes a subject's file {start}, in a folder that it is told.
        axes: what varies beside the prompt: by value the options of `asdkit fit`, or `values` and the `options` in
            which each stands as {}. `RUN_OF(value)` in an option is the folder of the run of another value.
        columns: of the table: names in a run's row, and headings.
        means_of: the column whose values' means the table has.
        measure: the function of `measures` that gives a run's row further figures.
        curves: the style of each method's curve; the results are then those of `curves`, and no table and sheet.
        picture: the file of a run that the sheet shows, `scale` times as large as it is.
        above: the function of `truths` that draws what stands above the results in the sheet.
        below: likewise.
    """

    name: str
    description: str
    recipe: str
    axes: Mapping[str, Mapping[Any, Any]]
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    prompts: Sequence[str] = ()
    edits: Sequence[Mapping[str, Any]] = ()
    given: Sequence[str] = ()
    start: str = ""
    means_of: str = ""
    measure: str = ""
    curves: Mapping[str, str] = field(default_factory=dict)
    picture: str = "contact.png"
    scale: float = 0.5
    above: str = ""
    below: str = ""

    def measured(self, run: Path, subject: Subject) -> dict[str, float]:
        """Further figures of a run."""
        figures: dict[str, float] = getattr(measures, self.measure)(run, subject) if self.measure else {}
        return figures


def declared() -> dict[str, Study]:
    """All studies, by name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {file.stem: Study(file.stem, **yaml.safe_load(file.read_text("utf-8"))) for file in files}


def make(study: Study, chosen: Namespace) -> int:
    """Make a study's runs, or go on with them, and write its table and pictures; returns the exit code.

    Raises:
        ValueError: an option that can't be.
        MissingExtra: curves without matplotlib.
        OSError: a full disk.
    """
    if study.curves:
        require_package("matplotlib", "plots")
    named = [Subject(**edit) for edit in study.edits] or [Subject(prompt) for prompt in chosen.prompts]
    subjects = [
        subject._replace(
            picture=_drawn(study, study.above, subject, chosen.out), start=_started(study, subject, chosen.out)
        )
        for subject in named
    ]
    grid, code = _made(study, _cells(study, subjects, chosen), chosen)
    pairs = zip(grid.cells, cycle(subjects), strict=False)
    finished = [(cell, subject) for cell, subject in pairs if code not in _STOPPED and grid.finished(cell)]
    rows = [tables.row(grid, cell) | study.measured(grid.run_folder(cell), subject) for cell, subject in finished]
    if not rows:
        return code
    if study.curves:
        curves.write(rows, study.curves, chosen.out)
    else:
        _write_table(rows, study, chosen.out / "table.md")
        _write_sheet(grid, study, subjects, chosen.out)
    return code


def _cells(study: Study, subjects: Sequence[Subject], chosen: Namespace) -> list[Cell]:
    """A cell for each combination of the axes' values and each subject; subjects change fastest."""
    cells = []
    for cell in product([""], {name: _by_value(axis, getattr(chosen, name)) for name, axis in study.axes.items()}):
        for subject in subjects:
            given = [option.format(**subject._asdict()) for option in study.given]
            labels = {**cell.labels, **({"edit": str(subject)} if subject.source else {})}
            cells.append(Cell(subject.prompt, labels, [*cell.options, *given, *chosen.options]))
    return cells


def _by_value(axis: Mapping[Any, Any], values: Sequence[Any]) -> dict[Any, list[str]]:
    """The options of an axis's values, of those included whose runs others start from."""
    if "values" in axis:
        return {value: [option.format(value) for option in axis["options"]] for value in values}
    starts = {name for value in values for option in axis[value] for name in _RUN_OF.findall(option)}
    return {value: options for value, options in axis.items() if value in starts or value in values}


def _made(study: Study, cells: Sequence[Cell], chosen: Namespace) -> tuple[Grid, int]:
    """The grid of the runs, which are made, and the exit code; what starts from another run comes after the others."""

    def runs(cells: Sequence[Cell]) -> tuple[Grid, int]:
        grid = Grid(cells, ["--config", study.recipe, *study.options], chosen.out.name, chosen.out)
        return grid, make_runs(grid, chosen.jobs)

    first = [cell for cell in cells if not any(map(_RUN_OF.search, cell.options))]
    grid, code = runs(first)
    if len(first) == len(cells) or code in _STOPPED:
        return grid, code
    folders = {value: str(grid.run_folder(cell)) for cell in first for value in cell.labels.values()}
    options = [[_RUN_OF.sub(lambda run: folders[run[1]], option) for option in cell.options] for cell in cells]
    return runs([replace(cell, options=own) for cell, own in zip(cells, options, strict=True)])


def _drawn(study: Study, truth: str, subject: Subject, out: Path) -> Path | None:
    """The file of a subject's true pictures, as large in the sheet as the results; None where no truth is named."""
    if not truth:
        return None
    images = getattr(truths, truth)(subject)
    file = out / "truths" / f"{truth}-{slug(str(subject))}.png"
    save_grid(images, file, columns=min(4, len(images)), scale=round(_SHOWN / (images.shape[-1] * study.scale)))
    return file


def _started(study: Study, subject: Subject, out: Path) -> Path | None:
    """The file that a subject's runs are given, which is made once; None where none is named."""
    if not study.start:
        return None
    folder = out / "given"
    folder.mkdir(parents=True, exist_ok=True)
    file: Path = getattr(truths, study.start)(subject, folder / slug(str(subject)))
    return file


def _write_sheet(grid: Grid, study: Study, subjects: Sequence[Subject], out: Path) -> None:
    """The subjects side by side: what should be, and what each combination of the axes' values has made of it."""
    results = [grid.run_folder(cell) / study.picture for cell in grid.cells]
    below = [_drawn(study, study.below, subject, out) for subject in subjects]
    pictures = [file for file in (*(subject.picture for subject in subjects), *results, *below) if file]
    rows = [pictures[start : start + len(subjects)] for start in range(0, len(pictures), len(subjects))]
    tables.write_sheet(rows, out / "sheet.png", study.scale)


def _write_table(rows: Sequence[Mapping[str, Any]], study: Study, path: Path) -> None:
    """Write and print rows as a Markdown table, and below it which prior they are of."""
    priors = ", ".join(dict.fromkeys(f"`{row['prior']}`" for row in rows))
    text = f"{tables.markdown(rows, study.columns, study.means_of)}\nPrior {priors}.\n"
    write_text(path, text)
    print(text)
