"""What is wrong with an option, in one sentence."""

from asdkit.core.foreign import read_parser_message
from asdkit.core.trust import refusal


def explain(message: str) -> str:
    """What a message of jsonargparse's parser says; asdkit's own options were compared with `answers` before."""
    problem = read_parser_message(message)
    option, name = problem.option, problem.unknown or problem.unrecognized
    if refused := refusal(message, f"--{option}" if option else "The command line"):
        return refused
    if name:
        path = option if option.endswith(name) else f"{option}.{name}".strip(".")
        advice = f"{problem.owner} has none of this name" if problem.owner else "asdkit fit --help all lists them"
        return f"There is no option --{path.lstrip('-')}; {advice}."
    return f"--{option}: {problem.reason}" if option else problem.reason
