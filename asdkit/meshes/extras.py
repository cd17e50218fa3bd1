"""Packages that only meshes need."""

from importlib import import_module
from types import ModuleType


def extra(module: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise RuntimeError(f'Meshes need {module.partition(".")[0]}: pip install "asdkit[mesh]".') from error
