"""Modules that other modules use without owning them."""

from typing import Any


def keep_unregistered(owner: object, name: str, module: Any) -> None:
    """Set an attribute to a module that is no submodule: it is in no checkpoint or optimiser, and never moved."""
    object.__setattr__(owner, name, module)
