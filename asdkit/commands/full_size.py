"""`--prior sd21-base`: a prior of full size brings its family's settings, below the options on the command line."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_only

from asdkit.core.text import shown
from asdkit.priors.overlays import overlay_of
from asdkit.run.recipes import recipe_folder

_MODEL = "model.init_args"
_KINDS = ("gs3d", "nerf3d", "image2d", "edit2d", "edit3d")
Settings = dict[str, Any]


def with_family(arguments: list[str]) -> list[str]:
    """The options of a run, with the settings of its prior's family right after the recipe; a line says which.

    They are those of `recipes/priors/full_size`, for the recipe's kind, and above them those of `recipes/priors`, for
    the model. The recipe is the first --config; further ones and all other options count above them.

    Args:
        arguments: options, short forms expanded.

    Raises:
        PriorUnavailable: the prior can't be had.
    """
    options = _options(arguments)
    configs = [Path(config) for config in options.get("--config", []) if not config.startswith("{")]
    recipe = _read(configs[0]) if configs else {}
    family = _family(options, configs[1:]) if _class(recipe.get("model")) == "Distillation" else None
    if family is None:
        return arguments
    for generator in options.get("--model.generator", []):
        _merge(recipe, {"model": {"init_args": {"generator": {"class_path": generator}}}})
    shipped = {kind: _parts(_read(recipe_folder() / f"{kind}.yaml")) for kind in _KINDS}
    kind = max(_KINDS, key=lambda kind: [a == b for a, b in zip(shipped[kind], _parts(recipe), strict=True)])
    settings: Settings = {}
    for file in (recipe_folder() / "priors" / "full_size" / f"{kind}.yaml", family):
        _merge(settings, _fitting(_read(file), recipe))
    callbacks = _at(recipe, "trainer.callbacks") or []
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    settings["trainer"]["callbacks"] = [part for part in listed if not _class(part).startswith("Toybox")]
    _say(settings, f"priors/full_size/{kind} and priors/{family.stem}", list(options))
    at = arguments.index(str(configs[0])) + 1
    return [*arguments[:at], "--config", json.dumps(settings), *arguments[at:]]


def _family(options: dict[str, list[str]], configs: list[Path]) -> Path | None:
    """The overlay of the family that the configs above a recipe name, or of the prior that they or the options name."""
    overlays = recipe_folder() / "priors"
    if named := [config for config in configs if config.parent == overlays]:
        return named[0]
    above = [_at(_read(config), f"{_MODEL}.prior.init_args.path") for config in configs]
    paths = [path for path in (*above, *options.get("--model.prior.path", [])) if path]
    overlay = overlay_of(str(paths[-1]), options.get("--model.prior.config", [""])[-1]) if paths else ""
    return overlays / f"{overlay}.yaml" if overlay else None


def _options(arguments: list[str]) -> dict[str, list[str]]:
    """The values of each option, in their order."""
    options: dict[str, list[str]] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag.startswith("-"):
            options.setdefault("--config" if flag == "-c" else flag.replace(".init_args", ""), []).append(
                value if equals else following
            )
    return options


def _read(file: Path) -> Settings:
    """The settings of a recipe; none of one that can't be read, which the parser will refuse."""
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _at(settings: Any, path: str) -> Any:
    """What settings hold at a dotted path; None where they hold nothing."""
    for name in path.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _class(part: Any) -> str:
    """The name of a part's class; empty for what is no part."""
    path = part.get("class_path", "") if isinstance(part, dict) else part if isinstance(part, str) else ""
    return str(path).rpartition(".")[2]


def _parts(recipe: Settings) -> list[str]:
    """The classes of a recipe's data, generator and guidance."""
    return [_class(_at(recipe, path)) for path in ("data", f"{_MODEL}.generator", f"{_MODEL}.guidance")]


def _merge(settings: Settings, above: Settings) -> None:
    """Settings with others above them; a part of another class takes a part's place."""
    for name, value in above.items():
        below = settings.get(name)
        if isinstance(value, dict) and isinstance(below, dict) and _class(value) in ("", _class(below)):
            _merge(below, value)
        else:
            settings[name] = value


def _fitting(overlay: Settings, recipe: Settings, alike: bool = True) -> Settings:
    """What of an overlay is for the classes that a recipe has: of a part of another class, its parts that both name."""
    fitting: Settings = {}
    for name, value in overlay.items():
        there = recipe.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            same = not _class(value) or not _class(there) or _class(value) == _class(there)
            if inner := _fitting(value, there, same if "class_path" in value else alike):
                fitting[name] = inner
        elif alike and name != "class_path" or name == "class_path" and _class(overlay) == _class(recipe):
            fitting[name] = value
    return fitting


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The options that settings set, with their values in words."""
    if not isinstance(value, dict):
        yield name, json.dumps(value).strip('"')
        return
    inner = value.get("init_args", {key: item for key, item in value.items() if key != "class_path"})
    if _class(value) == "Ramp":
        yield name, "{start} to {end} in {steps}".format(**inner)
    elif not inner:
        yield name, _class(value)
    else:
        for key, item in inner.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)


@rank_zero_only
def _say(settings: Settings, files: str, given: list[str]) -> None:
    """One line: which settings come from where."""
    leaves = [(name, value) for name, value in _leaves(settings, "") if f"--{name}" not in given]
    taken = [f"{name.removeprefix('model.')}={value}" for name, value in leaves]
    print(f"From {files}, below your own options: {shown(', '.join(taken))}.", file=sys.stderr)
