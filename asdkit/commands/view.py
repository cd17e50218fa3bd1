"""`asdkit view`: an object in a browser."""

from argparse import Namespace
from pathlib import Path

from asdkit.commands.arguments import PORT, Arguments, trusted
from asdkit.core.text import existing


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command."""
    parser.description = "Look at an object in a browser, on this machine alone."
    parser.add_argument("what", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint or a file of splats")
    parser.add_argument("--port", type=int, default=PORT, help="the port, or the next free one (default: 8080)")
    parser.add_trust()


def run(options: Namespace) -> int:
    """Serve the object until Ctrl-C."""
    with trusted(options.trust):
        what = existing(options.what)
        from asdkit.run.live_view import serve

        serve(what, options.port)
    return 0
