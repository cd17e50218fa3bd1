"""YAML: what is written as a text is read as one, and what is read may not ask for more than its length promises."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from asdkit.core.errors import UsageError

MAX_BYTES, MAX_DEPTH, MAX_NODES = 10_000_000, 100, 100_000
_WORD = re.compile(r"(\w[\w./=-]*)?", re.ASCII)  # most values on a command line


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what looks like the start of a number: 1e3 is a text to PyYAML's writer, and a number to jsonargparse."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quote = '"' if text[:1] in "-+.0123456789" or "\x85" in text else None  # a line break to PyYAML's reader
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quote)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(str, lambda dumper, text: _represent_text(dumper, str.__str__(text)))  # of enumerations


def to_yaml(value: Any, in_a_line: bool = False) -> str:
    """Plain values as YAML; `in_a_line` without line breaks, for a command line."""
    style = {"default_flow_style": in_a_line, "width": math.inf if in_a_line else 80}
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, **style)
    return text


def settings_in(text: str) -> dict[str, Any]:
    """The settings in YAML; none where there are none, or which can't be read."""
    try:
        settings: dict[str, Any] = yaml.safe_load(text) if check_yaml(text) else {}
    except (ValueError, yaml.YAMLError, RecursionError):
        return {}
    return settings


def settings_of(file: Path) -> dict[str, Any]:
    """The settings of a recipe; none of one that can't be read, which the parser will refuse."""
    try:
        return settings_in(file.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return {}


def at(settings: Any, path: str) -> Any:
    """What settings hold at a dotted path, without `init_args`; None where they hold nothing."""
    for name in path.split("."):
        inner = settings.get("init_args", settings) if isinstance(settings, dict) else None
        settings = inner.get(name) if isinstance(inner, dict) else None
    return settings


def layers(arguments: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each option sets, in their order, nested by their names; before it the file of a recipe, else nothing."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, text = argument.partition("=")
        value: Any = text if equals else following
        if flag == "--config":
            yield ("", settings_in(value)) if value.startswith("{") else (value, settings_of(Path(value)))
        elif flag.startswith("--"):
            value = (settings_in(value) or value) if value.startswith("{") else value
            for name in reversed(flag.removeprefix("--").removesuffix("+").split(".")):
                value = {name: value}
            yield "", value


def class_path(part: Any) -> str:
    """The class path of a part, or the text that stands for one; empty for what is no part."""
    path = part.get("class_path") if isinstance(part, dict) else part
    return path if isinstance(path, str) else ""


def class_name(part: Any) -> str:
    """The name of a part's class; empty for what is no part."""
    return class_path(part).rpartition(".")[2]


def check_recipe(file: Path) -> Path:
    """The file itself, if it holds a mapping in plain YAML within the limits; else a UsageError names file and line."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{file} is larger than {MAX_BYTES // 10**6} MB, which no recipe is.")
        if not check_yaml(content.decode("utf-8-sig")):
            raise UsageError(f"{file} is no recipe, for it holds no keys with values; `asdkit recipes` lists some.")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no text in UTF-8, so it can't be a recipe.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{file} can't be read as a recipe: {error}; recipes are plain YAML, without tags.") from None
    return file


def check_yaml(text: str) -> bool:
    """Whether a text is a mapping; a YAMLError that names the line if it is no YAML, has a tag, or exceeds a limit."""
    try:
        return not _WORD.fullmatch(text) and _is_mapping(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise yaml.YAMLError(f"line {line} has the character #x{error.character:04x}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise yaml.YAMLError(f"line {line} has {error.problem}") from None


def _is_mapping(text: str) -> bool:
    is_mapping, sizes, names = False, [0], [""]  # of what is open: nodes so far, and anchors
    anchors: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # a stream: what is nested costs no stack
        is_alias = isinstance(event, yaml.AliasEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            is_mapping |= len(sizes) == 1 and isinstance(event, yaml.MappingStartEvent)
            sizes.append(1)
            names.append(event.anchor or "")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchors[names.pop()] = size = sizes.pop()
            sizes[-1] += size
        elif isinstance(event, yaml.NodeEvent):
            sizes[-1] += anchors.get(event.anchor, 1) if is_alias else 1
        tag = getattr(event, "tag", None) or "!"
        problem = f"the tag {tag.removeprefix('tag:yaml.org,2002:')}" if tag != "!" else ""
        problem = f"brackets or lists nested more than {MAX_DEPTH} deep" if len(sizes) > MAX_DEPTH else problem
        problem = f"more than {MAX_NODES} values before it, aliases counted" if sizes[-1] > MAX_NODES else problem
        problem = "an alias within what it names" if is_alias and event.anchor in names else problem
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
    return is_mapping
