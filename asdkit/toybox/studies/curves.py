"""The curves of the CFG sweep: figures over the CFG scale, of runs and with exact scores."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asdkit.core.atomic import atomic, write_text
from asdkit.core.optional import require_package
from asdkit.run.side_files import csv_text
from asdkit.scores.equations import effective_scale
from asdkit.toybox.studies import exact

FIGURES = ("saturation", "sharpness", "psnr", "drift", "r_precision")
_TRUE = {"saturation": "true_saturation", "sharpness": "true_sharpness"}
_COLUMNS = ("method", "scale", "seed", *FIGURES, *_TRUE.values(), "lambda_eff", "prior", "seconds")


def write(rows: Sequence[dict[str, Any]], styles: Mapping[str, str], out: Path) -> None:
    """Rows, a table and curves of a study's runs and, at the same scales and seeds, of runs with exact scores.

    Args:
        rows: of the runs.
        styles: of each method's curve, in matplotlib's words.
        out: folder of `sweep.csv`, `sweep.md` and `sweep.png`.
    """
    cells = product(*(dict.fromkeys(row[name] for row in rows) for name in ("prompt", "scale", "seed")))
    steps, rows = rows[0]["iterations"], list(rows)
    for method, (prompt, scale, seed) in product(exact.METHODS, cells):
        measured = exact.run(method, scale, seed, prompt, steps)
        rows.append({"method": method, "scale": scale, "seed": seed, **measured})
    write_text(out / "sweep.csv", csv_text(rows, _COLUMNS))
    write_text(out / "sweep.md", table(rows))
    draw(rows, styles, out / "sweep.png")
    print(table(rows))


def curve(rows: Sequence[dict[str, Any]], method: str, figure: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scales, and the mean and the standard deviation over seeds of a figure at each."""
    known = [row for row in rows if row["method"] == method and row.get(figure) is not None]
    scales = sorted({float(row["scale"]) for row in known})
    values = [torch.tensor([float(row[figure]) for row in known if row["scale"] == scale]) for scale in scales]
    spread = [value.std().item() if len(value) > 1 else 0.0 for value in values]
    return torch.tensor(scales), torch.tensor([value.mean().item() for value in values]), torch.tensor(spread)


def predicted(rows: Sequence[dict[str, Any]], figure: str) -> tuple[Tensor, Tensor]:
    """What the law of lambda_eff predicts of ASD: VSD's curve, read at 1 + (1 + gamma)(lambda - 1)."""
    scales, means, _ = curve(rows, "VSD", figure)
    effective = np.array([effective_scale(scale, exact.GAMMA) for scale in scales.tolist()])
    return scales, torch.from_numpy(np.interp(np.log(effective), np.log(scales.numpy()), means.numpy()))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the means over seeds, and their standard deviations."""
    lines = ["| method | lambda | " + " | ".join(FIGURES) + " |", "|---|---|" + "---|" * len(FIGURES)]
    for method in dict.fromkeys(row["method"] for row in rows):
        curves = [curve(rows, method, figure) for figure in FIGURES]
        for scale in sorted({scale for scales, *_ in curves for scale in scales.tolist()}):
            cells = [_cell(mean[scales == scale], spread[scales == scale]) for scales, mean, spread in curves]
            lines.append(f"| {method} | {scale:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(mean: Tensor, spread: Tensor) -> str:
    """The mean of a figure, with its standard deviation where there are several seeds; nothing where it is missing."""
    return f"{mean.item():.3g}{f' ± {spread.item():.2g}' if spread else ''}" if len(mean) else ""


def draw(rows: Sequence[dict[str, Any]], styles: Mapping[str, str], path: Path) -> None:
    """The curves, a panel for each figure."""
    picture = require_package("matplotlib.figure", "plots").Figure(figsize=(17, 4.2), layout="constrained")
    panels = picture.subplots(1, len(FIGURES))
    for panel, figure in zip(panels, FIGURES, strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            look = {"fmt": styles[method], "capsize": 2, "markersize": 3, "linewidth": 1}
            panel.errorbar(*curve(rows, method, figure), label=method, **look)
        panel.plot(*predicted(rows, figure), "k:", label="ASD as the law of lambda_eff predicts it from VSD")
        if figure in _TRUE:
            level = curve(rows, "VSD", _TRUE[figure])[1].mean()
            panel.axhline(level, color="grey", linewidth=0.8, label="the truth nearest to VSD")
        panel.set(xscale="log", xlabel="CFG scale lambda", title=figure)
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    with atomic(path) as temporary:
        picture.savefig(temporary, dpi=100, format="png")
