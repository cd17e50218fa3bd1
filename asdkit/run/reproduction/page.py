"""`index.html`: each figure's claim, our pictures and plots, and the verdict. One file, which asks for no other."""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asdkit.core.atomic import write_text
from asdkit.core.text import filled
from asdkit.run.meanings import meaning
from asdkit.run.reproduction import results
from asdkit.run.reproduction.figures import TRUTH, Figure, declared
from asdkit.run.reproduction.plots import plot
from asdkit.run.reproduction.results import Run
from asdkit.run.reproduction.statistics import Interval, interval
from asdkit.scores.equations import effective_scale

_TITLE = "Adversarial score distillation, reproduced"
_SHOWN = 220  # pixels of a picture's width


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page of what `results.json` holds; its pictures are those of the runs' folders."""
    rows = [
        [f'<a href="#{name}">{_text(entry["title"])}</a>', _text(entry["claim"]), _verdict(entry["verdict"])]
        for name, entry in data["figures"].items()
    ]
    body = [_table(["figure", "the paper's claim", "verdict"], rows), f"<p>{_text(results.meaning(data))}</p>"]
    body += [_section(declared().figures[name], entry, data) for name, entry in data["figures"].items()]
    facts = f"{results.how(data)} <code>{_text(data['command'])}</code>"
    values = {"title": _TITLE, "facts": facts, "body": "\n".join(body)}
    write_text(path, filled(Path(__file__).with_name("page.html"), values))


def _section(figure: Figure, entry: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    runs = results.of_figure(data, figure.name)
    rules = [
        [_text(rule["part"]), _text(rule["rule"]), _text(results.difference(rule)), _verdict(rule["verdict"])]
        for rule in entry["rules"]
    ]
    plots = "".join(_plots(figure, part, runs) for part in dict.fromkeys(run["part"] for run in runs))
    names, rows = results.estimates(runs, figure.show)
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    return "\n".join(
        [
            f'<h2 id="{figure.name}">{_text(figure.title)} {_verdict(entry["verdict"])}</h2>',
            f'<p class="claim">{_text(figure.claim)}</p>',
            _table(["", "what would confirm it", "mean difference, 95 % interval", "verdict"], rules),
            *(_pictures(figure, part, runs) for part in dict.fromkeys(run["part"] for run in runs)),
            f'<div class="plots">{plots}</div>',
            _table(names, cells),
            f'<p class="facts"><code>asdkit reproduce {figure.name} --{data["mode"]}</code>, '
            f"{entry['core_minutes']:g} minutes of runs.</p>",
        ]
    )


def _pictures(figure: Figure, part: str, runs: Sequence[Run]) -> str:
    """A row for each prompt, and for each seed where the figure is about seeds, and a column for each method."""
    of_part = [run for run in runs if run["part"] == part and run["folder"]]
    methods = list(dict.fromkeys(run["method"] for run in of_part))
    rows = []
    for prompt, seed in dict.fromkeys((run["prompt"], run["seed"]) for run in of_part):
        by_method = {run["method"]: run for run in of_part if (run["prompt"], run["seed"]) == (prompt, seed)}
        if figure.seeds or seed == 0:
            cells = [
                _picture(Path(by_method[name]["folder"]), figure.picture) if name in by_method else ""
                for name in methods
            ]
            rows.append([_text(f"{part}: {prompt}" + (f", seed {seed}" if figure.seeds else "")), *cells])
    return f'<div class="wide">{_table(["", *map(_text, methods)], rows, "pictures")}</div>' if rows else ""


def _picture(run: Path, name: str) -> str:
    """A picture of a run, small, in the page itself; nothing where there is none."""
    file = next((run / kind for kind in (name, "contact.png") if (run / kind).is_file()), None)
    if file is None:
        return ""
    picture = Image.open(file, formats=["PNG"]).convert("RGB")
    content = BytesIO()
    picture.resize((_SHOWN, round(_SHOWN * picture.height / picture.width))).save(content, "WEBP", quality=80)
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}">'


def _plots(figure: Figure, part: str, runs: Sequence[Run]) -> str:
    """A plot for each measure: over the number that a sweep varies, or of the methods side by side."""
    runs = [run for run in runs if run["part"] == part]
    sweeps = [name for cell in figure.cells if cell["part"] == part for name in cell.get("sweeps", ())]
    sweep = declared().sweeps[sweeps[0]] if sweeps else {}
    drawn = []
    for measure in results.measures(figure.show, runs):
        points = _points(runs, measure)
        curves: dict[str, list[tuple[float, Interval]]] = {}
        for number, (method, point) in enumerate(points.items()):
            known = declared().methods.get(method)
            if sweep and known and known.series in sweep["series"]:
                curves.setdefault(known.series, []).append((known.at, point))
            elif not sweep:
                curves[method] = [(float(number), point)]
        predictions = _predicted(sweep["law"], curves, points) if "law" in sweep else {}
        title = f"{part}: {measure} ({meaning(measure).title.lower()})"
        if curves:
            address = plot(title, curves, predictions, sweep.get("label", ""), sweep.get("log", False))
            drawn.append(f'<img class="plot" alt="{_text(title)}" src="{address}">')
    return "".join(drawn)


def _points(runs: Sequence[Run], measure: str) -> dict[str, Interval]:
    """The mean of each method, and of the truth, and its interval, over prompts and seeds."""
    values: dict[str, list[float]] = {}
    for run in runs:
        if measure in run["metrics"]:
            values.setdefault(run["method"], []).append(run["metrics"][measure])
        if f"true_{measure}" in run["metrics"]:
            values.setdefault(TRUTH, []).append(run["metrics"][f"true_{measure}"])
    return {method: interval(values[method]) for method in sorted(values, key=lambda method: method == TRUTH)}


def _predicted(
    law: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[float, Interval]]], points: Mapping[str, Interval]
) -> dict[str, list[tuple[float, float]]]:
    """What the law of lambda_eff predicts of a curve: another one, read at 1 + (1 + gamma)(lambda - 1)."""
    methods = [declared().methods[name] for name in points if name != TRUTH]
    like = sorted((method.at, points[method.name].mean) for method in methods if method.series == law["like"])
    if len(like) < 2:
        return {}
    scales, means = np.array(like).T
    places = [x for x, _ in curves.get(law["curve"], ())]
    effective = [effective_scale(law.get("scale", x), law.get("gamma", x)) for x in places]
    return {law["curve"]: [*zip(places, np.interp(np.log(effective), np.log(scales), means).tolist(), strict=True)]}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f'<table class="{kind}"><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr>{"".join(lines)}</table>'


def _verdict(verdict: str) -> str:
    return f'<span class="verdict {verdict.removeprefix("not ")}">{verdict}</span>'


def _text(text: str) -> str:
    return html.escape(text)
