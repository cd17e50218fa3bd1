"""`asdkit export`: an object as files that other tools open."""

from argparse import Namespace
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from asdkit.commands.arguments import Arguments, trusted
from asdkit.core.text import existing
from asdkit.formats.names import FORMATS, Choices


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command."""
    parser.description = "Write an object as files that other tools open."
    parser.add_argument("what", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint or a file of splats")
    parser.add_argument("--format", required=True, metavar="LIST", help=f"with commas between: {', '.join(FORMATS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: export, in the run)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    for choice in fields(Choices):
        how: dict[str, Any] = {"type": type(choice.default), "default": choice.default, "metavar": choice.name.upper()}
        parser.add_argument(f"--{choice.name.replace('_', '-')}", help=choice.metadata["about"], **how)
    parser.add_trust()


def run(options: Namespace) -> int:
    """Write the files and print their names; returns the exit code."""
    with trusted(options.trust):
        what = existing(options.what)
        from asdkit.run.export import export

        choices = Choices(**{field.name: getattr(options, field.name) for field in fields(Choices)})
        formats = [name.strip() for name in options.format.split(",") if name.strip()]
        export(what, formats, options.out, options.force, choices, tell=partial(print, flush=True))
    return 0
