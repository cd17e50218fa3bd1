"""Makes a study, or goes on with it: a run of `asdkit fit` for each prompt and method, tables and pictures.

They are written into --out; runs that are finished there are kept.
"""

import argparse
import sys
from pathlib import Path

from asdkit.core.errors import MissingExtra
from asdkit.run.exits import end
from asdkit.toybox import world
from asdkit.toybox.studies.study import Study, declared, make


def toybox_prompt(text: str) -> str:
    """A prompt whose truth is known."""
    if world.parse(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no thing of the toybox, such as 'a yellow duck'")
    return text


def _add_arguments(parser: argparse.ArgumentParser, study: Study) -> None:
    """The options of a study: its prompts, the values of its axes, and what all studies take."""
    if study.prompts:
        parser.add_argument("--prompts", type=toybox_prompt, nargs="+", default=study.prompts, help="of the toybox")
    for name, axis in study.axes.items():
        values = axis.get("values") or list(axis)
        choices = None if "values" in axis else values
        kind = type(values[0])
        parser.add_argument(f"--{name}", nargs="+", type=kind, choices=choices, default=values, help="all by default")
    parser.add_argument("--out", type=Path, default=Path("runs", study.name), help="folder of the runs and results")
    parser.add_argument("--jobs", type=int, help="runs side by side; one on each GPU, or one, by default")
    parser.add_argument("options", nargs="*", help="after --: further options of asdkit fit, for every run")


def main(arguments: list[str] | None = None) -> int:
    """Make the study that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m asdkit.toybox.studies", description=__doc__)
    commands = parser.add_subparsers(dest="study", required=True, metavar="NAME")
    studies = declared()
    for name, study in studies.items():
        _add_arguments(commands.add_parser(name, help=study.description, description=study.description), study)
    chosen = parser.parse_args(arguments)
    try:
        return make(studies[chosen.study], chosen)
    except (OSError, ValueError, MissingExtra) as error:
        return end(error)


if __name__ == "__main__":
    sys.exit(main())
