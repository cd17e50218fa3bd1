"""Parts: objects that remember how they were built, so that a checkpoint can rebuild them without a config file."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from asdkit.core.bounds import checked_call
from asdkit.core.names import public_path

Spec = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


class Part:
    """Base of what a recipe names by `class_path`: checks its numbers (`core.bounds`), and keeps how it was built."""

    spec: Spec

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        original = cls.__init__

        @functools.wraps(original)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            call = checked_call(original, self, *args, **kwargs)
            if type(self) is cls:
                object.__setattr__(self, "spec", _spec(cls, call, skip=1))
            original(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[method-assign]


def preset(function: F) -> F:
    """Decorator of a preset: its numbers are checked as a part's are, and `spec` records its name and its arguments."""

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> Any:
        call = checked_call(function, *args, **kwargs)
        part = function(*args, **kwargs)
        object.__setattr__(part, "spec", _spec(function, call))
        return part

    return build  # type: ignore[return-value]


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _spec(target: Callable[..., Any], call: inspect.BoundArguments, skip: int = 0) -> Spec:
    """Class path and plain arguments of a call, without its first `skip` arguments and without *args, **kwargs."""
    call.apply_defaults()
    named = [name for name, taken in call.signature.parameters.items() if not taken.kind.name.startswith("VAR_")]
    arguments = {name: _plain(name, call.arguments[name]) for name in named[skip:]}
    return {"class_path": public_path(target), "init_args": arguments}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Part):
        return value.spec
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        return {field.name: _plain(field.name, getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, item) for key, item in value.items()}
    kinds = "a number, a string, a list, a dict, a dataclass or another part"
    raise TypeError(f"{name} must be {kinds}, to be kept in checkpoints; got {type(value).__name__}.")
