"""What watches over the project: skipped tests, and docstrings."""

import importlib
import inspect
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "asdkit"
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
]


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["here", "xdist"])
@pytest.mark.parametrize(("reason", "code"), [("needs a CUDA device", 0), ("needs luck", 1)])
@pytest.mark.slow
def test_an_unknown_skip_fails(reason: str, code: int, workers: list[str], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"import pytest\n\ndef test_it():\n    pytest.skip({reason!r})\n")
    assert pytester.runpytest("-p", "support.skips", *workers).ret == 0
    run = pytester.runpytest("-p", "support.skips", "--only-known-skips", *workers)
    assert run.ret == code and (f"these skips: {reason}" in run.stdout.str()) == bool(code)


@pytest.mark.parametrize("name", MODULES)
def test_public_methods_say_what_they_do(name: str) -> None:
    """Unless they override one that does; ruff looks for all other docstrings."""
    module = importlib.import_module(name)
    silent = [
        method.__qualname__
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == name and not kind.__name__.startswith("_")
        for word, method in vars(kind).items()
        if inspect.isfunction(method) and not word.startswith("_") and not method.__doc__
        if not any(word in vars(base) for base in kind.__mro__[1:])
    ]
    assert silent == []
