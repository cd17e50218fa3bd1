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

        given = {field.name: getattr(options, field.name) for field in fields(Choices)}
        choices = Choices(**{name: value for name, value in given.items() if value is not None})
        formats = [name.strip() for name in options.format.split(",") if name.strip()]
        for file in export(what, formats, options.out, options.force, choices):
            print(file, flush=True)
    return 0
