"""Tells griffe, which reads the code for the API pages, that classes under `core.bounds.settings` are dataclasses."""

from typing import Any

from griffe import Class, ExprName, Extension


class SettingsAreDataclasses(Extension):
    """Without it their arguments have neither types nor defaults on the page, and a strict build stops."""

    def on_class_instance(self, *, cls: Class, **others: Any) -> None:
        """Called for each class that is read."""
        for decorator in cls.decorators:
            if str(decorator.value) == "settings":
                decorator.value = ExprName("dataclasses.dataclass")
