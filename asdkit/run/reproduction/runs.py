"""The runs of figures on disk: a grid of all of them, and what they have measured as rows of `results.json`."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from asdkit.core.atomic import write_text
from asdkit.core.text import slug
from asdkit.run.grid import Cell, Grid
from asdkit.run.reproduction import results
from asdkit.run.reproduction.figures import FULL, Figure, Planned, Size, as_cell, declared
from asdkit.run.side_files import write_json

_KEPT = ("iterations", "seconds", "versions")


class Reproduction:
    """Figures at a size, and the runs that they need, with `further` options of `asdkit fit`, in a folder.

    Attributes:
        grids: of the runs that start from nothing, and of those that start from other runs.
    """

    def __init__(self, figures: Sequence[Figure], size: Size, further: Sequence[str], out: Path) -> None:
        self.figures, self.size, self.further, self.out = figures, size, list(further), out
        self.planned = {figure.name: declared().runs(figure, size) for figure in figures}
        needed: dict[tuple[str, ...], Planned] = {}
        for run in (run for runs in self.planned.values() for run in runs):
            for each in filter(None, (declared().before(run), run)):
                needed.setdefault(each.key, each)
        self._cells: dict[tuple[str, ...], Cell] = {}
        self.grids: list[Grid] = []
        for title, later in (("runs", False), ("runs after runs", True)):
            runs = {key: run for key, run in needed.items() if bool(run.method.after) == later}
            cells = {key: self._cell(run) for key, run in runs.items()}
            self.grids += [Grid([*cells.values()], [], title, self.out)] if cells else []
            self._cells |= cells

    def _cell(self, run: Planned) -> Cell:
        before = declared().before(run)
        start = self.grids[0].run_folder(self._cells[before.key]) if before else None
        return as_cell(run, self.size, self.further, self._given(run), start)

    def _given(self, run: Planned) -> Path:
        return self.out / "given" / f"{slug(f'{run.part.name} {run.subject.prompt}')}{run.part.ending}"

    def make_given(self) -> None:
        """Make the files that runs are given, where they are not there yet."""
        for run in (run for runs in self.planned.values() for run in runs if run.part.given):
            module, _, name = run.part.given.rpartition(".")
            if not (file := self._given(run)).is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                getattr(import_module(module), name)(run.subject.prompt, run.subject.azimuth_deg, file)

    def write(self, command: str) -> dict[str, Any]:
        """Write `results.json` and `table1.md` of the runs that are finished; returns what the former holds."""
        rows = self._rows()
        runs = {row["folder"]: row for row in rows if row["folder"]}
        data: dict[str, Any] = {
            "mode": self.size.name,
            "command": command,
            "minutes": round(sum(row["seconds"] for row in runs.values()) / 60, 1),
            "priors": sorted({row["digest"] for row in runs.values()}),
            "runs": rows,
        }
        of = {figure.name: [row for row in rows if figure.name in row["figures"]] for figure in self.figures}
        data["figures"] = {f.name: results.judged(f, of[f.name], self.size == FULL) for f in self.figures}
        write_json(self.out / "results.json", data)
        if "table1" in of:
            write_text(self.out / "table1.md", results.table(of["table1"], declared().figures["table1"].show))
        return data

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each method, prompt and seed of a part whose run is finished, and for what the seeds differ by."""
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for figure, run in ((name, run) for name, runs in self.planned.items() for run in runs):
            grid, cell = self.grids[-1 if run.method.after else 0], self._cells[run.key]
            if not grid.finished(cell):
                continue
            name = (run.part.name, run.method.name, run.subject.prompt, run.seed)
            if name not in rows:
                rows[name] = _row(name, grid.report(cell), grid.run_folder(cell))
            rows[name]["figures"].append(figure)
        return [*rows.values(), *_over_seeds(rows.values())]


def _row(name: tuple[Any, ...], report: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    row = dict(zip(("part", "method", "prompt", "seed"), name, strict=True)) | {"figures": []}
    metrics = {**results.with_derived(report.get("metrics", {})), "seconds": report["seconds"]}
    return row | {"metrics": metrics, "digest": report["prior"], "folder": str(folder)} | {k: report[k] for k in _KEPT}


def _over_seeds(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much the pictures of a prompt differ from seed to seed, for each part and method."""
    alike: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["part"], row["method"], row["prompt"]), []).append(row)
    over = []
    for (part, method, prompt), members in alike.items():
        pictures = [Path(row["folder"]) / "contact.png" for row in members]
        if len(pictures) > 1 and all(picture.is_file() for picture in pictures):
            name = {"part": part, "method": method, "prompt": prompt, "seed": None, "figures": members[0]["figures"]}
            over.append(name | {"metrics": {"diversity": results.diversity(pictures)}, "folder": "", "seconds": 0.0})
    return over


def costs(figures: Sequence[Figure], size: Size) -> list[dict[str, Any]]:
    """For each figure the number of its runs, of those that no figure before has, and what these cost."""
    known: set[tuple[str, ...]] = set()
    rows: list[dict[str, Any]] = []
    for figure in figures:
        runs = declared().runs(figure, size)
        needed = {each.key: each for run in runs for each in (declared().before(run), run) if each}
        own = [run for key, run in needed.items() if key not in known]
        known |= needed.keys()
        hours = sum(map(size.core_seconds, own)) / 3600
        rows.append({"figure": figure.name, "runs": len(runs), "of its own": len(own), "core-hours": hours})
    total = sum(row["of its own"] for row in rows), sum(row["core-hours"] for row in rows)
    return [*rows, {"figure": "all", "runs": total[0], "of its own": total[0], "core-hours": total[1]}]
