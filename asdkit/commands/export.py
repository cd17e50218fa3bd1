"""`asdkit export`: an object as files that other tools open."""

from argparse import Namespace
from dataclasses import fields

from asdkit.commands.arguments import trusted
from asdkit.core.text import existing
from asdkit.formats.names import Choices


def run(options: Namespace) -> int:
    """Write the files and print their names; returns the exit code."""
    with trusted(options.trust):
        what = existing(options.what)
        from asdkit.run.export import export

        given = {own.name: value for own in fields(Choices) if (value := getattr(options, own.name)) is not None}
        formats = [name.strip() for name in options.format.split(",") if name.strip()]
        for file in export(what, formats, options.out, options.force, Choices(**given)):
            print(file, flush=True)
    return 0
