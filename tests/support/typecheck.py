"""Shapes and types of asdkit's functions are checked while the tests run, and only then."""

from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[2] / "asdkit"
COMPILED = {"asdkit.rendering.numba_backend", "asdkit.toybox.raycaster"}  # numba can't take wrapped functions
STOOD_IN = {"asdkit.toybox.judge"}  # whose tests judge stand-ins instead of whole runs

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_types() -> None:
    """Check every module of asdkit that is imported from now on, but for those named above and packages' own files."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    plain = {name for name in modules if not name.endswith("__init__")} - COMPILED - STOOD_IN
    install_import_hook(sorted(plain), "support.typecheck.checked")
