"""The recipes that come with asdkit: where they are, what they are called, and how one is found by a name."""

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


def find_recipe(name: str) -> Path:
    """The file of a recipe given by a path, by a name, or by its path in the repository from anywhere else."""
    if (file := local(name)).is_file():
        return file
    short = name.removeprefix("./").removeprefix("recipes/").removesuffix(".yaml")
    known = recipes()
    if short in known:
        return recipe_folder() / f"{short}.yaml"
    raise UsageError(f"There is no recipe {name!r}{suggestion(short, known)} The recipes are: {', '.join(known)}.")
