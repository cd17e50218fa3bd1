"""`asdkit compare`: methods side by side on the same prompts and seeds, or runs that exist."""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from asdkit.commands.arguments import check_runs, trusted
from asdkit.commands.sweep import axes
from asdkit.core.bounds import Within
from asdkit.core.errors import UsageError
from asdkit.core.text import local
from asdkit.formats.prompts import read_prompts
from asdkit.run.grid import Compared, Grid, product, recipe_names
from asdkit.run.pool import STOPPED, make_runs
from asdkit.run.side_files import read_facts

_OF_EACH_RUN = ("--model.prompt", "--model.guidance", "--model.seed", "--run.name", "--ckpt_path")
_PIXELS = Within(16, 1024)


def run(options: Namespace) -> int:
    """Make the runs where there are none, compare them and print the table; returns the exit code."""
    if options.film is not None and options.film not in _PIXELS:
        raise UsageError(f"compare: --film must be {_PIXELS}; got {options.film}.")
    runs = list(takewhile(lambda word: not word.startswith("-"), options.given))  # further words are options' values
    if bool(runs) == bool(options.methods or options.prompts):
        raise UsageError("compare: name runs that exist, or --methods and --prompts; asdkit compare --help tells more.")
    if further := options.of_fit[len(runs) :] if runs else []:
        raise UsageError(f"compare: {further[0]} is of runs that are made, and these exist; leave it out.")
    return _existing([*dict.fromkeys(local(name).resolve() for name in runs)], options) if runs else _made(options)


def _existing(runs: Sequence[Path], options: Namespace) -> int:
    for path in runs:
        if read_facts(path / "run.json").get("status") != "finished":
            raise UsageError(f"compare: {path} is no folder of a finished run.")
    twice = Counter(path.name for path in runs)
    labels = [path.name if twice[path.name] == 1 else str(path) for path in runs]
    compared = [Compared(label, "", path) for label, path in zip(labels, runs, strict=True)]
    _write(compared, options.out or Path("compare"), options)
    return 0


def _made(options: Namespace) -> int:
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    if not methods or options.prompts is None or not recipe_names(options.of_fit):
        raise UsageError("compare: --methods A,B needs --prompts FILE and --config RECIPE.")
    by_method = {"method": {name: [f"--model.guidance={name}"] for name in methods}}
    runs = ([*options.of_fit, *words] for words in by_method["method"].values())
    check_runs("compare", options.of_fit, _OF_EACH_RUN, runs)
    cells = product(read_prompts(options.prompts), by_method | axes([], options.seeds))
    trust = [f"--trust={package}" for package in options.trust]
    grid = Grid(cells, [*options.of_fit, *trust], f"compare {Path(options.prompts).stem}")
    from asdkit.commands.forked import start  # which imports torch

    code = make_runs(grid, options.jobs, start)
    compared = [
        Compared(str(cell.labels["method"]), f"{cell.prompt} {cell.labels['seed']}", grid.run_folder(cell))
        for cell in cells
        if grid.finished(cell)
    ]
    if compared and code not in STOPPED:
        _write(compared, options.out or grid.folder, options)
    return code


def _write(compared: Sequence[Compared], out: Path, options: Namespace) -> None:
    with trusted(options.trust):
        from asdkit.run import comparison

        print(comparison.write(compared, local(out)), flush=True)
        if options.film:
            comparison.save_film(compared, options.film, local(out / "compare.webp"))
        comparison.draw_curves(compared, local(out) / "curves.png")
    film = ", compare.webp" if options.film else ""
    print(f"Written: {out}/compare.md, compare.png, compare.json, curves.png{film}")
