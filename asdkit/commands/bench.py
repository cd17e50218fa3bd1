"""`asdkit bench`: what a step of a recipe costs, or all that the documents ask of a GPU."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from asdkit.commands.arguments import expand, trusted, trusted_packages
from asdkit.core.errors import UsageError
from asdkit.core.text import local


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
            from asdkit.commands.bench_curves import draw_curves

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
