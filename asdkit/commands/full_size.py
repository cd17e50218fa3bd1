"""`--prior sd21-base`: a prior of full size brings its family's settings, below the options on the command line."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import shown
from asdkit.core.yaml_text import at, class_name, layers, settings_of
from asdkit.priors.locate import overlay_of
from asdkit.run.recipes import recipe_folder

_PRIOR = "model.prior"
_KINDS = ("gs3d", "nerf3d", "amortized3d", "image2d", "onestep2d", "edit2d", "edit3d", "refine3d")
Settings = dict[str, Any]


def with_family(arguments: list[str]) -> list[str]:
    """The options of a run, with the settings of its prior's family right after the recipe; a line says which."""
    # They are those of `recipes/priors/full_size`, for the recipe's kind, and above them those of `recipes/priors`, for
    # the model. The recipe is the first --config, before any option; further ones and all options count above them.
    place = arguments.index("--config") + 2 if "--config" in arguments else len(arguments)
    recipe, above = settings_of(Path(arguments[place - 1])), [layer for _, layer in layers(arguments[place:])]
    if class_name(recipe.get("model")) != "Distillation":
        return arguments
    path, config = (_last(above, f"{_PRIOR}.{name}") for name in ("path", "config"))
    if not (family := overlay_of(path, config) if path else ""):
        _say_own(arguments[place - 1], recipe, path)
        return arguments
    for name in filter(None, (class_name(at(layer, "model.generator")) for layer in above)):
        if name != class_name(at(recipe, "model.generator")):
            recipe["model"]["init_args"]["generator"] = {"class_path": name}
    shipped = {kind: _parts(settings_of(recipe_folder() / f"{kind}.yaml")) for kind in _KINDS}
    own, name = _parts(recipe), Path(arguments[place - 1]).stem  # by which those of the same parts differ
    kind = max(_KINDS, key=lambda kind: ([a == b for a, b in zip(shipped[kind], own, strict=True)], kind == name))
    files = (recipe_folder() / "priors" / f"{overlay}.yaml" for overlay in (f"full_size/{kind}", family))
    overlays = [_fitting(settings_of(file), recipe) for file in files]
    callbacks = at(recipe, "trainer.callbacks") or []
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    judge = {"class_path": "asdkit.CLIPJudge"}  # in the place of those that know the toybox's truth
    judges = [judge if class_name(part).startswith("Toybox") else part for part in listed]
    each = [part for number, part in enumerate(judges) if part not in judges[:number]]
    overlays.append({"trainer": {"callbacks": each}})
    _say(overlays, f"priors/full_size/{kind} and priors/{family}", above)
    configs = chain.from_iterable(("--config", json.dumps(overlay)) for overlay in overlays)
    return [*arguments[:place], *configs, *arguments[place:]]


def _last(layers: list[Settings], path: str) -> str:
    """What the last of the layers that say anything there holds at a dotted path."""
    return next((str(value) for layer in reversed(layers) if (value := at(layer, path))), "")


def _parts(recipe: Settings) -> list[str]:
    return [class_name(at(recipe, path)) for path in ("data", "model.generator", "model.guidance")]


def _fitting(overlay: Settings, recipe: Settings, alike: bool = True) -> Settings:
    """What of an overlay is for the classes that a recipe has: of a part of another class, its parts that both name."""
    fitting: Settings = {}
    for name, value in overlay.items():
        there = recipe.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            same = not class_name(value) or not class_name(there) or class_name(value) == class_name(there)
            if inner := _fitting(value, there, same if "class_path" in value else alike):
                fitting[name] = inner
        elif alike and name != "class_path" or name == "class_path" and class_name(overlay) == class_name(recipe):
            fitting[name] = value
    return fitting


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The options that settings set, with their values in words."""
    if not isinstance(value, dict):
        yield name, json.dumps(value).strip('"')
        return
    inner = value.get("init_args", {key: item for key, item in value.items() if key != "class_path"})
    if class_name(value) == "Ramp":
        yield name, "{start} to {end} in {steps}".format(**inner)
    elif not inner:
        yield name, class_name(value)
    else:
        for key, item in inner.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)


@rank_zero_only
def _say(overlays: list[Settings], files: str, above: list[Settings]) -> None:
    leaves = dict(leaf for overlay in overlays for leaf in _leaves(overlay, ""))
    own = [name for name in leaves if all(at(layer, name) is None for layer in above)]
    taken = [f"{name.removeprefix('model.')}={leaves[name]}" for name in own]
    print(f"From {files}, below your own options: {shown(', '.join(taken))}.", file=sys.stderr)


@rank_zero_only
def _say_own(file: str, recipe: Settings, above: str) -> None:
    """One line, where a recipe itself names a prior of full size, and nothing above it does: its own settings count."""
    path = "" if above else _last([recipe], f"{_PRIOR}.path")
    with suppress(PriorUnavailable):  # which the run will say
        if path and overlay_of(path):
            line = f"{Path(file).name} names its prior, {path}, and all settings are its own"
            print(shown(f"{line}; --prior {path} would bring those of its family."), file=sys.stderr)
