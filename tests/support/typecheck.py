"""Shapes and types of asdkit's functions are checked while the tests run, and only then."""

from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[2] / "asdkit"
COMPILED = {"asdkit.rendering.numba_backend"}  # numba can't take wrapped functions
STOOD_IN = {"asdkit.toybox.judge"}  # whose tests judge stand-ins instead of whole runs

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_types() -> None:
    """Check every module with shapes that is imported from now on, but for those named above and packages' own files.

    Types of the others are mypy's: checked on every call, they would make a run of a test half as long again.
    """
    files = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    shaped = {name for name, path in files.items() if "jaxtyping" in path.read_text() and path.stem != "__init__"}
    install_import_hook(sorted(shaped - COMPILED - STOOD_IN), "support.typecheck.checked")
