"""`asdkit bench`: what a step of a recipe costs, or how that grows with options, or all that is asked of a GPU."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from asdkit.commands.answers import check_options
from asdkit.commands.arguments import expand, trusted, trusted_packages
from asdkit.commands.sweep import axes
from asdkit.core.atomic import atomic
from asdkit.core.errors import UsageError
from asdkit.core.optional import require_package
from asdkit.core.text import local
from asdkit.run.exits import Signals, exit_code_of
from asdkit.run.side_files import write_json
from asdkit.run.tables import markdown

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_CLOCKS = ("wall", "processor", "floor")  # milliseconds of a fast step


def run(options: Namespace) -> int:
    """Measure what is asked for; returns the exit code."""
    if options.steps < 1:
        raise UsageError(f"bench needs at least one step; got --steps {options.steps}.")
    if options.gpu:
        if options.of_fit:
            raise UsageError(f"bench: --gpu takes no options of a recipe, such as {options.of_fit[0]}; leave it out.")
        from asdkit.commands.bench_gpu import run_parts

        return run_parts([options.part] if options.part else (1, 2, 3), options.out, options.dry_run)
    if options.part or options.dry_run or (options.out and not options.vary):
        raise UsageError("bench: --part, --dry-run and --out are of --gpu, the last of --vary, too; add it.")
    if options.vary and (options.json or options.compare):
        raise UsageError("bench: --json and --compare are of a recipe as it is, not of --vary; leave them out.")
    packages, of_fit = trusted_packages(options.of_fit)
    expanded, folder = expand("bench", of_fit)
    if folder is not None:
        raise UsageError(f"bench times recipes, not runs; name one with --config {folder / 'config.yaml'}.")
    earlier = _earlier(options.compare) if options.compare else {}
    with trusted(packages):
        if options.vary:
            return draw_curves(expanded, options.vary, options.steps, local(options.out or "bench-curves"))
        from asdkit.commands.bench_steps import time_steps

        return time_steps(expanded, options.steps, options.json, earlier)


def _earlier(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(local(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        facts = {}
    if not (isinstance(facts, dict) and {"kinds", "sections"} <= facts.keys()):
        raise UsageError(f"bench: --compare needs a file of what asdkit bench --json has printed; got {path}.")
    return facts


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
    from asdkit.commands.bench_steps import timed

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
