"""What the runs of a grid have come to: tables, and a sheet of their pictures."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from asdkit.core.atomic import atomic, write_text
from asdkit.run.grid import Cell, Grid
from asdkit.run.side_files import csv_text, read_facts, write_json

_COLUMNS = ("status", "exit_code", "seconds", "iterations", "folder", "reason", "prior")
_NOT_IN_MARKDOWN = {"exit_code", "iterations", "folder", "reason", "prior"}


def record_path(grid: Grid, cell: Cell) -> Path:
    """Where status, exit code, seconds and reason are written down when the run of a cell has ended."""
    return grid.folder / f"{grid.run_folder(cell).name}.json"


def row(grid: Grid, cell: Cell) -> dict[str, Any]:
    """What is known of a cell: prompt, labels, its record, facts of its run and, when it is finished, metrics."""
    report = grid.report(cell)
    known = {"prompt": cell.prompt, **cell.labels, **dict.fromkeys(_COLUMNS)}
    known |= {"status": "waiting", "folder": str(grid.run_folder(cell))}
    known |= read_facts(record_path(grid, cell))
    known |= {name: report[name] for name in ("seconds", "iterations", "prior") if name in report}
    return known | (report.get("metrics", {}) if report.get("status") == "finished" else {})


def write_tables(grid: Grid) -> None:
    """`sweep.json`, `sweep.csv` and `sweep.md`: whichever process writes last has seen the records of all."""
    written = ""
    while written != (now := json.dumps(rows := [row(grid, cell) for cell in grid.cells])):  # NaN is like no number
        names = list(dict.fromkeys(name for known in rows for name in known))
        write_json(grid.folder / "sweep.json", rows)
        write_text(grid.folder / "sweep.csv", csv_text(rows, names))
        write_text(grid.folder / "sweep.md", markdown(rows, [n for n in names if n not in _NOT_IN_MARKDOWN]))
        written = now


def write_contacts(grid: Grid) -> None:
    """`sweep.png`: the runs' contact sheets, half as large or smaller, in the tables' order; white where one lacks."""
    files = [grid.run_folder(cell) / "contact.png" for cell in grid.cells]
    columns, scale = math.isqrt(len(files) - 1) + 1, min(0.5, 8 / math.sqrt(len(files)))
    pictures = {place: picture for place, file in enumerate(files) if (picture := _picture(file, scale))}
    width = max((picture.width for picture in pictures.values()), default=1)
    height = max((picture.height for picture in pictures.values()), default=1)
    sheet = Image.new("RGB", (width * columns, height * -(-len(files) // columns)), "white")
    for place, picture in pictures.items():
        sheet.paste(picture, (place % columns * width, place // columns * height))
    with atomic(grid.folder / "sweep.png") as temporary:
        sheet.save(temporary)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as a Markdown table, whose `columns` are keys of the rows; all keys, where none are given."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([cell_text(row.get(name)) for name in columns] for row in rows)]
    head, *others = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(columns), *others]) + "\n"


def cell_text(value: Any) -> str:
    """A value as a table shows it: a number to three figures, nothing for None."""
    if isinstance(value, int | float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", "\\|")


def estimate(values: Sequence[float]) -> str:
    """A mean and its standard error, which one value does not have."""
    mean = cell_text(statistics.fmean(values))
    return f"{mean} ± {cell_text(statistics.stdev(values) / math.sqrt(len(values)))}" if len(values) > 1 else mean


def _picture(file: Path, scale: float) -> Image.Image | None:
    try:
        return ImageOps.scale(Image.open(file, formats=["PNG"]).convert("RGB"), scale, Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # torn, or no picture of ours
        return None
