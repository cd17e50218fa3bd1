"""`--model.guidance VSD`: a method by its name, with its own defaults."""

import inspect
from collections.abc import Callable
from typing import Any

import asdkit
from asdkit.commands.arguments import overlay, replaced
from asdkit.core.names import PUBLIC_NAMES


def with_methods(arguments: list[str]) -> list[str]:
    """`--model.guidance VSD` is asdkit.VSD with its own defaults, but phi lives where the recipe has it."""
    return replaced(arguments, {"--model.guidance": _guidance})


def _guidance(name: str) -> list[str]:
    if PUBLIC_NAMES.get(name) != "asdkit.methods":
        return ["--model.guidance", name]
    return overlay("guidance", {"class_path": f"asdkit.{name}", "init_args": _defaults(getattr(asdkit, name))})


def _defaults(method: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a method's arguments, without those of phi."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if not p.name.endswith("adapter") and p.default is not p.empty}
