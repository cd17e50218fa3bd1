"""`asdkit recipes`: the recipes that come with asdkit, a line each, or one as it is."""

from argparse import Namespace

from asdkit.run.recipes import base_of, find_recipe, recipes, summary

_WHOLE = "Whole recipes, each enough for a run, e.g. asdkit fit gs3d:"
_OVERLAYS = "Overlays, marked +, which change a whole recipe before them, e.g. asdkit fit image2d --config image2d/sds:"


def run(options: Namespace) -> int:
    """Print a line for each recipe, or one recipe; returns the exit code."""
    if options.name:
        print(find_recipe(options.name).read_text("utf-8"), end="")
        return 0
    whole = [f"  {name:24} {summary(name)}" for name in recipes() if not base_of(name)]
    overlays = [f"+ {name:24} over {base_of(name)}: {summary(name)}" for name in recipes() if base_of(name)]
    print("\n".join([_WHOLE, *whole, "", _OVERLAYS, *overlays]))
    return 0
