"""`--model.guidance VSD`: a method by its name, with its own defaults."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import asdkit
from asdkit.core.names import PUBLIC_NAMES


def with_methods(arguments: list[str]) -> list[str]:
    """`--model.guidance VSD` is asdkit.VSD with its own defaults, but phi lives where the recipe has it."""
    expanded: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag != "--model.guidance":
            expanded.append(argument)
            continue
        value = value if equals else next(remaining, "")
        if PUBLIC_NAMES.get(value) == "asdkit.methods":
            guidance = {"class_path": f"asdkit.{value}", "init_args": _defaults(getattr(asdkit, value))}
            expanded += ["--config", json.dumps({"model": {"init_args": {"guidance": guidance}}})]
        else:
            expanded += [flag, value]
    return expanded


def _defaults(method: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a method's arguments, without those of phi."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if not p.name.endswith("adapter") and p.default is not p.empty}
