"""What is wrong with an option, in one sentence."""

import difflib
import inspect
import sys
from typing import Any

from asdkit.core.foreign import ParserMessage, read_parser_message
from asdkit.core.trust import refusal

_ANY = ("args", "kwargs")


def explain(message: str) -> str:
    """What a message of jsonargparse's parser says; asdkit's own options were compared with `answers` before."""
    problem = read_parser_message(message)
    option = f"--{problem.option}" if problem.option else ""
    if refused := refusal(message, option or "The command line"):
        return refused
    if problem.unknown or problem.unrecognized:
        return _unknown_argument(problem)
    return f"{option}: {problem.reason}" if option else problem.reason


def _unknown_argument(problem: ParserMessage) -> str:
    """The sentence about an argument that a part or a group of its arguments does not have, or an option of no part."""
    option, name = problem.option, problem.unknown or problem.unrecognized
    option = option if option.endswith(name) else f"{option}.{name}".strip(".")
    if not problem.owner:
        return f"There is no option --{option.lstrip('-')}; asdkit fit --help all lists them."
    prefix, target = option.removesuffix(name), _loaded(problem.owner)
    for argument in name.split("."):
        takes_any = inspect.isclass(target) or inspect.isfunction(target)
        parameters = inspect.signature(target).parameters if takes_any else {}
        if argument not in parameters:
            break
        prefix, target = f"{prefix}{argument}.", parameters[argument].annotation
    near = difflib.get_close_matches(argument, [known for known in parameters if known not in _ANY], n=1)
    advice = f"did you mean --{prefix}{near[0]}?" if near else "asdkit fit --help all lists them."
    return f"There is no option --{prefix}{argument}; {advice}"


def _loaded(class_path: str) -> Any:
    """A class or function, if its module has been imported: nothing is imported for what a message says."""
    module, _, name = class_path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
