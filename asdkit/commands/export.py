"""`asdkit export`: an object as files that other tools open."""

from argparse import Namespace
from dataclasses import fields
from functools import partial
from pathlib import Path

from asdkit.commands.arguments import Arguments, trusted
from asdkit.core.text import existing
from asdkit.formats.names import FORMATS


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command."""
    parser.description = "Write an object as files that other tools open."
    parser.add_argument("what", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint or a file of splats")
    parser.add_argument("--format", required=True, metavar="LIST", help=f"with commas between: {', '.join(FORMATS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: export, there)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--up", default="z", metavar="AXIS", help="up in ply, splat, spz, sog: z (default), y or -y")
    parser.add_argument("--size", type=int, default=512, help="pixels of pictures and films (default: 512)")
    parser.add_argument("--frames", type=int, default=60, help="of films (default: 60)")
    text = "nerfstudio's camera_path.json, which films follow in the place of an orbit"
    parser.add_argument("--cameras", default="", metavar="FILE", help=text)
    parser.add_argument("--spz-version", type=int, default=4, help="4 (default), or 3 for older programs")
    parser.add_argument("--resolution", type=int, default=128, help="of the grid for meshes (default: 128)")
    parser.add_argument("--faces", type=int, default=0, help="of meshes at most (default: 0, all)")
    parser.add_argument("--texture", type=int, default=0, help="pixels of meshes' texture (default: 0, vertex colours)")
    parser.add_argument(
        "--prompt", default="", help="of a generator for many prompts: what to show (default: the run's)"
    )
    parser.add_trust()


def run(options: Namespace) -> int:
    """Write the files and print their names; returns the exit code."""
    with trusted(options.trust):
        existing(options.what)
        from asdkit.run.export import Choices, export

        choices = Choices(**{field.name: getattr(options, field.name) for field in fields(Choices)})
        formats = [name.strip() for name in options.format.split(",") if name.strip()]
        export(options.what, formats, options.out, options.force, choices, tell=partial(print, flush=True))
    return 0
