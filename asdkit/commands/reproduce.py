"""`asdkit reproduce`: the paper's figures and tables, our own runs of them, and whether its claims hold."""

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

from asdkit.commands.arguments import check_runs
from asdkit.core.errors import UsageError
from asdkit.core.optional import require_package
from asdkit.core.text import local, suggestion
from asdkit.run import machine
from asdkit.run.grid import option_values
from asdkit.run.pool import STOPPED, make_runs
from asdkit.run.reproduction import results, runs
from asdkit.run.reproduction.figures import FULL, QUICK, Figure, Size, as_cell, declared
from asdkit.run.tables import markdown

_OF_EACH_RUN = ("--model.prompt", "--prompt", "--model.seed", "--seed", "--run.name", "--run.root", "--config", "-c")


def run(options: Namespace) -> int:
    """Make the runs where there are none, and write the page; returns the exit code."""
    names = list(takewhile(lambda word: not word.startswith("-"), options.of_fit))
    figures, further = _figures(names, options.prior), options.of_fit[len(names) :]
    if options.plan:
        print("\n".join(f"--{size.name}:\n\n{markdown(runs.costs(figures, size))}" for size in (QUICK, FULL)))
        return 0
    require_package("matplotlib", "plots")
    further += ["--prior", options.prior] if options.prior else []
    size = QUICK if options.quick else FULL
    kinds = {run.part.name: run for figure in figures for run in declared().runs(figure, size)}
    cells = (as_cell(run, size, further, Path(__file__)) for run in kinds.values())  # what they are given is made later
    check_runs("reproduce", further, _OF_EACH_RUN, (cell.options for cell in cells))
    return _made([figure.name for figure in figures], size, further, options)


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


def _made(names: Sequence[str], size: Size, further: Sequence[str], options: Namespace) -> int:
    from asdkit.commands.forked import start
    from asdkit.priors.locate import EMBEDDED, locate
    from asdkit.run.reproduction import page

    path = [EMBEDDED, *option_values(further, "--prior"), *option_values(further, "--model.prior.path")][-1]
    digest, possible = locate(path).digest(), _figures([], options.prior)
    reproduction = runs.Reproduction(possible, names, size, further, digest, local(options.out))
    reproduction.make_given()
    write = partial(reproduction.write, shlex.join(["asdkit", "reproduce", *options.given]))
    jobs, code = options.jobs, 0
    if jobs is None and not machine.gpus(os.environ):
        jobs = machine.cores()
    for grid in reproduction.grids:
        if grid.cells and code not in STOPPED:
            code = make_runs(grid, jobs, start, write) or code
    data = write()
    if code not in STOPPED:
        page.write(reproduction.out / "index.html", data)
        print(results.verdicts(data))
        print(f"Written: {reproduction.out}/index.html and {reproduction.out}/results.json")
    return code
