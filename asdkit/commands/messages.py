"""What is wrong with an option, in one sentence."""

import difflib
import inspect
import sys

from asdkit.core.foreign import ParserMessage, read_parser_message
from asdkit.core.trust import refusal


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
    reason = _reason(problem)
    return f"{option}: {reason}" if option else reason


def _reason(problem: ParserMessage) -> str:
    name = problem.no_class
    if name and problem.number:
        article = {"float": "a", "int": "an"}[problem.number]
        return f"Expected {article} {problem.number}, or a class such as asdkit.Ramp. Got value: {name}"
    if name:
        return f"there is no class {name}; give its full import path, such as my_module.{name}"
    return problem.reason


def _unknown_argument(problem: ParserMessage, options: list[str]) -> str:
    """The sentence about an argument that a part does not have, or about an option of no part."""
    option, name = problem.option, problem.unknown
    option = option if option.endswith(name) else f"{option}.{name}".strip(".")
    *groups, last = name.split(".")
    prefix = option.removesuffix(last)
    known = [prefix + argument for argument in _arguments(problem.owner, groups)] if problem.owner else options
    return _no_option(f"--{option}", known)


def _no_option(option: str, known: list[str]) -> str:
    near = difflib.get_close_matches(option.lstrip("-"), known, n=1)
    advice = f"did you mean --{near[0]}?" if near else "asdkit <command> --help lists them."
    return f"There is no option {option}; {advice}"


def _arguments(class_path: str, groups: list[str]) -> list[str]:
    """The names of a part's constructor arguments, or of those of a group among them."""
    module, _, name = class_path.rpartition(".")
    target = getattr(sys.modules.get(module), name, lambda: None)  # nothing is imported for what a message says
    for group in groups:
        target = inspect.signature(target).parameters[group].annotation
    return [name for name in inspect.signature(target).parameters if name not in ("args", "kwargs")]
