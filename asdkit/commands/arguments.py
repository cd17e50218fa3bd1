"""What commands do with their arguments: a parser whose errors are sentences, `--trust`, short forms, `--help`."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml

from asdkit.commands.answers import CheckedOptions, check_options, listed, of_class, public_name
from asdkit.core.errors import PriorUnavailable, UsageError
from asdkit.core.text import local, nearest
from asdkit.core.trust import trusting
from asdkit.core.yaml_text import at, check_recipe, class_path, settings_of, to_yaml
from asdkit.run.grid import option_values, recipe_names
from asdkit.run.recipes import base_of, find_recipe, is_recipe, recipes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare_libraries() -> None:
    """Let libraries that are imported from now on say only what concerns the user, and their threads wait quietly.

    The C library keeps the memory of large tensors that are gone for the next ones; where it is not glibc, nothing
    changes.
    """
    for name, value in yaml.safe_load(Path(__file__).with_name("environment.yaml").read_text("utf-8")).items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux" and (mallopt := getattr(CDLL(None), "mallopt", None)):
        for option, most in (_MMAP_THRESHOLD, 2**25), (_MMAP_THRESHOLD, 2**28), (_TRIM_THRESHOLD, 2**28):
            mallopt(option, most)  # older versions refuse the second, and any option ends their own adjustment


class Arguments(argparse.ArgumentParser):
    """The options of a command that needs no trainer, as `options.yaml` has them; a mistake is a UsageError."""

    def __init__(self, command: str) -> None:
        stated = yaml.safe_load(Path(__file__).with_name("options.yaml").read_text("utf-8"))[command]
        super().__init__(f"asdkit {command}", stated.get("usage"), stated["about"], allow_abbrev=False)
        self._passes_on = stated.get("passes_on", False)
        groups: dict[str, Any] = {"options": self}
        if "one_of" in stated:
            groups = {"one_of": self.add_mutually_exclusive_group(required=True), **groups}
        for key, group in groups.items():
            for name, option in stated.get(key, {}).items():
                kind = {"type": {"int": int, "path": Path}[option["type"]]} if "type" in option else {}
                group.add_argument(name, **option | kind)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The values of the options, with the unknown ones as `of_fit` and all arguments as `given`."""
        options, unknown = self.parse_known_args(arguments)
        if unknown and not self._passes_on:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.of_fit, options.given = unknown, arguments
        return options

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('asdkit ')}: {message}; {self.prog} --help tells more.")


@contextmanager
def trusted(packages: list[str]) -> Iterator[None]:
    """Inside, recipes and checkpoints may name classes of these packages, or modules in the working directory."""
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise UsageError(f"--trust needs a package that may be imported, such as my_module; got {name!r}.")
    if packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: no file there takes the place of a library
    for name in packages:
        if find_spec(name.partition(".")[0]) is None:
            raise UsageError(f"--trust {name}: there is no such package, nor a module in {os.getcwd()}.")
    with trusting(packages):
        yield


def replaced(arguments: Iterable[str], changes: Mapping[str, Callable[[str], list[str]]]) -> list[str]:
    """The arguments, with what `changes` makes of an option's value in the place of `--key value` and `--key=value`."""
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, text = argument.partition("=")
        if flag not in changes:
            others.append(argument)
            continue
        value = text if equals else next(remaining, None)
        if value is None:
            raise UsageError(f"{flag} needs a value.")
        others += changes[flag](value)
    return others


def trusted_packages(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The packages that `--trust` names, and the arguments without it."""
    return option_values(arguments, "--trust"), replaced(arguments, {"--trust": lambda name: []})


def overlay(key: str, value: Any) -> list[str]:
    """Options, a recipe in a line, that give an argument of the model, e.g. `guidance.negative`, just this value."""
    for name in reversed(key.split(".")):
        value = value if name == "init_args" else {"init_args": {name: value}}
    return ["--config", to_yaml({"model": value}, in_a_line=True)]


def expand(command: str, arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments as LightningCLI understands them, recipes before the options; and the run folder that was named."""
    run, arguments = _with_words(command, arguments)
    if run:
        arguments = [*_run_arguments(run, arguments), *arguments]
    else:
        _check_first_recipe(command, arguments)
    options = replaced(arguments, dict.fromkeys(("--config", "-c"), lambda name: []))
    files = [check_recipe(find_recipe(name)) for name in recipe_names(arguments)]
    words = filter(_TEXT.fullmatch, _flags(options))
    texts = {flag: partial(overlay, flag.removeprefix("--model.")) for flag in words}
    said = [at(settings_of(file), "model.view_prompts") for file in files]
    views: dict[str, str] = next(filter(None, reversed(said)), {})

    def take_view(name: str, text: str) -> list[str]:
        views[name] = text
        return overlay("view_prompts", views)

    for flag in filter(_VIEW.fullmatch, _flags(options)):
        texts[flag] = partial(take_view, flag.rpartition(".")[2])
    pairs = pairwise([*options, ""])  # --viewer alone names the usual port
    options = ["--viewer=8080" if word == "--viewer" and not after.isdigit() else word for word, after in pairs]
    recipes_first = [word for file in files for word in ("--config", str(file))]
    expanded = [*recipes_first, *replaced(options, _SHORT_FORMS | texts)]
    check_options(expanded)
    return expanded, run


def help_for(command: str, arguments: list[str]) -> str:
    """What `--help`, `--help CLASS` or `--OPTION.help[=CLASS]` asks for; empty where the parser itself must answer."""
    for place, argument in enumerate(arguments):
        flag, _, name = argument.partition("=")
        name = name or next((word for word in arguments[place + 1 : place + 2] if not word.startswith("-")), "")
        if flag in ("--help", "-h") and name != "all":
            return of_class(name) if name else Path(__file__).with_name("fit.txt").read_text()
        if flag.startswith("--") and flag.endswith(".help"):
            option = flag.removeprefix("--").removesuffix(".help")
            if name:
                return of_class(name, option) if public_name(name) or "." not in name else ""
            expanded, _ = expand(command, [*arguments[:place], *arguments[place + 1 :], "--help"])
            entry = CheckedOptions(expanded).entry(option)
            classes = listed(option, entry["parts"]) if entry.get("parts") else ""
            return of_class(entry["group"], option) if "group" in entry else classes
    return ""


def check_runs(command: str, given: list[str], own: Iterable[str], runs: Iterable[Sequence[str]]) -> None:
    """Refuse what is wrong with the options of `runs` before one starts, and what is `given` but each run's `own`."""
    for flag in own:
        if option_values(given, flag):
            raise UsageError(f"{command}: {flag} is different for each run, so it can't be given.")
    for options in runs:
        if expand(command, trusted_packages([*options])[1])[1] is not None:
            raise UsageError(f"{command}: there is a run folder among the options; name a recipe, --config RECIPE.")


def _with_words(command: str, arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The run folder among the words; or none, and the options with the recipe and the prompt that the words say."""
    words, options = _split(arguments)
    if not words:
        is_new = command == "fit" and _flags(options) & {"--prompt", "--model.prompt"} and not recipe_names(options)
        return None, ["--config", "gs3d", *options] if is_new else options
    if not all(map(str.strip, words)):
        raise UsageError(f'A prompt is empty; say what to make: asdkit {command} "a yellow duck".')
    first = words[0]
    recipe = words[:1] if is_recipe(first) and not (local(first) / "config.yaml").is_file() else []
    texts, is_file = words[len(recipe) :], local(first).exists()
    is_path = is_file or first[:1] in ("/", ".", "~") or ("/" in first and local(first).parent.exists())
    if command == "fit" and len(first.split()) == 1 and not (recipe or is_path) and (near := nearest(first, recipes())):
        raise UsageError(f"There is no recipe {first!r}; did you mean {near!r}?")
    is_path = is_path or ("/" in first and len(first.split()) == 1)
    if not recipe and (is_path or command != "fit"):
        if words[1:]:
            raise UsageError(f"{first} is taken for a run folder, and {words[1]!r} stands after it; leave one out.")
        return Path(first), options
    _check_prompt(texts, options, named=bool(recipe or recipe_names(options)))
    named = ["--config", *recipe] if recipe else [] if recipe_names(options) else ["--config", "gs3d"]
    return None, [*named, *(["--model.prompt", " ".join(texts)] if texts else []), *options]


def _check_prompt(texts: Sequence[str], options: list[str], named: bool) -> None:
    """The words after a recipe are one prompt, and no option says another."""
    if any(map(is_recipe, texts)):
        raise UsageError("One recipe is expected, before the prompt; lay another over it by --config RECIPE.")
    if texts[1:] and any(" " in text for text in texts):
        raise UsageError(f"One prompt is expected, and {texts[0]!r} and {texts[1]!r} are two; asdkit sweep makes many.")
    if texts and (twice := sorted(_flags(options) & {"--prompt", "--model.prompt", "--model.target"})):
        raise UsageError(f"{' '.join(texts)!r} and {twice[0]} both say what to make; leave one out.")
    if len(texts) == 1 and len(texts[0].split()) == 1 and not named:
        raise UsageError(f"{texts[0]!r} is no recipe nor run folder; for a prompt of one word say --prompt {texts[0]}.")


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words that are no option's value, and the options with their values."""
    words: list[str] = []
    options: list[str] = []
    is_value = False
    for word, after in pairwise([*arguments, ""]):
        # No option has a blank in its name, which a prompt such as "-10 degrees outside" has.
        is_option = word.startswith("-") and word != "-" and " " not in word.partition("=")[0]
        (options if is_value or is_option else words).append(word)
        alone = word in ("-h", "--help", "--print_config") or (word == "--viewer" and not after.isdigit())
        is_value = is_option and not is_value and "=" not in word and not alone
    return words, options


def _check_first_recipe(command: str, arguments: list[str]) -> None:
    """There is a recipe, and the first one is laid over no other."""
    if not {"--config", "-c", "-h", "--help", "--print_config"} & _flags(arguments):
        if misspelt := nearest("--config", _flags(arguments)):
            raise UsageError(f"There is no option {misspelt}; did you mean --config?")
        whole = ", ".join(name for name in recipes() if "/" not in name)
        instead = {"fit": 'a prompt, asdkit fit "a yellow duck", or '}
        instead |= dict.fromkeys(("validate", "test", "predict"), f"a run, asdkit {command} RUN, or ")
        what = instead.get(command, "")
        raise UsageError(f"{command} needs {what}a recipe: asdkit {command} --config NAME, with one of {whole}.")
    first = next(iter(recipe_names(arguments)), "")
    if first in recipes() and (base := base_of(first)):
        raise UsageError(f"The recipe {first} is laid over another: --config {base} --config {first}.")


def _judges(models: list[str]) -> list[str]:
    for place in (model for model in models if model[:1] in ("/", ".", "~")):
        if not local(place).exists():
            raise PriorUnavailable(f"There is no {place}; name the folder of a CLIP, or an id of the hub.")
    return models


def _flags(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


def _run_arguments(run: Path, options: list[str]) -> list[str]:
    """The recipe and the last checkpoint of a run folder, unless the options name another checkpoint."""
    if not (local(run) / "config.yaml").is_file():
        raise UsageError(f"{run} is no run folder, for it has no config.yaml; name a folder that asdkit fit made.")
    for name in recipe_names(options):
        if class_path(at(settings_of(find_recipe(name)), "model")):  # an overlay has none
            own = f"{run} has a recipe of its own, and --config {name} would change what it makes"
            raise UsageError(f"{own}; leave it out.")
    if given := sorted(_flags(options) & {"--run.root", "--run.recipe", "--run.name"}):
        raise UsageError(f"{given[0]} names the folder of a new run, and {run} has its own; leave it out.")
    checkpoint = run / "checkpoints" / "last.ckpt"
    named = "--ckpt_path" in _flags(options)
    if not (named or checkpoint.is_file()):
        raise UsageError(f"{run} has no checkpoints/last.ckpt; give one with --ckpt_path.")
    return ["--config", str(run / "config.yaml"), *([] if named else ["--ckpt_path", str(checkpoint)])]


_TEXT = re.compile(r"--model\.(?:[\w.]+\.)?(?:prompt|source|negative|text)")  # options whose values are words
_VIEW = re.compile(r"--model\.(?:init_args\.)?view_prompts\.\w+")  # of which an overlay takes the place of all
_SHORT_FORMS: dict[str, Callable[[str], list[str]]] = {  # of which `answers.SHORT` has the names
    "--asset": lambda path: ["--data.asset", path, "--model.generator.init", path],  # an edit starts from what it edits
    "--model.target": lambda text: overlay("prompt", text),  # in editing, the prompt says what the target is
    "--prompt": lambda text: overlay("prompt", text),
    "--negative": lambda text: overlay("guidance.negative", text),
    "--method": lambda name: [f"--model.guidance={name}"],
    "--seed": lambda number: [f"--model.seed={number}"],
    "--steps": lambda number: [f"--trainer.max_steps={number}"],
    "--prior": lambda place: [f"--model.prior.path={place}"],
    "--viewer": lambda port: [f"--viewer.port={port}"],
    "--logger": lambda names: [f"--logger.names={json.dumps(names.split(','))}"],
    "--judge": lambda models: [
        "--trainer.callbacks+=asdkit.CLIPJudge",
        f"--trainer.callbacks.models={json.dumps(_judges(models.split(',')))}",
    ],
}
