"""Optional packages, imported when they are first needed."""

from importlib import import_module
from types import ModuleType

from asdkit.core.errors import MissingExtra


def require_package(module: str, name: str) -> ModuleType:
    """The module of an optional package, which the extra `name` of asdkit brings; a MissingExtra if it is not there."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtra(f'This needs {package}: pip install "asdkit[{name}]".') from None
