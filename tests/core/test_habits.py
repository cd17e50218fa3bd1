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


@pytest.mark.slow
def test_an_unknown_skip_fails(pytester: pytest.Pytester) -> None:
    """Here and in a worker of xdist; without the option, and for a known reason, it doesn't."""
    for name, reason in (("known", "needs a CUDA device"), ("unknown", "needs luck")):
        pytester.makepyfile(**{f"test_{name}": f"import pytest\n\ndef test_it():\n    pytest.skip({reason!r})\n"})
    known = ["-p", "support.skips", "--only-known-skips"]
    assert pytester.runpytest(*known, "test_known.py").ret == pytester.runpytest(*known[:2]).ret == 0
    for workers in ([], ["-n", "1"]):
        run = pytester.runpytest(*known, *workers)
        assert run.ret == 1 and "these skips: needs luck" in run.stdout.str()


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
