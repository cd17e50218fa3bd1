"""A file imports only from layers above its own line (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "asdkit"
LAYERS = [
    {
        "",
        "part",
        "perp_neg",
        "ends",
        "signals",
        "schedules",
        "views",
        "prompts",
        "objectives",
        "randomness",
        "timesteps",
        "camera",
        "files",
        "trust",
        "machine",
        "extras",
        "pictures",
        "ply",
        "formats",
        "harmonics",
        "ramps",
        "srgb",
        "volume",
    },
    {"prior", "fields", "elsewhere", "discriminator", "generators.base"},
    {"adapters", "gammas", "reals", "guidance", "sampling", "priors", "generators", "rasterizers", "meshes"},
    {"distillation", "data", "callbacks", "loading", "viewing", "ranks"},
    {"cli", "cli_errors", "app", "export", "__main__", "toybox", "lab", "bench", "stepping", "doctor", "sweeps"},
]
SIBLINGS = {
    ("generators", "rasterizers"),
    ("guidance", "adapters"),
    ("guidance", "reals"),
    ("gammas", "sampling"),
    ("reals", "sampling"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(module: str) -> tuple[int, str]:
    """Layer and name of the longest entry of LAYERS that `module` belongs to."""
    parts = module.split(".")
    for length in range(len(parts), -1, -1):
        name = ".".join(parts[:length])
        for level, names in enumerate(LAYERS):
            if name in names and (name or not module):
                return level, name
    raise AssertionError(f"asdkit.{module} has no layer; add it to LAYERS")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in submodules if is_module(name)}
            found |= known or {node.module}
    return {name.removeprefix("asdkit").lstrip(".") for name in found if name.split(".")[0] == "asdkit"}


def is_module(name: str) -> bool:
    base = PACKAGE.parent / name.replace(".", "/")
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_up(path: Path) -> None:
    module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix("__init__").rstrip(".")
    level, name = place(module)
    for imported in imports(path):
        other_level, other = place(imported)
        assert other_level <= level, f"{module} (L{level}) imports {imported} (L{other_level})"
        if level == other_level == 2:
            assert other == name or (name, other) in SIBLINGS, f"{module} imports its sibling {imported}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            assert body[-1].end_lineno - body[0].lineno < 60 if body else True, f"{path.name}: {node.name}"
