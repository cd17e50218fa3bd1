"""Studies are made of runs of `asdkit fit`: a finished run is kept, one that was stopped goes on."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

S, T = TypeVar("S"), TypeVar("T")


def fit(folder: Path, options: Sequence[str]) -> dict:
    """The `run.json` of `asdkit fit` with these options in `folder`, which is ROOT/RECIPE/NAME.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    report = folder / "run.json"
    if not report.is_file():
        place = ["--run.root", folder.parents[1], "--run.recipe", folder.parent.name, "--run.name", folder.name]
        subprocess.run([sys.executable, "-m", "asdkit", "fit", *options, *map(str, place)], check=True)
    elif json.loads(report.read_text())["status"] != "finished":
        subprocess.run([sys.executable, "-m", "asdkit", "fit", str(folder)], check=True)
    return json.loads(report.read_text())


def side_by_side(run: Callable[[S], T], cells: Sequence[S], jobs: int) -> list[T]:
    """`run` of each cell, `jobs` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, cells))
