"""A grid of runs: prompts x options x seeds. What each cell is, where its run is and what makes it; starts nothing."""

import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asdkit.core.errors import UsageError
from asdkit.core.text import local, recipe_slug, run_folder, slug
from asdkit.core.yaml_text import at, settings_of
from asdkit.run.recipes import find_recipe
from asdkit.run.side_files import read_facts

_NAME_CHARACTERS = 39  # with a hyphen and the digest as many as a slug keeps


@dataclass(frozen=True)
class Cell:
    """One run of a grid, of a prompt."""

    prompt: str
    labels: Mapping[str, str | int | float] = field(default_factory=dict)  # of tables, e.g. {"method": "VSD"}
    options: Sequence[str] = ()  # of `asdkit fit`, after those that all cells share
    prior: str = ""  # the digest of the weights, where a run by others is another run


def product(prompts: Sequence[str], axes: Mapping[str, Mapping[Any, Sequence[str]]]) -> list[Cell]:
    """A cell for each combination of axes such as {"seed": {0: ["--seed=0"]}} and, changing fastest, each prompt."""
    cells = []
    for values in itertools.product(*axes.values()):
        labels = dict(zip(axes, values, strict=True))
        options = [option for axis, value in zip(axes.values(), values, strict=True) for option in axis[value]]
        cells += [Cell(prompt, labels, options) for prompt in prompts]
    return cells


class Grid:
    """Cells that share options, and the folders of their runs, which `asdkit fit` makes.

    A run's folder is named by its cell's words and by a hash of what defines it: the prompt, all options, the settings
    of their recipes and the prior's digest, if known. So a grid that is made again finds its own runs and no others,
    also where its root is now elsewhere. A cell needs a recipe. The title names the folder of tables, logs and records,
    and that of the runs where cells share no recipe. Without a root, all runs' folder is as options and recipes say.
    """

    def __init__(self, cells: Sequence[Cell], options: Sequence[str], title: str, root: Path | None = None) -> None:
        self.cells, self.options = list(cells), list(options)
        shared = recipe_names(options)
        names = [*shared, *(name for cell in cells for name in recipe_names(cell.options))]
        recipes = {name: find_recipe(name) for name in names}
        if not names or not shared and not all(recipe_names(cell.options) for cell in self.cells):
            raise UsageError("There is no recipe among the options; name one with --config RECIPE.")
        said = {name: settings_of(path) for name, path in recipes.items()}
        self._settings = {name: json.dumps(settings, sort_keys=True, default=str) for name, settings in said.items()}
        own = [recipes[name] for name in shared]
        self.root = local(root or _run_setting("root", own, options) or "runs")
        self.recipe = slug(_run_setting("recipe", own, options) or (recipe_slug(own[0]) if own else title))
        self.folder = self._named(f"sweep {title}", self.options)

    def run_folder(self, cell: Cell) -> Path:
        """Where the run of a cell is, or will be."""
        words = " ".join(map(str, [*cell.labels.values(), cell.prompt]))
        return self._named(words, [*self.options, *cell.options], cell.prompt, cell.prior)

    def command(self, cell: Cell) -> list[str]:
        """What makes the run of a cell, or goes on with it from its last checkpoint."""
        run = self.run_folder(cell)
        fit = [sys.executable, "-P", "-m", "asdkit", "fit"]  # no file in this folder takes the place of a library
        options = [*self.options, *cell.options]
        if (run / "checkpoints" / "last.ckpt").is_file():
            return [*fit, str(run), *(f"--trust={package}" for package in option_values(options, "--trust"))]
        place = [f"--run.root={self.root}", f"--run.recipe={self.recipe}", f"--run.name={run.name}"]
        return [*fit, *options, *place, "--model.prompt", cell.prompt]

    def report(self, cell: Cell) -> dict[str, Any]:
        """The `run.json` of a cell's run, empty if there is none."""
        return read_facts(self.run_folder(cell) / "run.json")

    def finished(self, cell: Cell) -> bool:
        """Whether the run of a cell has come to its end."""
        return self.report(cell).get("status") == "finished"

    def _named(self, words: str, options: list[str], *further: str) -> Path:
        """A folder beside the runs, named by words and by a hash of what defines it."""
        within = [option.replace(f"{self.root}{os.sep}", "") for option in options]
        settings = [self._settings[name] for name in recipe_names(options)]
        digest = hashlib.sha256(b"\0".join(map(os.fsencode, [*within, *further, *settings]))).hexdigest()
        return run_folder(self.root, self.recipe, f"{slug(words, _NAME_CHARACTERS)}-{digest[:8]}")


@dataclass(frozen=True)
class Compared:
    """A run in a comparison."""

    label: str  # the method, or what else is compared
    pair: str  # what it has in common with a run of each other label: prompt and seed
    run: Path

    @property
    def metrics(self) -> dict[str, float]:
        """Its seconds, and what its judges have measured, at its end or in a later test."""
        made, tested = (read_facts(self.run / name) for name in ("run.json", "test.json"))
        seconds = {"seconds": made["seconds"]} if "seconds" in made else {}
        return {**seconds, **made.get("metrics", {}), **tested.get("metrics", {})}


def option_values(options: Iterable[str], flag: str) -> list[str]:
    """All values that an option is given, by `flag=value` or `flag value`."""
    return [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in itertools.pairwise([*options, ""])
        if argument.partition("=")[0] == flag
    ]


def recipe_names(options: Iterable[str]) -> list[str]:
    """The recipes that options name."""
    return option_values([re.sub("^-c(?==|$)", "--config", option) for option in options], "--config")


def _run_setting(name: str, recipes: Iterable[Path], options: Iterable[str]) -> str:
    """What is said last of `run.name`, by recipes and by options above them; empty where nothing is."""
    said = [at(settings_of(recipe), f"run.{name}") for recipe in recipes]
    return str(next(filter(None, reversed([*said, *option_values(options, f"--run.{name}")])), ""))
