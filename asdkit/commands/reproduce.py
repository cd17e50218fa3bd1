"""`asdkit reproduce`: the paper's figures and tables, our own runs of them, and whether its claims hold."""

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from asdkit.commands.arguments import check_runs
from asdkit.core.errors import UsageError
from asdkit.core.optional import require_package
from asdkit.core.text import local, suggestion
from asdkit.run import machine
from asdkit.run.pool import make_runs
from asdkit.run.reproduction import results, runs
from asdkit.run.reproduction.figures import FULL, QUICK, Figure, declared
from asdkit.run.tables import markdown

_OF_EACH_RUN = ("--model.prompt", "--prompt", "--model.seed", "--seed", "--run.name", "--run.root", "--config", "-c")
_STOPPED = (130, 143)


def run(options: Namespace) -> int:
    """Make the runs where there are none, and write the page; returns the exit code."""
    names = list(takewhile(lambda word: not word.startswith("-"), options.of_fit))
    figures, further = _figures(names, options.prior), options.of_fit[len(names) :]
    if options.plan:
        print(_plan(figures))
        return 0
    require_package("matplotlib", "plots")
    further += ["--prior", options.prior] if options.prior else []
    reproduction = runs.Reproduction(figures, QUICK if options.quick else FULL, further, local(options.out))
    reproduction.make_given()
    kinds = {cell.labels["part"]: cell for grid in reproduction.grids for cell in grid.cells}
    check_runs("reproduce", further, _OF_EACH_RUN, (cell.options for cell in kinds.values()))
    return _made(reproduction, options)


def _figures(names: Sequence[str], prior: str | None) -> list[Figure]:
    """The figures of these names, or all; with another prior without what only the toybox knows."""
    known = declared().figures
    for name in names:
        if name not in known:
            near = suggestion(name, [*known]).rstrip(".?")
            raise UsageError(f"reproduce: there is no figure {name!r}{near}; there are {', '.join(known)}.")
    chosen = []
    for figure in (known[name] for name in names or known):
        cells = [cell for cell in figure.cells if not (prior and declared().parts[cell["part"]].toybox)]
        if not cells and names:
            raise UsageError(f"reproduce: {figure.name} needs true pictures, which are there of the toybox alone.")
        chosen += [replace(figure, cells=cells)] if cells else []
    return chosen


def _plan(figures: Sequence[Figure]) -> str:
    """What both sizes would cost, as Markdown."""
    tables = []
    for size in (QUICK, FULL):
        rows = runs.costs(figures, size)
        tables.append(f"--{size.name}:\n\n{markdown(rows, {name: name for name in rows[0]})}")
    return "\n".join(tables)


def _made(reproduction: runs.Reproduction, options: Namespace) -> int:
    from asdkit.commands.forked import start
    from asdkit.run.reproduction import page

    jobs, code = options.jobs, 0
    if jobs is None and not machine.gpus(os.environ):
        jobs = machine.cores()
    for grid in reproduction.grids:
        if code not in _STOPPED:
            code = make_runs(grid, jobs, start) or code
    if code not in _STOPPED:
        data = reproduction.write(shlex.join(["asdkit", "reproduce", *options.given]))
        page.write(reproduction.out / "index.html", data)
        print(results.verdicts(data))
        print(f"Written: {reproduction.out}/index.html and {reproduction.out}/results.json")
    return code
