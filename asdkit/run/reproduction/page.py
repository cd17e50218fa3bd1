"""`index.html`: each figure's claim, our pictures and plots, and the verdict. One file, which asks for no other."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdkit.core.atomic import write_text
from asdkit.core.text import filled
from asdkit.run.meanings import meaning
from asdkit.run.reproduction import pictures, plots, results
from asdkit.run.reproduction.figures import REFERENCES, TRUTH, Figure, declared
from asdkit.run.reproduction.pictures import CONTACT
from asdkit.run.reproduction.results import Run, methods_of
from asdkit.run.reproduction.statistics import Interval, interval
from asdkit.scores.equations import effective_scale

_TITLE = "Adversarial score distillation, reproduced"


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page of what `results.json` holds, with the pictures that are kept beside it."""
    rows = [
        [f'<a href="#{name}">{_text(entry["title"])}</a>', _text(entry["claim"]), _verdict(entry["verdict"])]
        for name, entry in data["figures"].items()
    ]
    body = [_table(["figure", "the paper's claim", "verdict"], rows), f"<p>{_text(results.meaning(data))}</p>"]
    body += [_section(declared().figures[name], entry, data, path.parent) for name, entry in data["figures"].items()]
    facts = f"{results.how(data)} <code>{_text(data['command'])}</code>"
    values = {"title": _TITLE, "facts": facts, "body": "\n".join(body)}
    write_text(path, filled(Path(__file__).with_name("page.html"), values))


def _section(figure: Figure, entry: Mapping[str, Any], data: Mapping[str, Any], out: Path) -> str:
    runs = results.of_figure(data, figure.name)
    rules = [
        [_text(rule["part"]), _text(rule["rule"]), _text(results.difference(rule)), _verdict(rule["verdict"])]
        for rule in entry["rules"]
    ]
    parts = dict.fromkeys(run["part"] for run in runs)
    names, rows = results.estimates(runs, figure.show)
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    return "\n".join(
        [
            f'<h2 id="{figure.name}">{_text(figure.title)} {_verdict(entry["verdict"])}</h2>',
            f'<p class="claim">{_text(figure.claim)}</p>',
            _table(["where", "what would confirm it", "mean difference, 95 % interval", "verdict"], rules),
            *(_pictures(figure, part, runs, out) for part in parts),
            f'<div class="plots">{"".join(_plots(figure, part, runs) for part in parts)}</div>',
            f'<div class="wide">{_table(names, cells, "numbers")}</div>',
            f'<p class="facts">{_text(_meanings(names))}</p>',
            f'<p class="facts"><code>asdkit reproduce {figure.name} --{data["mode"]}</code>, '
            f"{entry['core_minutes']:g} minutes of runs.</p>",
        ]
    )


def _meanings(measures: Sequence[str]) -> str:
    """What the measures are, those that the glossary of measures knows."""
    said = {measure: meaning(measure) for measure in measures}
    texts = [f"{measure}: {of.text}{f', in {of.unit}' if of.unit else ''}." for measure, of in said.items() if of.text]
    return " ".join(texts)


def _pictures(figure: Figure, part: str, runs: Sequence[Run], out: Path) -> str:
    """A row for each prompt, and for each seed where the figure is about seeds, and a column for each method."""
    of_part = [run for run in runs if run["part"] == part and run["folder"]]
    methods = methods_of(of_part)
    rows = []
    for prompt, seed in dict.fromkeys((run["prompt"], run["seed"]) for run in of_part):
        by_method = {run["method"]: run for run in of_part if (run["prompt"], run["seed"]) == (prompt, seed)}
        if figure.seeds or seed == 0:
            files = [_shown(figure, by_method[name], out) if name in by_method else None for name in methods]
            words = _text(f"{part}: {prompt}" + (f", seed {seed}" if figure.seeds else ""))
            rows.append([words, *map(_picture, [pictures.of_truth(out, prompt), *files])])
    head = ["", TRUTH, *map(_text, methods)]
    return f'<div class="wide">{_table(head, rows, "pictures")}</div>' if rows else ""


def _shown(figure: Figure, run: Run, out: Path) -> Path | None:
    """The file of the picture of a run that a figure shows."""
    there = [picture for picture in (figure.picture, CONTACT) if picture in run["pictures"]]
    return pictures.kept(out, run["folder"], there[0]) if there else None


def _picture(file: Path | None) -> str:
    """A picture in the page itself; nothing where there is none."""
    if file is None or not file.is_file():
        return ""
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def _plots(figure: Figure, part: str, runs: Sequence[Run]) -> str:
    """A plot for each measure: over the number that a sweep varies, or of the methods below each other."""
    runs = [run for run in runs if run["part"] == part]
    sweeps = [name for cell in figure.cells if cell["part"] == part for name in cell.get("sweeps", ())]
    drawn = []
    for measure in results.measures(figure.show, runs):
        of, title = _points(runs, measure), f"{part}: {measure}"
        address = _curves(title, declared().sweeps[sweeps[0]], of) if sweeps else plots.points(title, of)
        drawn += [f'<img class="plot" alt="{_text(title)}" src="{address}">'] if address else []
    return "".join(drawn)


def _curves(title: str, sweep: Mapping[str, Any], of: Mapping[str, Interval]) -> str:
    """The plot of a sweep; nothing where no method is one of its."""
    curves: dict[str, list[tuple[float, Interval]]] = {}
    for name, point in of.items():
        method = declared().methods.get(name)
        if method and method.series in sweep["series"]:
            curves.setdefault(method.series, []).append((method.at, point))
    curves = {series: sorted(curve, key=lambda point: point[0]) for series, curve in curves.items()}
    predictions = _predicted(sweep["law"], curves, of) if "law" in sweep else {}
    return plots.curves(title, curves, predictions, sweep["label"], sweep.get("log", False)) if curves else ""


def _points(runs: Sequence[Run], measure: str) -> dict[str, Interval]:
    """The mean of each method, and of what measures refer to, and its interval, over prompts and seeds."""
    values = {
        name: results.values_of(measure, [run for run in runs if run["method"] == name]) for name in methods_of(runs)
    }
    values |= {name: results.values_of(f"{prefix}{measure}", runs) for name, prefix in REFERENCES.items()}
    return {name: interval(numbers) for name, numbers in values.items() if numbers}


def _predicted(
    law: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[float, Interval]]], points: Mapping[str, Interval]
) -> dict[str, list[tuple[float, float]]]:
    """What the law of lambda_eff predicts of a curve: another one, read at 1 + (1 + gamma)(lambda - 1)."""
    methods = [declared().methods[name] for name in points if name not in REFERENCES]
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
