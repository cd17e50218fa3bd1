"""Adversarial score distillation on PyTorch Lightning: a generator is pulled by a difference of score fields.

Every public name is an attribute of this module, e.g. `asdkit.ASD`; its file is imported when it is first used.
"""

from importlib import import_module
from typing import Any

from asdkit.core.names import FUNCTIONS, PUBLIC_NAMES
from asdkit.core.version import __version__ as __version__

_FILES = PUBLIC_NAMES | FUNCTIONS
__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'asdkit' has no attribute {name!r}")
    value = getattr(import_module(_FILES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
