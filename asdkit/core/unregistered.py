"""Modules that other modules use without owning them."""

from typing import Any


def keep_unregistered(owner: object, name: str, module: Any) -> None:
    """Set an attribute to a module that is no submodule of its owner.

    `owner.name = module` would register it: a frozen prior would be saved in every checkpoint, and its weights given to
    the optimiser of whoever uses it. What is kept like this does not follow its owner to another device either.
    """
    object.__setattr__(owner, name, module)
