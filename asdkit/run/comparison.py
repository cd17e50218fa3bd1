"""Runs side by side: a table with errors, a sheet from the same cameras, and the curves of what they have logged."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from asdkit.core.atomic import atomic, write_text
from asdkit.core.optional import require_package
from asdkit.formats.pictures import save_grid, save_webp
from asdkit.run.export import Result
from asdkit.run.grid import Compared
from asdkit.run.loggers import logged
from asdkit.run.side_files import read_facts, write_json
from asdkit.run.tables import estimate, markdown

_VIEW, _VIEWS = 96, 4  # pixels of a view in the sheet, and how many of each run, two in a row
_PANELS_IN_A_ROW = 4
_FRAMES, _FPS, _IN_A_ROW = 48, 16, 5  # of the film, and objects in a row of it


def write(runs: Sequence[Compared], out: Path) -> str:
    """Write `compare.json`, `.md` and `.png` of finished runs, a label's together; returns means and differences."""
    write_json(out / "compare.json", [_facts(run) for run in runs])
    text = f"{means(runs)}\n{differences(runs)}"
    of_each = markdown([{"label": run.label, "run": run.pair, **run.metrics} for run in runs])
    write_text(out / "compare.md", f"{text}\n{of_each}")
    columns = max(map(len, _by_label(runs).values()))
    tiles = torch.stack([_tile(Result(run.run)) for run in runs])
    save_grid(tiles, out / "compare.png", columns, labels=[run.label for run in runs])
    return text


def save_film(runs: Sequence[Compared], size: int, path: Path) -> None:
    """An animated WebP in which all objects turn, five in a row, each `size` pixels wide; a ValueError for images."""
    films = [Result(run.run).orbit(size, _FRAMES) for run in runs]
    films += [torch.ones_like(films[0])] * (-len(films) % min(_IN_A_ROW, len(films)))
    rows = [torch.cat(films[i : i + _IN_A_ROW], dim=3) for i in range(0, len(films), _IN_A_ROW)]
    save_webp(torch.cat(rows, dim=2), path, _FPS)


def means(runs: Sequence[Compared]) -> str:
    """The mean of each figure over the runs of a label, and its standard error, as Markdown."""
    groups = {label: [run.metrics for run in group] for label, group in _by_label(runs).items()}
    return markdown([{"label": label, "runs": len(group), **_estimates(group)} for label, group in groups.items()])


def differences(runs: Sequence[Compared]) -> str:
    """The same of each label's difference from the first one, pair by pair; nothing where there are no pairs."""
    groups = {label: {run.pair: run.metrics for run in group} for label, group in _by_label(runs).items()}
    (first, reference), *others = groups.items()
    rows = []
    for label, group in others:
        pairs = [(metrics, reference[pair]) for pair, metrics in group.items() if pair in reference]
        if changed := [{name: a[name] - b[name] for name in a if name in b} for a, b in pairs]:
            rows.append({"label": f"{label} - {first}", "pairs": len(changed), **_estimates(changed)})
    return markdown(rows) if rows else ""


def _facts(run: Compared) -> dict[str, Any]:
    report = read_facts(run.run / "run.json")
    known = {name: report.get(name) for name in ("prompt", "seed", "iterations", "seconds", "prior")}
    return {"label": run.label, "folder": str(run.run), **known, "metrics": run.metrics}


def _by_label(runs: Sequence[Compared]) -> dict[str, list[Compared]]:
    return {label: [*group] for label, group in groupby(runs, attrgetter("label"))}


def _estimates(members: Sequence[Mapping[str, float]]) -> dict[str, str]:
    names = dict.fromkeys(name for metrics in members for name in metrics)
    return {name: estimate([metrics[name] for metrics in members if name in metrics]) for name in names}


def _tile(result: Result) -> Float[Tensor, "3 H W"]:
    """Four views, or the first four images, two in a row; white where there are fewer."""
    images = interpolate(result.views(_VIEW, _VIEWS)[:_VIEWS], (_VIEW, _VIEW), mode="bilinear", antialias=True)
    images = torch.cat([images, images.new_ones(_VIEWS - len(images), 3, _VIEW, _VIEW)])
    return torch.cat([torch.cat(list(row), dim=2) for row in images.split(2)], dim=1)


def draw_curves(runs: Sequence[Compared], path: Path) -> None:
    """A panel for each thing that is logged: the mean over a label's runs, and a band of one standard deviation."""
    figure_class = require_package("matplotlib.figure", "plots").Figure
    logs = {label: [logged(run.run / "metrics.csv") for run in group] for label, group in _by_label(runs).items()}
    names = list(dict.fromkeys(name for group in logs.values() for log in group for name in log))
    rows = max(1, -(-len(names) // _PANELS_IN_A_ROW))
    picture = figure_class(figsize=(4 * _PANELS_IN_A_ROW, 3 * rows), layout="constrained")
    panels = picture.subplots(rows, _PANELS_IN_A_ROW, squeeze=False).flatten()
    for panel, name in zip(panels, names, strict=False):
        for label, group in logs.items():
            curves = [log[name] for log in group if name in log]
            steps = sorted({step for curve in curves for step in curve})
            values = [[curve[step] for curve in curves if step in curve] for step in steps]
            mean, spread = (np.array([of(value) for value in values]) for of in (np.mean, np.std))
            (line,) = panel.plot(steps, mean, label=label, linewidth=1)
            panel.fill_between(steps, mean - spread, mean + spread, alpha=0.2, color=line.get_color(), linewidth=0)
        panel.set(title=name, xlabel="iteration")
    for panel in panels[len(names) :]:
        panel.axis("off")
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    with atomic(path) as temporary:
        picture.savefig(temporary, dpi=100, format="png")
