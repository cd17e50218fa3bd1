"""`asdkit recipes`: the names of the recipes that come with asdkit."""

from argparse import Namespace

from asdkit.commands.arguments import Arguments
from asdkit.run.recipes import recipes


def add_arguments(parser: Arguments) -> None:
    """There are no options."""
    parser.description = "List the recipes."


def run(options: Namespace) -> int:
    """Print a name on each line; returns the exit code."""
    print("\n".join(recipes()))
    return 0
