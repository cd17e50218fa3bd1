"""The runs of figures: those that are kept as rows of `results.json` with their pictures, and a grid of the others."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asdkit.core.atomic import atomic, write_text
from asdkit.core.errors import UsageError
from asdkit.core.text import slug
from asdkit.run.grid import Cell, Grid
from asdkit.run.reproduction import results
from asdkit.run.reproduction.figures import FULL, START_SECONDS, Figure, Planned, Size, Subject, as_cell, declared
from asdkit.run.side_files import read_facts, write_json

CONTACT = "contact.png"
_PIXELS, _QUALITY = 512, 80  # about how wide a picture is kept, and how well


class Reproduction:
    """Figures at a size, and the runs that they need, with `further` options of `asdkit fit`, in a folder.

    What is kept of a run is its row in `results.json`, and its pictures, small, beside it. A run that is kept there is
    not made again, with or without its folder, unless its options, recipe or prior are others now.

    Of all `figures` that can be made with this prior, those of these `names` are made; others stay on the page, as far
    as they are kept. `grids` are of the missing runs: of those that start from nothing, and from other runs.
    """

    def __init__(
        self, figures: Sequence[Figure], names: Sequence[str], size: Size, further: Sequence[str], prior: str, out: Path
    ) -> None:
        before = read_facts(out / "results.json")
        if FULL.name == before.get("mode") != size.name:
            raise UsageError(f"{out} holds a --full reproduction, which --quick would replace; name another --out.")
        if before.get("mode") != size.name:
            before = {}
        self._kept = {row["folder"]: row for row in before.get("runs", []) if row["folder"] and "pictures" in row}
        self.figures = [figure for figure in figures if figure.name in {*names, *before.get("figures", {})}]
        self.size, self.out = size, out
        self.planned = {figure.name: declared().runs(figure, size) for figure in self.figures}
        self._folders: dict[tuple[str, ...], Path] = {}
        self.grids: list[Grid] = []
        needed = _by_key(run for figure in figures for run in declared().runs(figure, size))
        for title, later in (("runs", False), ("runs after runs", True)):
            cells: dict[tuple[str, ...], Cell] = {}
            for key, run in needed.items():
                if bool(run.method.after) == later:
                    first = declared().before(run)
                    start = self._folders[first.key] if first else None
                    cells[key] = as_cell(run, size, further, self._given(run), start, prior)
            if cells:
                self.grids.append(grid := Grid([*cells.values()], [], title, self.out))
                self._folders |= {key: grid.run_folder(cell) for key, cell in cells.items()}
        self._missing = _by_key(run for name in names for run in self.planned[name] if not self.row(run))
        missing = {self._folders[key] for key in self._missing}
        for grid in self.grids:
            grid.cells = [cell for cell in grid.cells if grid.run_folder(cell) in missing]

    def _given(self, run: Planned) -> Path:
        return self.out / "given" / f"{slug(f'{run.part.name} {run.subject.prompt}')}{run.part.ending}"

    def make_given(self) -> None:
        """Make the files that missing runs are given, and the pictures of the truth, where they are not there yet."""
        for run in (run for run in self._missing.values() if run.part.given):
            if not (file := self._given(run)).is_file():
                _make(run.part.given, run.subject, file)
        for subject in {run.subject.prompt: run.subject for runs in self.planned.values() for run in runs}.values():
            if not (file := of_truth(self.out, subject.prompt)).is_file():
                _make(declared().truth, subject, png := self.out / "given" / f"{file.stem}.png")
                keep(png, file)

    def row(self, run: Planned) -> dict[str, Any] | None:
        """What is kept of a run, from now on at least; None where it is not finished, or its pictures are lost."""
        folder = self._folders[run.key]
        name = folder.relative_to(self.out).as_posix()
        row: dict[str, Any] | None = self._kept.get(name)
        if row and all(kept(self.out, name, picture).is_file() for picture in row["pictures"]):
            return row
        report = read_facts(folder / "run.json")
        if report.get("status") != "finished":
            return None
        shown = {CONTACT, *(figure.picture for figure in declared().figures.values() if _shows(figure, run))}
        there = [picture for picture in sorted(shown) if (folder / picture).is_file()]
        for picture in there:
            keep(folder / picture, kept(self.out, name, picture))
        of = {"part": run.part.name, "method": run.method.name, "prompt": run.subject.prompt, "seed": run.seed}
        metrics = {**results.with_derived(report.get("metrics", {})), "seconds": report["seconds"]}
        facts = {"digest": report["prior"], "folder": name}
        facts |= {fact: report[fact] for fact in ("iterations", "seconds", "versions")}
        row = self._kept[name] = {**of, "metrics": metrics, "pictures": there, **facts}
        return row

    def write(self, command: str) -> dict[str, Any]:
        """Write `results.json` and `table1.md` of the runs that are finished; returns what the former holds."""
        rows = self._rows()
        runs = {row["folder"]: row for row in rows}.values()
        data: dict[str, Any] = {
            "mode": self.size.name,
            "command": command,
            "minutes": round(sum(row["seconds"] for row in runs) / 60, 1),
            "priors": sorted({row["digest"] for row in runs}),
            "runs": (rows := [*rows, *self._over_seeds(rows)]),
        }
        of = {figure.name: [row for row in rows if figure.name in row["figures"]] for figure in self.figures}
        data["figures"] = {f.name: results.judged(f, of[f.name], self.size == FULL) for f in self.figures}
        write_json(self.out / "results.json", data)
        if "table1" in of:
            write_text(self.out / "table1.md", results.table(of["table1"], declared().figures["table1"].show))
        return data

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each method, prompt and seed of a part whose run is finished."""
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for figure, run in ((name, run) for name, runs in self.planned.items() for run in runs):
            name = (run.part.name, run.method.name, run.subject.prompt, run.seed)
            if name not in rows and (row := self.row(run)):
                rows[name] = row | {"method": run.method.name, "figures": []}  # one run may have two names
            if name in rows:
                rows[name]["figures"].append(figure)
        return [*rows.values()]

    def _over_seeds(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """How much the pictures of a prompt differ from seed to seed, for each part and method."""
        alike: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            alike.setdefault((row["part"], row["method"], row["prompt"]), []).append(row)
        over = []
        for (part, method, prompt), members in alike.items():
            files = tuple(kept(self.out, row["folder"], CONTACT) for row in members)
            if len(files) > 1 and all(file.is_file() for file in files):
                name = {"part": part, "method": method, "prompt": prompt, "seed": None}
                facts = {"figures": members[0]["figures"], "pictures": [], "folder": "", "seconds": 0.0}
                over.append({**name, "metrics": {"diversity": diversity(files)}, **facts})
        return over


def _make(function: str, subject: Subject, file: Path) -> None:
    """Let a function that the figures' file names make a file."""
    module, _, name = function.rpartition(".")
    file.parent.mkdir(parents=True, exist_ok=True)
    getattr(import_module(module), name)(subject.prompt, subject.azimuth_deg, file)


def _by_key(runs: Iterable[Planned]) -> dict[tuple[str, ...], Planned]:
    """Runs, each once and after the run that it starts from."""
    needed: dict[tuple[str, ...], Planned] = {}
    for each in (each for run in runs for each in (declared().before(run), run) if each):
        needed.setdefault(each.key, each)
    return needed


def _shows(figure: Figure, run: Planned) -> bool:
    """Whether a figure has a run of this part and method."""
    return any(cell["part"] == run.part.name and run.method.name in cell.get("methods", ()) for cell in figure.cells)


def costs(figures: Sequence[Figure], size: Size) -> list[dict[str, Any]]:
    """For each figure the number of its runs, of those that no figure before has, and what these cost."""
    known: dict[tuple[str, ...], Planned] = {}
    rows: list[dict[str, Any]] = []
    for figure in figures:
        runs = declared().runs(figure, size)
        own = [run for key, run in _by_key(runs).items() if key not in known]
        known |= {run.key: run for run in own}
        hours = sum(START_SECONDS + size.steps(r.part) * r.part.seconds * r.method.cost for r in own) / 3600
        rows.append({"figure": figure.name, "runs": len(runs), "of its own": len(own), "core-hours": hours})
    total = sum(row["of its own"] for row in rows), sum(row["core-hours"] for row in rows)
    return [*rows, {"figure": "all", "runs": total[0], "of its own": total[0], "core-hours": total[1]}]


def kept(out: Path, folder: str, picture: str) -> Path:
    """The file that is kept of a picture, e.g. `contact.png`, of the run in a folder."""
    return out / "pictures" / f"{Path(folder).name}-{Path(picture).stem}.webp"


def of_truth(out: Path, prompt: str) -> Path:
    """The file of true pictures of a prompt."""
    return out / "pictures" / f"truth-{slug(prompt)}.webp"


def keep(picture: Path, file: Path) -> None:
    """Keep a picture as a file, each of whose pixels is the mean of a square of the picture's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small = Image.open(picture, formats=["PNG"]).convert("RGB")
    with atomic(file) as temporary:
        small.reduce(max(1, small.width // _PIXELS)).save(temporary, "WEBP", quality=_QUALITY)


@cache
def diversity(files: tuple[Path, ...]) -> float:
    """The root mean square difference of two kept pictures in [0,1] of the same size, on average over all pairs."""
    arrays = [np.asarray(Image.open(file).convert("RGB"), dtype=float) / 255 for file in files]
    return statistics.fmean(float(np.sqrt(np.square(a - b).mean())) for a, b in itertools.combinations(arrays, 2))
