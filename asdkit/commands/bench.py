"""`asdkit bench`: what a step of a recipe costs, or all that the documents ask of a GPU."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from asdkit.commands.arguments import Arguments, expand, trusted, trusted_packages
from asdkit.core.errors import UsageError
from asdkit.core.text import local

PARTS = (1, 2, 3)


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command; the others are those of `asdkit fit`."""
    parser.description, parser.passes_on = "Measure how long the parts of a recipe's step take.", True
    parser.usage = """asdkit bench --config RECIPE [--prior random:sd21] [--steps N] [--json] [--key value ...]
       asdkit bench --config RECIPE --vary KEY=A,B [--vary KEY=A,B] [--out DIR] [--key value ...]
       asdkit bench --gpu [--part N] [--out DIR] [--dry-run]"""
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps of each kind to time (default: 50)")
    parser.add_argument("--json", action="store_true", help="print all facts as JSON, and nothing else")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print the ratios to an earlier output of --json")
    text = "time the recipe with each value of an option, KEY+KEY=A,B for two that go together; repeatable"
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=A,B", help=text)
    text = "do all that the documents ask of a GPU; called again, it does what is not finished"
    parser.add_argument("--gpu", action="store_true", help=text)
    text = "with --gpu: 1 tests and quality, 2 the table of docs/benchmarks.md, 3 training; at most 8 minutes each"
    parser.add_argument("--part", type=int, choices=PARTS, metavar="N", help=text)
    parser.add_argument("--dry-run", action="store_true", help="with --gpu: do everything in small, on the CPU")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder into which --gpu and --vary write")


def run(options: Namespace) -> int:
    """Measure what is asked for; returns the exit code."""
    if options.steps < 1:
        raise UsageError(f"bench needs at least one step; got --steps {options.steps}.")
    if options.gpu:
        if options.of_fit:
            raise UsageError(f"bench: --gpu takes no options of a recipe, such as {options.of_fit[0]}; leave it out.")
        from asdkit.commands.bench_gpu import run_parts

        return run_parts([options.part] if options.part else PARTS, options.out, options.dry_run)
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
    if not (isinstance(facts, dict) and {"modes", "sections", "bare_processor_seconds"} <= facts.keys()):
        raise UsageError(f"bench: --compare needs a file of what asdkit bench --json has printed; got {path}.")
    return facts
