"""`asdkit bench`: what a step of a recipe costs."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from asdkit.commands.arguments import Arguments, expand, trusted, trusted_packages
from asdkit.core.errors import UsageError
from asdkit.core.text import local


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command; the others are those of `asdkit fit`."""
    parser.description, parser.passes_on = "Time the parts of a recipe's step.", True
    parser.usage = """asdkit bench --config RECIPE [--prior random:sd21] [--steps N] [--json] [--key value ...]
       asdkit bench --config RECIPE --vary KEY=A,B [--vary KEY=A,B] [--out DIR] [--key value ...]"""
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="to time of each kind (default: 50)")
    parser.add_argument("--json", action="store_true", help="print all facts as JSON, and nothing else")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print ratios to what an earlier --json printed")
    text = "time the recipe with each value of an option, KEY+KEY=A,B for two that go together; repeatable"
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=A,B", help=text)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of what --vary writes")


def run(options: Namespace) -> int:
    """Measure what is asked for; returns the exit code."""
    if options.steps < 1:
        raise UsageError(f"bench needs at least one step; got --steps {options.steps}.")
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
