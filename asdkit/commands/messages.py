"""What is wrong with an option, in one sentence."""

import difflib
import inspect
import sys
from typing import Any

from asdkit.core.foreign import ParserMessage, read_parser_message
from asdkit.core.trust import refusal

_ANY = ("args", "kwargs")


def explain(message: str, options: list[str]) -> str:
    """What a message of jsonargparse's parser says, and the nearest of `options`, which every recipe has."""
    problem = read_parser_message(message)
    option = f"--{problem.option}" if problem.option else ""
    if problem.unrecognized:
        return _no_option(problem.unrecognized, options)
    if refused := refusal(message, option or "The command line"):
        return refused
    if problem.unknown:
        return _unknown_argument(problem, options)
    return f"{option}: {problem.reason}" if option else problem.reason


def _unknown_argument(problem: ParserMessage, options: list[str]) -> str:
    """The sentence about an argument that a part or a group of its arguments does not have, or an option of no part."""
    option, name = problem.option, problem.unknown
    option = option if option.endswith(name) else f"{option}.{name}".strip(".")
    if not problem.owner:
        return _no_option(f"--{option}", options)
    prefix, target = option.removesuffix(name), _loaded(problem.owner)
    for argument in name.split("."):
        takes_any = inspect.isclass(target) or inspect.isfunction(target)
        parameters = inspect.signature(target).parameters if takes_any else {}
        if argument not in parameters:
            break
        prefix, target = f"{prefix}{argument}.", parameters[argument].annotation
    return _no_option(f"--{prefix}{argument}", [prefix + known for known in parameters if known not in _ANY])


def _no_option(option: str, known: list[str]) -> str:
    near = difflib.get_close_matches(option.lstrip("-"), known, n=1)
    advice = f"did you mean --{near[0]}?" if near else "asdkit <command> --help lists them."
    return f"There is no option {option}; {advice}"


def _loaded(class_path: str) -> Any:
    """A class or function, if its module has been imported: nothing is imported for what a message says."""
    module, _, name = class_path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
