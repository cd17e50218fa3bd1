"""Small plots of means with their intervals, over methods or over a number; the extra `plots` draws them."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np

from asdkit.core.optional import require_package
from asdkit.run.reproduction.statistics import Interval


def plot(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    predictions: Mapping[str, Sequence[tuple[float, float]]],
    label: str = "",
    log: bool = False,
) -> str:
    """An SVG, as the address of a picture, of curves with error bars, and dotted what lambda_eff predicts of them.

    `label` and `log` are of the x axis; without a label its places are the methods, which the legend names.
    """
    figure = require_package("matplotlib.figure", "plots").Figure((4.8, 3.2), layout="constrained")
    panel = figure.subplots()
    for name, curve in curves.items():
        x, means, lows, highs = np.array([(place, known.mean, known.low, known.high) for place, known in curve]).T
        ends = np.abs([lows - means, highs - means])
        ends[~np.isfinite(ends)] = 0  # a single value has no interval
        line = panel.errorbar(x, means, ends, fmt="o-", label=name)[0]
        if name in predictions:
            label_of = f"{name} by lambda_eff"
            panel.plot(*np.array(predictions[name]).T, ":", color=line.get_color(), label=label_of)
    panel.set_xscale("log" if log else "linear")
    panel.set_title(title, fontsize="medium")
    panel.set_xlabel(label)
    if not label:
        panel.set_xticks([])
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    figure.savefig(content := BytesIO(), format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
