"""docs/methods.md, made from the docstrings and the code of the methods: `make signatures` writes it."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asdkit
from asdkit.commands.answers import Entry, table
from asdkit.commands.methods import cost

FILE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = """\
# Methods

A method says how the prior's opinion of a noisy render becomes a gradient for the generator. asdkit has {count}.
Each is an expression of score fields: the code below a method's description is all of it. To take one, give its name:

```bash
asdkit fit gs3d "a yellow duck" --method VSD
```

`asdkit methods` lists them in a terminal, and `asdkit methods VSD` tells about one. The [glossary](glossary.md)
explains the symbols. *Samples* is what goes through the prior's network in a step, for each view: the time of a step
grows with it. *phi* says whether a discriminator learns, which costs a backward pass through the network, too.

This page is made from the docstrings by `make signatures`; please don't edit it.

| method | samples | phi | what the generator is pulled by |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    methods = {name: entry for name, entry in table().items() if "cost" in entry}
    rows = [
        f"| [`{name}`](#{name.lower()}) | {entry['cost']['rows']} | {'learns' if entry['cost']['learns'] else ''} "
        f"| {_escaped(entry['about'])} |"
        for name, entry in methods.items()
    ]
    sections = ["\n".join(section(name, entry)) for name, entry in methods.items()]
    return HEAD.format(count=len(methods)) + "\n\n".join(["\n".join(rows), *sections]) + "\n"


def section(name: str, entry: Entry) -> Iterator[str]:
    """What a method is, its code, what a step costs, and its options."""
    yield f"## {name}\n"
    yield from description(getattr(asdkit, name))
    yield f"\n```py\n{body(getattr(asdkit, name))}\n```\n"
    yield cost(entry) + "\n"
    yield "| option | takes | default | what it is |\n|---|---|---|---|"
    for option, facts in entry["options"].items():
        takes = ", or ".join(filter(None, [facts["takes"], ", ".join(facts.get("parts", []))]))
        default = facts.get("default")
        cells = f"`{option}`", takes, "" if default in (None, "") else f"`{default}`", facts["about"]
        yield f"| {' | '.join(map(_escaped, cells))} |"


def description(method: Callable[..., Any]) -> Iterator[str]:
    """The docstring before its arguments, each paragraph in a line."""
    text = (inspect.getdoc(method) or "").partition("\nArgs:")[0].strip()
    yield "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))


def body(method: Callable[..., Any]) -> str:
    """The code after the docstring."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(method)))
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    return textwrap.dedent("\n".join(source.splitlines()[function.body[1].lineno - 1 :]))


def _escaped(text: str) -> str:
    return re.sub(r"([|\[\]]|(?<=\])\()", r"\\\1", text)
