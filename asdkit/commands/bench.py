"""`asdkit bench`: what a step of a recipe costs."""

from argparse import Namespace

from asdkit.commands.arguments import Arguments, expand, trusted, trusted_packages
from asdkit.core.errors import UsageError


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command; the others are those of `asdkit fit`."""
    parser.description, parser.passes_on = "Time the parts of a recipe's step.", True
    parser.usage = "asdkit bench --config RECIPE [--prior random:sd21] [--steps N] [--json] [--key value ...]"
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="to time of each kind (default: 50)")
    parser.add_argument("--json", action="store_true", help="print all facts as JSON, and nothing else")


def run(options: Namespace) -> int:
    """Time the steps of a recipe; returns the exit code."""
    packages, of_fit = trusted_packages(options.of_fit)
    expanded, folder = expand("bench", of_fit)
    if options.steps < 1:
        raise UsageError(f"bench needs at least one step; got --steps {options.steps}.")
    if folder is not None:
        raise UsageError(f"bench times recipes, not runs; name one with --config {folder / 'config.yaml'}.")
    with trusted(packages):
        from asdkit.commands.bench_steps import time_steps

        return time_steps(expanded, options.steps, options.json)
