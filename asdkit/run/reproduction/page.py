"""`index.html`: each figure's claim, our pictures and plots, and the verdict. One file, which asks for no other."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from asdkit.core.atomic import write_text
from asdkit.core.optional import require_package
from asdkit.core.text import rendered
from asdkit.run.reproduction import results
from asdkit.run.reproduction.figures import REFERENCES, TRUTH, Figure, declared
from asdkit.run.reproduction.results import Interval, Run, methods_of
from asdkit.run.reproduction.runs import CONTACT, kept, of_truth
from asdkit.run.tables import meaning
from asdkit.scores.equations import effective_scale

Curves = Mapping[str, Sequence[tuple[float, Interval]]]  # by name the points, each a place and a mean
Lines = Mapping[str, Sequence[tuple[float, float]]]


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page of what `results.json` holds, with the pictures that are kept beside it."""
    figures = [_shown(declared().figures[name], data, path.parent) for name in data["figures"]]
    values = {"data": data, "how": results.how(data), "meaning": declared().meanings[data["mode"]], "figures": figures}
    write_text(path, rendered(Path(__file__).with_name("page.html"), values | {"address": _address}))


def _shown(figure: Figure, data: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the page says of a figure, beside what `results.json` does."""
    runs = results.of_figure(data, figure.name)
    parts = dict.fromkeys(run["part"] for run in runs)
    rows, columns = results.estimates(runs, figure.show)
    known = {measure: meaning(measure) for measure in columns}
    return {
        "name": figure.name,
        "differences": [*map(results.difference, data["figures"][figure.name]["rules"])],
        "sheets": [sheet(figure, part, runs, out) for part in parts],
        "plots": [plot for part in parts for plot in _plots(figure, part, runs)],
        "columns": columns,
        "rows": rows,
        "meanings": {name: f"{of.text}{f', in {of.unit}' if of.unit else ''}" for name, of in known.items() if of.text},
    }


def sheet(figure: Figure, part: str, runs: Sequence[Run], out: Path) -> tuple[list[str], dict[str, list[Path | None]]]:
    """The truth and the methods, and for each prompt (and seed, if the figure is about seeds) the pictures, or None."""
    of_part = [run for run in runs if run["part"] == part and run["folder"]]
    rows = {}
    for prompt, seed in dict.fromkeys((run["prompt"], run["seed"]) for run in of_part):
        by_method = {run["method"]: run for run in of_part if (run["prompt"], run["seed"]) == (prompt, seed)}
        if figure.seeds or seed == 0:
            words = f"{part}: {prompt}" + (f", seed {seed}" if figure.seeds else "")
            rows[words] = [_first([of_truth(out, prompt)])]
            for run in map(by_method.get, methods_of(of_part)):
                there = [name for name in (figure.picture, CONTACT) if run and name in run["pictures"]]
                rows[words].append(_first(kept(out, run["folder"], name) for name in there if run))
    return [TRUTH, *methods_of(of_part)], rows


def _first(files: Iterable[Path]) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _address(kind: str, picture: bytes) -> str:
    """The address of a picture, which is the picture itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _plots(figure: Figure, part: str, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """A plot for each measure, its title and address: over the number that a sweep varies, or of methods in a row."""
    runs = [run for run in runs if run["part"] == part]
    sweeps = [name for cell in figure.cells if cell["part"] == part for name in cell.get("sweeps", ())]
    drawn = []
    for measure in results.measures(figure.show, runs):
        of, title = results.intervals(measure, runs), f"{part}: {measure}"
        drawn.append((title, _curves(title, declared().sweeps[sweeps[0]], of) if sweeps else plot_points(title, of)))
    return [(title, address) for title, address in drawn if address]


def _curves(title: str, sweep: Mapping[str, Any], of: Mapping[str, Interval]) -> str:
    """The plot of a sweep; nothing where no method is one of its."""
    curves: dict[str, list[tuple[float, Interval]]] = {}
    for name, point in of.items():
        method = declared().methods.get(name)
        if method and method.series in sweep["series"]:
            curves.setdefault(method.series, []).append((method.at, point))
    curves = {series: sorted(curve, key=lambda point: point[0]) for series, curve in curves.items()}
    predictions = _predicted(sweep["law"], curves, of) if "law" in sweep else {}
    return plot_curves(title, curves, predictions, sweep["label"], sweep.get("log", False)) if curves else ""


def _predicted(law: Mapping[str, Any], curves: Curves, points: Mapping[str, Interval]) -> Lines:
    """What the law of lambda_eff predicts of a curve: another one, read at 1 + (1 + gamma)(lambda - 1)."""
    methods = [declared().methods[name] for name in points if name not in REFERENCES]
    like = sorted((method.at, points[method.name].mean) for method in methods if method.series == law["like"])
    if len(like) < 2:
        return {}
    scales, means = np.array(like).T
    places = [x for x, _ in curves.get(law["curve"], ())]
    effective = [effective_scale(law.get("scale", x), law.get("gamma", x)) for x in places]
    return {law["curve"]: [*zip(places, np.interp(np.log(effective), np.log(scales), means).tolist(), strict=True)]}


def plot_points(title: str, of: Mapping[str, Interval]) -> str:
    """An SVG, as the address of a picture, of means with error bars below each other, named at the left."""
    figure, panel = _panel(0.75 + 0.22 * len(of))
    for place, (name, known) in enumerate(of.items()):
        panel.errorbar(known.mean, -place, xerr=_ends([known]), fmt="o", markersize=4, label=name)
    panel.set_yticks([-place for place in range(len(of))], [*of], fontsize="small")
    panel.margins(y=0.15)
    panel.grid(axis="x", alpha=0.3)
    panel.set_title(title, fontsize="medium")
    return _svg(figure)


def plot_curves(title: str, of: Curves, predictions: Lines, label: str, log: bool = False) -> str:
    """The same of curves with error bars, and dotted what lambda_eff predicts of them; `label` is of the x axis."""
    figure, panel = _panel(3.2)
    for name, curve in of.items():
        x, means = [place for place, _ in curve], [known.mean for _, known in curve]
        line = panel.errorbar(x, means, _ends([known for _, known in curve]), fmt="o-", markersize=4, label=name)[0]
        if name in predictions:
            predicted = {"color": line.get_color(), "label": f"{name} by lambda_eff"}
            panel.plot(*np.array(predictions[name]).T, ":", **predicted)
    panel.set_xscale("log" if log else "linear")
    panel.set_title(title, fontsize="medium")
    panel.set_xlabel(label)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return _svg(figure)


def _panel(height: float) -> tuple[Any, Any]:  # in inches
    figure = require_package("matplotlib.figure", "plots").Figure((4.8, height), layout="constrained")
    return figure, figure.subplots()


def _ends(of: Sequence[Interval]) -> list[float]:
    """How far error bars reach to both sides; a single value has none."""
    return [known.high - known.mean if known.count > 1 else 0.0 for known in of]


def _svg(figure: Any) -> str:
    figure.savefig(content := BytesIO(), format="svg", metadata={"Date": None})
    return _address("svg+xml", content.getvalue())
