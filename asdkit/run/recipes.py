"""The recipes that come with asdkit: where they are, what they are called, and how one is found by a name."""

import re
from pathlib import Path

from asdkit.core.errors import UsageError
from asdkit.core.text import local, suggestion


def recipe_folder() -> Path:
    """Where the recipes are: inside the package when it was installed, beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def recipes() -> list[str]:
    """The names of all recipes, e.g. `gs3d` and `toybox/vae`."""
    folder = recipe_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def base_of(name: str) -> str:
    """The recipe that an overlay is laid over, `gs3d` for those that fit all; empty for a whole recipe."""
    folder, _, kind = name.rpartition("/")
    return {"priors": "gs3d", "priors/full_size": kind}.get(folder, folder if folder in recipes() else "")


def summary(name: str) -> str:
    """What a recipe makes, from the first words of its file."""
    lines = (recipe_folder() / f"{name}.yaml").read_text().splitlines()
    header = " ".join(line.removeprefix("# ") for line in lines[: lines.index("#") if "#" in lines else 1])
    return re.split(r", on top of|: (?:asdkit|what|it) |(?<!Eq)\. |:$", header)[0].strip(" .,")


def find_recipe(name: str) -> Path:
    """The file of a recipe given by a path, by a name, or by its path in the repository from anywhere else."""
    if (file := local(name)).is_file():
        return file
    if (short := _short(name)) in recipes():
        return recipe_folder() / f"{short}.yaml"
    raise UsageError(f"There is no recipe {name!r}{suggestion(short, recipes())} `asdkit recipes` lists them.")


def is_recipe(name: str) -> bool:
    """Whether a word names a recipe: one of asdkit's, or a YAML file, there or not."""
    return _short(name) in recipes() or name.endswith((".yaml", ".yml"))


def _short(name: str) -> str:
    return name.lower().removeprefix("./").removeprefix("recipes/").removesuffix(".yaml")
