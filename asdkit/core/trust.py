"""Whose code recipes and checkpoints may name: asdkit's public parts, Lightning's, torch's optimisers, and the user's.

A class path is an import, and an import is execution. jsonargparse asks before each one, and asks again where what was
found is defined, so that `asdkit.commands.main.os.system` is `posix.system`.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from asdkit.core.foreign import no_addresses, parsing_settings, refused_import, texts_stay_texts
from asdkit.core.names import PUBLIC_NAMES

_LIGHTNING = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
ALLOWED = (
    *(f"asdkit.{name}" for name in PUBLIC_NAMES),
    *sorted(set(PUBLIC_NAMES.values())),  # where they are defined
    *(f"pytorch_lightning.{part}" for part in _LIGHTNING),
    "lightning_fabric.plugins",  # where Lightning defines some of its plugins
    "torch.optim",
)


@contextmanager
def trusting(packages: Iterable[str] = ()) -> Iterator[None]:
    """Inside, recipes and checkpoints can name classes of `ALLOWED`, of `packages`, and of what outer blocks trust."""
    from jsonargparse import set_parsing_settings

    settings = parsing_settings()
    before = dict(settings)
    inside = before["import_path_verdicts"].get("*") is False
    try:
        allowed = [*(() if inside else ALLOWED), *packages]
        set_parsing_settings(
            import_path_denylist=["*"], import_path_allowlist=allowed, instantiate_subclass_spec_in_any=False
        )
        with no_addresses(), texts_stay_texts():
            yield
    finally:
        settings.update(before)


def refusal(message: str, where: str) -> str:
    """The sentence about an import that `where` names, or nothing if jsonargparse's message is not about one."""
    path = refused_import(message)
    if not path:
        return ""
    package = path.split(".")[0]
    known = package in sys.stdlib_module_names or package == "asdkit"
    advice = "" if known else f"; if you trust {package}, add --trust {package}"
    return f"{where} names {path}, but only public parts of asdkit, Lightning and torch.optim are imported{advice}."
