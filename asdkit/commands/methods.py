"""`asdkit methods`: the methods of score distillation, each with its formula, its paper, its options and its cost."""

from argparse import Namespace
from pathlib import Path

from asdkit.commands.answers import Entry, of_class, table
from asdkit.core.errors import UsageError
from asdkit.core.text import suggestion


def run(options: Namespace) -> int:
    """Print the table or one method; returns the exit code."""
    methods = {name: entry for name, entry in table().items() if "cost" in entry}
    if options.name and options.name not in methods:
        raise UsageError(f"There is no method {options.name}{suggestion(options.name, list(methods))}")
    if not options.name:
        rows = [f"{name:15}{entry['cost']['rows']:3} samples  {entry['about']}" for name, entry in methods.items()]
        print("\n".join([*rows, "", Path(__file__).with_suffix(".txt").read_text("utf-8")]), end="")
        return 0
    print(of_class(options.name, "model.guidance"))
    print(cost(methods[options.name]))
    return 0


def cost(entry: Entry) -> str:
    """What a step of a method costs, in a sentence."""
    of_step = entry["cost"]
    learns = ", and backward through it for the discriminator" if of_step["learns"] else ""
    return f"Cost of a step: {of_step['rows']} samples a view through the network, in {of_step['calls']} calls{learns}."
