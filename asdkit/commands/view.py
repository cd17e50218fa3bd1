"""`asdkit view`: an object in a browser."""

from argparse import Namespace

from asdkit.commands.arguments import trusted
from asdkit.core.text import existing


def run(options: Namespace) -> int:
    """Serve the object until Ctrl-C."""
    with trusted(options.trust):
        what = existing(options.what)
        from asdkit.run.live_view import serve

        serve(what, options.port)
    return 0
