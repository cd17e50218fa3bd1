"""What the studies share: their options, the runs of their cells, and tables that name the prior."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from asdkit.core.atomic import write_text
from asdkit.run import tables
from asdkit.run.exits import end
from asdkit.run.grid import Cell, Grid
from asdkit.run.pool import make_runs
from asdkit.toybox import world


def study_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options of every study: --out, --jobs and, after --, further options of asdkit fit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs", name), help="folder of the runs, tables and pictures")
    parser.add_argument("--jobs", type=int, help="runs side by side; one on each GPU, or one, by default")
    parser.add_argument("options", nargs="*", help="after --: further options of asdkit fit, for every run")
    return parser


def toybox_prompt(text: str) -> str:
    """A prompt whose truth is known."""
    if world.parse(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no thing of the toybox, such as 'a yellow duck'")
    return text


class Made(NamedTuple):
    """The runs of a study: their grid, a row for each that is finished, and the exit code of making them."""

    grid: Grid
    rows: list[dict[str, Any]]
    code: int

    def pictures(self, name: str) -> list[Path]:
        """A file of each run."""
        return [self.grid.run_folder(cell) / name for cell in self.grid.cells]


def make_study(cells: Sequence[Cell], recipe: str, chosen: argparse.Namespace) -> Made:
    """Make the runs of a study, or go on with them, as its command line says (`study_parser`).

    Raises:
        SystemExit: a signal, an option that can't be, a full disk, or no run is finished.
    """
    cells = [replace(cell, options=[*cell.options, *chosen.options]) for cell in cells]
    try:
        grid = Grid(cells, ["--config", recipe], chosen.out.name, chosen.out)
        code = make_runs(grid, chosen.jobs)
    except (OSError, ValueError) as error:
        raise SystemExit(end(error)) from None
    rows = [tables.row(grid, cell) for cell in cells if grid.finished(cell)]
    if code in (130, 143) or not rows:
        raise SystemExit(code)
    return Made(grid, rows, code)


def rows_of(files: Sequence[Path], width: int) -> list[Sequence[Path]]:
    """Files in rows of so many."""
    return [files[start : start + width] for start in range(0, len(files), width)]


def write_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], path: Path, means_of: str = "") -> None:
    """Write and print rows as a Markdown table, and below it which prior they are of."""
    priors = ", ".join(dict.fromkeys(f"`{row['prior']}`" for row in rows))
    text = f"{tables.markdown(rows, columns, means_of)}\nPrior {priors}.\n"
    write_text(path, text)
    print(text)
