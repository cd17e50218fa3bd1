"""`asdkit sweep`: a run for each prompt of a file, and for each combination of the options that are to vary."""

import os
import re
from argparse import Namespace
from itertools import chain
from pathlib import Path

from asdkit.commands.arguments import check_runs
from asdkit.core.bounds import Within
from asdkit.core.errors import UsageError
from asdkit.formats.prompts import read_prompts
from asdkit.run.grid import Grid, product
from asdkit.run.machine import rank_of
from asdkit.run.pool import make_runs

_SEEDS = Within(1, 10_000)
_COMMA = r",(?![^\[\]{}]*[\]}])"  # between values, not within a list
_OF_EACH_RUN = ("--prompt", "--model.prompt", "--model.target", "--run.name", "--ckpt_path")


def axes(varied: list[str], seeds: int | None) -> dict[str, dict[str, list[str]]]:
    """The options of what varies, such as "model.guidance.scale=3,7.5", and of so many seeds, by key and value."""
    options_by_value: dict[str, dict[str, list[str]]] = {}
    for text in varied:
        key, _, listed = text.removeprefix("--").partition("=")
        values = [value.strip() for value in re.split(_COMMA, listed) if value.strip()]
        if not key or not values:
            raise UsageError(f"--vary needs an option and its values, key=value,value,...; got {text!r}.")
        options_by_value.setdefault(key, {}).update({value: [f"--{key}={value}"] for value in values})
    if seeds is not None and seeds not in _SEEDS:
        raise UsageError(f"--seeds must be {_SEEDS}; got {seeds}.")
    by_seed = {str(seed): [f"--model.seed={seed}"] for seed in range(seeds or 0)}
    return options_by_value | ({"seed": by_seed} if seeds else {})


def run(options: Namespace) -> int:
    """Make the runs; returns the process's exit code: 0, that of the first run that failed, 130 or 143."""
    if options.given[0] != options.prompts:
        raise UsageError("sweep: the file of prompts comes first: asdkit sweep PROMPTS --config RECIPE.")
    if options.prompts == "-" and rank_of(os.environ):
        raise UsageError("sweep: each rank of a launcher reads the prompts; give them in a file.")
    own = [*_OF_EACH_RUN, *(["--seed", "--model.seed"] if options.seeds else [])]
    first, *others = product([""], axes(options.vary, None))
    near = [cell.options for cell in others if len({*cell.options} - {*first.options}) == 1]  # each value once
    runs = [[*options.of_fit, *words] for words in (first.options, *near)]
    check_runs("sweep", [*chain(*runs)], own, runs)
    cells = product(read_prompts(options.prompts), axes(options.vary, options.seeds))
    return make_runs(Grid(cells, options.of_fit, Path(options.prompts).stem), options.jobs)
