"""Rooms import one way (docs/architecture.md), and files and functions stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "asdkit"
_MATHS = {"core", "rendering", "scores"}
_PARTS = {*_MATHS, "formats", "discriminators", "generators"}
RULE = {  # room: the rooms that it may import, inside functions included
    "core": set(),
    "rendering": {"core"},
    "scores": {"core", "rendering"},
    "formats": {"core", "rendering"},
    "discriminators": {*_MATHS, "formats"},
    "generators": {*_MATHS, "formats"},
    "priors": _MATHS,
    "methods": {"core", "scores", "discriminators"},
    "ranks": {"core", "discriminators"},
    "data": {"core", "rendering", "formats", "generators"},
    "distillation": {*_MATHS, "discriminators", "generators", "ranks"},
    "lab": {*_MATHS, "discriminators"},
    "testing": {*_MATHS, "discriminators", "generators", "asdkit"},
    "run": {*_PARTS, "priors", "data", "ranks", "distillation"},
    "toybox": {*_PARTS, "priors", "methods", "lab", "data", "distillation", "run", "asdkit"},
    "commands": {*_PARTS, "priors", "methods", "data", "ranks", "distillation", "run", "asdkit"},
    "asdkit": {"core"},  # the face, which imports the rest when it is asked for it
    "__main__": {"commands"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The room of a dotted name of the package: its first folder or top file; `asdkit` for the face."""
    parts = module.split(".")
    named = len(parts) > 1 and ((PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file())
    return parts[1] if named else "asdkit"


def imported_rooms(path: Path) -> set[str]:
    """The other rooms that a file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room(name) for name in names if name.split(".")[0] == "asdkit"}


def home(path: Path) -> str:
    relative = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return room(".".join(relative)) if relative[-1] != "__init__" or len(relative) > 2 else "asdkit"


def test_the_rule_has_no_circle_and_few_floors() -> None:
    """At most 18 rooms on 10 floors, where a room stands one floor above the highest that it imports in fact."""
    arrows: dict[str, set[str]] = {name: set() for name in RULE}
    for path in MODULES:
        arrows[home(path)] |= imported_rooms(path) - {home(path)}
    floors: dict[str, int] = {}
    while len(floors) < len(arrows):
        ready = {name for name, below in arrows.items() if name not in floors and below <= floors.keys()}
        assert ready, f"a circle among {arrows.keys() - floors.keys()}"
        floors |= {name: 1 + max((floors[other] for other in arrows[name]), default=0) for name in ready}
    assert len(floors) <= 18 and max(floors.values()) <= 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_import_one_way_and_files_and_functions_stay_small(path: Path) -> None:
    own = home(path)
    assert imported_rooms(path) - {own} <= RULE[own]
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            named = [*node.args.args, *node.args.kwonlyargs]
            assert node.name != "__init__" or len(named) <= 13, f"{path.name}: a constructor has more than 12 arguments"
            body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            assert body[-1].end_lineno - body[0].lineno < 60 if body else True, f"{path.name}: {node.name}"
