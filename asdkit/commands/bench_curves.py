"""`asdkit bench --vary`: how the cost of a step grows with options, as a table and a picture."""

import re
from pathlib import Path
from typing import Any

from asdkit.commands.answers import check_options
from asdkit.commands.bench_steps import timed
from asdkit.commands.sweep import axes
from asdkit.core.atomic import atomic
from asdkit.core.optional import require_package
from asdkit.run.exits import exit_code_of
from asdkit.run.side_files import write_json
from asdkit.run.signals import Signals
from asdkit.run.tables import markdown

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_CLOCKS = ("wall", "processor", "floor")  # milliseconds of a fast step


def draw_curves(arguments: list[str], varied: list[str], steps: int, folder: Path) -> int:
    """Time so many steps of a recipe with each value of each option, the others as they are; returns the exit code.

    `varied` has options and their values, "key=a,b"; two keys joined by + have the same value. The folder gets
    `curves.json` with all facts, after each value, and `curves.png`.
    """
    cells = [
        (option, value, [*arguments, *(f"--{key}={value}" for key in option.split("+"))])
        for option, values in axes(varied, None).items()
        for value in values
    ]
    for _, _, words in cells:  # before the first minutes are spent
        check_options(words)
    figure_class = require_package("matplotlib.figure", "plots").Figure

    def act(signals: Signals) -> None:
        rows: list[dict[str, Any]] = []
        for option, value, words in cells:
            facts = timed(words, steps, signals)
            medians = [facts["kinds"]["fast"][clock]["median"] for clock in ("seconds", "processor_seconds")]
            seconds = zip(_CLOCKS, [*medians, facts["floor_seconds"]], strict=True)  # of operations at the peak
            rows.append({"option": option, "value": value, "facts": facts, **{name: 1e3 * s for name, s in seconds}})
            write_json(folder / "curves.json", rows)
        _draw(rows, folder / "curves.png", figure_class)
        shown = [{(f"{k} ms" if k in _CLOCKS else k): row[k] for k in ("option", "value", *_CLOCKS)} for row in rows]
        print(f"{markdown(shown)}\nWritten: {folder}/curves.png, curves.json")

    return exit_code_of(act)


def _draw(rows: list[dict[str, Any]], path: Path, figure_class: Any) -> None:
    """A panel for each option, with both axes logarithmic where all its values are positive numbers."""
    options = list(dict.fromkeys(row["option"] for row in rows))
    picture = figure_class(figsize=(4 * len(options), 3.5), layout="constrained")
    for panel, option in zip(picture.subplots(1, len(options), squeeze=False)[0], options, strict=True):
        own = [row for row in rows if row["option"] == option]
        words = [row["value"] for row in own]
        numbers = [float(word) for word in words if _NUMBER.fullmatch(word) and float(word) > 0]
        x: list[Any] = numbers if len(numbers) == len(words) else words
        for name in _CLOCKS:
            panel.plot(x, [row[name] for row in own], marker="o", label=name)
        panel.set_yscale("log")
        if x is numbers:
            panel.set_xscale("log")
            panel.set_xticks(x, words)
            panel.minorticks_off()
        panel.set(xlabel=option.partition("+")[0], ylabel="ms of a step")
    panel.legend()
    with atomic(path) as temporary:
        picture.savefig(temporary, dpi=100, format="png")
