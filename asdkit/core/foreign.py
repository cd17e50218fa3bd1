"""What asdkit knows of other libraries that they do not promise: words of messages (`foreign.yaml`), private names.

Each section names the library, the version that it was written for, and why no public way will do.
tests/core/test_foreign.py provokes every message from its library, so that an upgrade that changes one fails there.
"""

import functools
import os
import re
import sys
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from asdkit.core.text import local, suggestion

_WORDS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))

# ------------------------------------------------------------------------------------------------ jsonargparse 4.53
# A parser tells what is wrong in a text of many lines, nested as the parts of a recipe are; no exception has fields
# for the option and the class. Its settings can be added to (`set_parsing_settings`), but not taken back.

_UNRECOGNIZED = re.compile(r"unrecognized arguments: ([^\s=]*)")
_REFUSED = re.compile(r"Importing '([\w.]+)' is not allowed")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_NESTED_KEY = re.compile(r"NestedArg\(key='([\w.]+)'")
_UNKNOWN = re.compile(r"Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'")
_OWNER = re.compile(r"Problem with given class_path '([\w.]+)'")
_NO_CLASS = re.compile(r"^Expected a dot import path string: (.*)")
_CLASS = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>")
_EXPECTED = re.compile(r"Expected an? (\w+)\. Got value: ")
_CHOICES = re.compile(r"Expected a typing\.Literal\[(.*)\]\. Got value: ?(.*)")
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_AROUND_REASONS = tuple(_WORDS["around_reasons"])


class ParserMessage(NamedTuple):
    """What a message of jsonargparse's parser says; a field is empty where it says nothing of the kind."""

    option: str  # the dotted option that the message is about, without hyphens
    unknown: str  # the name of an option that there is not; dotted where it is one of a group, e.g. `rates.position`
    owner: str  # import path of the class that has no such option
    reason: str  # what else is wrong, in the parser's words, or in ours where a text should have named a class


def read_parser_message(message: str) -> ParserMessage:
    """What a message of jsonargparse's parser says."""
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(_AROUND_REASONS) and "NoneType" not in line]
    reason = _CLASS.sub(r"\1", reasons[-1] if reasons else lines[0])
    if name := _first(_NO_CLASS, reason):
        number = next((kind for kind in ("float", "int") if any(f"<class '{kind}'>" in line for line in reasons)), "")
        reason = f"expected {_KINDS.get(number)}, or a class such as asdkit.Ramp; got {name}"
        if not number:
            reason = f"there is no class {name}; give its full import path, such as my_module.{name}"
        if name == "None":  # jsonargparse hands null on to a part's own parser as a text
            reason = "null can only stand in a file; write it in one and give that by a further --config"
    if match := _CHOICES.search(reason):
        choices = re.findall(r"'(.*?)'", match[1])
        reason = f"expected one of {', '.join(choices)}; got {match[2]}{suggestion(match[2], choices)}"
    reason = _EXPECTED.sub(lambda match: f"expected {_KINDS.get(match[1], match[1])}; got ", reason)
    unknown = _first(_UNRECOGNIZED, message).lstrip("-") or _first(_UNKNOWN, message)
    keys, nested = _KEY.findall(message), _NESTED_KEY.findall(message)
    # Of nested keys the shorter ones lack the parts that they lie in.
    option = f"{keys[0]}.{max(nested, key=len)}" if keys and nested else ".".join(keys)
    return ParserMessage(option, unknown, (_OWNER.findall(message) or [""])[-1], reason)


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return next(filter(None, match.groups()), "") if match else ""


def refused_import(message: str) -> str:
    """The import path that jsonargparse was not allowed to import; empty if a message is about something else."""
    return _first(_REFUSED, message)


def parsing_settings() -> dict[str, Any]:
    """jsonargparse's settings themselves, to be put back as they were."""
    from jsonargparse._common import parsing_settings

    return parsing_settings


def no_addresses() -> ExitStack:
    """Inside, jsonargparse and fsspec, through which Lightning reads and writes, open files of this machine alone."""
    # jsonargparse tries a text as a path wherever a part is expected, and Lightning has it open addresses, too.
    from unittest.mock import patch

    from jsonargparse._paths import Path

    core, registry = import_module("fsspec.core"), import_module("fsspec.registry")
    make, get_class = Path.__init__, registry.get_filesystem_class

    @functools.wraps(make)
    def checked(self: Any, path: Any, *args: Any, **rest: Any) -> None:
        place = local(str(path))
        if os.path.exists(place) and not (os.path.isfile(place) or os.path.isdir(place)):
            raise ValueError(f"{path} is a pipe or a device, which a recipe can't be read from.")
        make(self, path, *args, **rest)

    def on_disk(protocol: str | None) -> Any:
        if protocol not in (None, "", "file", "local"):
            raise ValueError(f"{protocol}:// leads elsewhere, and asdkit opens only files of this machine.")
        return get_class(protocol)

    stack = ExitStack()
    stack.enter_context(patch.object(Path, "__init__", checked))
    for module in (core, registry):
        stack.enter_context(patch.object(module, "get_filesystem_class", on_disk))
    return stack


def texts_stay_texts() -> AbstractContextManager[Any]:
    """Inside, what is given for a `str | None` is a text as it is; jsonargparse would read `# x` as YAML, as None."""
    from unittest.mock import patch

    from jsonargparse._typehints import ActionTypeHint

    check: Any = ActionTypeHint._check_type

    @functools.wraps(check)  # jsonargparse reads its signature
    def check_type(self: Any, value: Any, **rest: Any) -> Any:
        return value if isinstance(value, str) and self._typehint == (str | None) else check(self, value, **rest)

    return patch.object(ActionTypeHint, "_check_type", check_type)


# ------------------------------------------------------------------------------------------------ torch 2.13
# A forked or spawned process passes on the text of its traceback, no exception (tests/run/test_exits.py). For memory
# there is a class on devices alone, and for a device that is not there none.

_TRACEBACK = re.compile(r".*\n +[^\n]*\n([\w.]+)(?:: (.*))?", re.DOTALL)  # at its end the class and the text
_SYSTEM_ERROR = re.compile(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?")


def raised_in_process(error: BaseException) -> BaseException:
    """The exception that ended a process that torch has started, built again from its traceback; any other as it is."""
    match = _TRACEBACK.fullmatch(str(error).strip()) if _is_a(error, "ProcessRaisedException") else None
    if not match:
        return error
    module, _, name = match[1].rpartition(".")
    kind = getattr(sys.modules.get(module or "builtins"), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return error
    text = match[2] or ""
    system = _SYSTEM_ERROR.fullmatch(text) if issubclass(kind, OSError) else None
    arguments = (int(system[1]), *filter(None, system.groups()[1:])) if system else (text,)
    original = kind.__new__(kind, *arguments)
    original.__notes__ = getattr(error, "__notes__", [])
    return original


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, the CPU's or a device's."""
    says = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS["no_memory"])
    return says or isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError")


def is_lost_rank(error: BaseException) -> bool:
    """Whether a process of torch.distributed's group is gone; gloo, NCCL or the store says so."""
    says = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS["lost_rank"])
    return says or _is_a(error, "DistNetworkError")


def is_no_device(error: BaseException) -> bool:
    """Whether a device was asked for that is not there; torch or Lightning says so."""
    says = any(words in str(error) for words in _WORDS["no_device"])
    return says and (is_misconfiguration(error) or isinstance(error, RuntimeError))


def _is_a(error: BaseException, name: str) -> bool:
    """By name, so that nothing heavy is imported for it."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


# ------------------------------------------------------------------------------------------------ Lightning 2.6
# Its warnings and what it logs have no categories. The root folder is an argument of the trainer, but which rank may
# make one is known only once there is a trainer.

HARMLESS_WARNINGS, ADVERTS = _WORDS["harmless_warnings"], _WORDS["adverts"]


def is_misconfiguration(error: BaseException) -> bool:
    """Whether Lightning does not like what it was told."""
    return _is_a(error, "MisconfigurationException")


def step_metrics(trainer: Any) -> dict[str, float]:
    """What Lightning will log of this training step, after all callbacks."""
    return {name: float(value) for name, value in trainer._results.metrics(on_step=True)["log"].items()}


def set_root_folder(trainer: Any, folder: str) -> None:
    """Give a trainer another `default_root_dir`."""
    trainer._default_root_dir = folder
