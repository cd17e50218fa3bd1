"""What is wrong with an option, and the help on classes, from a table of all signatures: it is said without torch.

`signatures.json` has each public class, each group of options and `fit`, which holds them all: what it is, and of each
of its options what it takes, its default, and the classes or the group that stand there. `make signatures` renews it.
"""

import json
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from asdkit.core.errors import UsageError
from asdkit.core.names import PUBLIC_NAMES
from asdkit.core.text import existing, nearest, suggestion
from asdkit.core.yaml_text import class_path, layers

Entry = dict[str, Any]
_FEW, _WIDTH = 13, 110
_ROOT: Entry = {"group": "fit"}
SHORT = ["asset", "prompt", "negative", "method", "seed", "steps", "prior", "viewer", "logger", "judge"]  # of `fit`


@cache
def table() -> dict[str, Entry]:
    """The signatures, by public name."""
    entries: dict[str, Entry] = json.loads(Path(__file__).with_name("signatures.json").read_text())
    return entries


def called_elsewhere(kind: str, word: str) -> str:
    """What asdkit calls one of the `commands` or `options` that other programs call by a word; empty if they don't."""
    known: dict[str, str] = yaml.safe_load(Path(__file__).with_name("other_words.yaml").read_text("utf-8"))[kind]
    return next((ours for ours, words in known.items() if word in words.split()), "")


def check_options(arguments: list[str]) -> None:
    """Refuse options, classes and files that there are not; what only a class of the user's can know is left alone."""
    options = CheckedOptions(arguments)
    texts = {option: text for option, text in options.texts.items() if text and options.entry(option)}
    models = {"model.prior.path", "model.prior.finetune"} & texts.keys()
    if options.classes.get("model.prior") == "Pretrained" and models:
        from asdkit.priors.hub import check_name  # which takes its time

        for option in models:
            check_name(texts[option])
    files: dict[str, str] = yaml.safe_load(Path(__file__).with_name("files.yaml").read_text("utf-8"))
    for option in ("ckpt_path",) if "ckpt_path" in texts else files:  # a checkpoint has what its run started from
        if option in texts and (Path(texts[option]).suffix or option != "model.generator.init"):  # or a way to start
            existing(texts[option], files[option])


class CheckedOptions:
    """The options and classes of a command line, each against what stands there by then."""

    def __init__(self, arguments: list[str]) -> None:
        self.classes: dict[str, str] = {}  # by option; empty for a class of the user's
        self.texts: dict[str, str] = {}  # by option
        for file, settings in layers(arguments):
            self._file = file
            self._check("", settings, _ROOT)

    def entry(self, option: str) -> Entry:
        """What the table says of an option, for the classes that stand there; empty where it says nothing."""
        entry, path = _ROOT, ""
        for name in option.split("."):
            owner = table().get(entry.get("group") or self.classes.get(path, ""), {"options": {}})
            path, entry = f"{path}.{name}".lstrip("."), owner["options"].get(name, {})
        return entry

    def _check(self, option: str, value: Any, entry: Entry) -> None:
        name = class_path(value)
        if entry.get("parts") and name:
            self._take_class(option, name, entry)
        if entry.get("parts") and value == "" and not entry["takes"]:
            raise UsageError(f"--{option} needs the name of a class; --{option}.help lists what can stand there.")
        if isinstance(value, str):
            self.texts[option] = value
        if isinstance(value, dict) and (owner := entry.get("group") or self.classes.get(option)) in table():
            self._check_inner(option, value, owner)
        elif isinstance(value, dict) and self._file and option in ("model", "data") and option not in self.classes:
            lacking = f"{Path(self._file).name} has options of the {option} but no class_path"
            raise UsageError(f"{lacking}: name a whole recipe before, --config RECIPE --config OVERLAY.")

    def _check_inner(self, option: str, value: dict[str, Any], owner: str) -> None:
        """What a dict sets of the options of a class or a group, `owner`."""
        entries, inner = table()[owner]["options"], value.get("init_args")
        for name, item in {**value, **(inner if isinstance(inner, dict) else {})}.items():
            path = f"{option}.{name}".lstrip(".")
            if name in entries:
                self._check(path, item, entries[name])
            elif name not in ("class_path", "init_args", "dict_kwargs", "help"):
                self._refuse(path, owner)

    def _take_class(self, option: str, name: str, entry: Entry) -> None:
        """Note the class that stands at an option from here on, and forget those of its own parts."""
        known, short = public_name(name), name.removeprefix("asdkit.")
        is_name = short.isidentifier() and short not in ("null", "None")
        if known not in entry["parts"] and is_name and not entry["takes"]:
            what, advice = f"there is no class {short}", f"give its full import path, such as my_module.{short}."
            if known:
                what, advice = f"{short} can't stand there", f"--{option}.help lists what can."
            elif near := nearest(short, entry["parts"]):
                advice = f"did you mean {near}?"
            elif option == "model":
                advice = f"--prior {short} names a diffusion model."
            raise UsageError(f"--{option}: {what}; {advice}")
        for path in [path for path in self.classes if path.startswith(f"{option}.")]:
            del self.classes[path]
        self.classes[option] = known

    def _refuse(self, option: str, owner: str) -> NoReturn:
        """Say that there is no such option; the nearest is one of its owner's, at the top one of any part's."""
        prefix, _, name = option.rpartition(".")
        siblings = [f"{prefix}.{sibling}" for sibling in table()[owner]["options"]]
        known = {path.rpartition(".")[2]: path for path in (siblings if prefix else reversed([*self._reachable()]))}
        known |= {} if prefix else {short: short for short in SHORT}
        advice = f"{owner} has {', '.join(known)}." if len(known) < _FEW else "asdkit fit --help lists the usual ones."
        if near := nearest(name, known):
            advice = f"did you mean --{known[near]}?"
        if owner == "fit" and (ours := called_elsewhere("options", option)):
            advice = f"did you mean --{ours}?"
        where = f" (in {Path(self._file).name})" if self._file else ""
        raise UsageError(f"There is no option --{option}{where}; {advice}")

    def _reachable(self, option: str = "", owner: str = "fit") -> Iterator[str]:
        """All options, with those of the parts that are there, the nearest to the top first."""
        options = table()[owner]["options"] if owner in table() else {}
        paths = {f"{option}.{name}".lstrip("."): entry for name, entry in options.items()}
        yield from paths
        for path, entry in paths.items():
            yield from self._reachable(path, entry.get("group") or self.classes.get(path, ""))


def public_name(name: str) -> str:
    """The public name that a class path means; empty where it means none."""
    short = name.rpartition(".")[2]
    paths = (short, f"asdkit.{short}", f"{PUBLIC_NAMES.get(short)}.{short}")
    return short if short in PUBLIC_NAMES and name in paths else ""


def of_class(name: str, option: str = "") -> str:
    """A class, a preset or a group of options, with what it takes; a UsageError if there is none of this name."""
    known = name if name in table() else public_name(name)
    if not known:
        raise UsageError(f"There is no class {name}{suggestion(name, list(PUBLIC_NAMES))}")
    entry, prefix = table()[known], f"--{option}." if option else ""
    lines = [textwrap.fill(f"{known}: {entry['about']}", _WIDTH), ""]
    for key, facts in entry["options"].items():
        lines.append(f"  {prefix}{key}  {_takes(facts)}")
        lines += textwrap.wrap(facts["about"], _WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines).rstrip() + "\n"


def _takes(facts: Entry) -> str:
    group = f"options of its own: --help {facts['group']}" if "group" in facts else ""
    taken = ", or ".join(filter(None, [facts["takes"], ", ".join(facts.get("parts", [])), group]))
    return taken if facts.get("default") in (None, "") else f"{taken} (default {json.dumps(facts['default'])})"


def listed(option: str, classes: list[str]) -> str:
    """The classes that can stand at an option, a line each."""
    abouts = [f"  {name}: {table()[name]['about']}" for name in classes]
    lines = [about if len(about) <= _WIDTH else f"{about[: _WIDTH - 4]} ..." for about in abouts]
    return "\n".join([f"--{option} is one of these; --{option}.help=NAME tells more.", "", *lines]) + "\n"
