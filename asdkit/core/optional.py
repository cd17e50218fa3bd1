"""Optional packages, imported when they are first needed, and what asdkit needs of packages at all."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType

from packaging.requirements import Requirement

from asdkit.core.errors import MissingExtra


def require_package(module: str, name: str) -> ModuleType:
    """The module of an optional package, which the extra `name` of asdkit brings; a MissingExtra if it is not there."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtra(f"This needs {package}: {pip_install(requirements(name)) or f'the extra {name}'}.") from None


def requirements(extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for, as it was installed: of an extra, or of asdkit itself; none where nobody knows."""
    try:
        stated = [Requirement(text) for text in requires("asdkit") or []]
    except PackageNotFoundError:  # a checkout that is only on the path
        return []
    own = [r for r in stated if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [r for r in stated if r.marker and r.marker.evaluate({"extra": extra}) and r not in own] if extra else own


def pip_install(needed: Iterable[Requirement]) -> str:
    """The command that installs packages, by names that are on the public index, where asdkit is not."""
    words = [f'"{requirement.name}{requirement.specifier}"' for requirement in needed]
    return f"pip install {' '.join(words)}" if words else ""
