"""Small plots of means with their intervals, over a number or of methods; the extra `plots` draws them."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from asdkit.core.optional import require_package
from asdkit.run.reproduction.statistics import Interval

_WIDTH = 4.8  # in inches
Curves = Mapping[str, Sequence[tuple[float, Interval]]]  # by name the points, each a place and a mean
Lines = Mapping[str, Sequence[tuple[float, float]]]


def points(title: str, of: Mapping[str, Interval]) -> str:
    """An SVG, as the address of a picture, of means with error bars below each other, named at the left."""
    figure, panel = _panel(0.75 + 0.22 * len(of))
    for place, (name, known) in enumerate(of.items()):
        panel.errorbar(known.mean, -place, xerr=_ends([known]), fmt="o", markersize=4, label=name)
    panel.set_yticks([-place for place in range(len(of))], [*of], fontsize="small")
    panel.margins(y=0.15)
    panel.grid(axis="x", alpha=0.3)
    panel.set_title(title, fontsize="medium")
    return _address(figure)


def curves(title: str, of: Curves, predictions: Lines, label: str, log: bool = False) -> str:
    """The same of curves with error bars, and dotted what lambda_eff predicts of them; `label` is of the x axis."""
    figure, panel = _panel(3.2)
    for name, curve in of.items():
        x, means = [place for place, _ in curve], [known.mean for _, known in curve]
        line = panel.errorbar(x, means, _ends([known for _, known in curve]), fmt="o-", markersize=4, label=name)[0]
        if name in predictions:
            label_of = f"{name} by lambda_eff"
            panel.plot(*np.array(predictions[name]).T, ":", color=line.get_color(), label=label_of)
    panel.set_xscale("log" if log else "linear")
    panel.set_title(title, fontsize="medium")
    panel.set_xlabel(label)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return _address(figure)


def _panel(height: float) -> tuple[Any, Any]:
    figure = require_package("matplotlib.figure", "plots").Figure((_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _ends(of: Sequence[Interval]) -> Any:
    """How far error bars reach to both sides; a single value has none."""
    ends = np.abs([[known.low - known.mean for known in of], [known.high - known.mean for known in of]])
    ends[~np.isfinite(ends)] = 0
    return ends


def _address(figure: Any) -> str:
    figure.savefig(content := BytesIO(), format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
