"""The public names of asdkit, which `names.yaml` lists by the module that each is defined in.

The face (`asdkit/__init__.py`), the specs of parts and the check of what recipes may import all read this table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_MODULES: dict[str, str] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
PUBLIC_NAMES = {name: f"asdkit.{module}" for module, names in _MODULES.items() for name in names.split()}
FUNCTIONS = dict.fromkeys(("make", "load"), "asdkit.commands.make")  # of Python alone: no recipe may name them


def public_path(target: Callable[..., Any]) -> str:
    """The import path by which recipes name a class or function: the face's where asdkit exports it, or its own."""
    module, name = target.__module__, target.__qualname__
    return f"asdkit.{name}" if PUBLIC_NAMES.get(name) == module else f"{module}.{name}"
