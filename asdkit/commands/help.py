"""`--help` of fit, validate, test and predict, and of the classes that recipes name."""

import json
import textwrap
from pathlib import Path

from asdkit.commands.answers import CheckedOptions, Entry, public_name, table
from asdkit.commands.arguments import expand
from asdkit.core.errors import UsageError
from asdkit.core.names import PUBLIC_NAMES
from asdkit.core.text import suggestion

_WIDTH = 110


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
            listed = _listed(option, entry["parts"]) if entry.get("parts") else ""
            return of_class(entry["group"], option) if "group" in entry else listed
    return ""


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
    unset = facts.get("default") in (None, "")
    return taken if unset else f"{taken} (default {json.dumps(facts['default'])})"


def _listed(option: str, classes: list[str]) -> str:
    """The classes that can stand at an option, a line each."""
    abouts = [f"  {name}: {table()[name]['about']}" for name in classes]
    lines = [about if len(about) <= _WIDTH else f"{about[: _WIDTH - 4]} ..." for about in abouts]
    return "\n".join([f"--{option} is one of these; --{option}.help=NAME tells more.", "", *lines]) + "\n"
