"""jsonargparse's nested error messages, in one sentence."""

import difflib
import inspect
import re
import sys

from asdkit.core.trust import refusal

_OPTION = re.compile(
    r"Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'|Key '([\w.]+)' is not expected"
)
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_GIVEN = re.compile(r"NestedArg\(key='([\w.]+)'")
_ARTICLES = {"float": "a", "int": "an"}
_NOISE = ("Subtypes:", "Errors:", "Given value", "Does not validate", "Problem with", "Parser key", "Discriminator")


def explain(message: str) -> str:
    """What was wrong with an option, and the nearest known one.

    Args:
        message: of jsonargparse's parser.
    """
    unrecognised = re.search(r"unrecognized arguments: (.*)", message)
    if unrecognised:
        option = unrecognised[1].split()[0].split("=")[0]
        return f"There is no option {option}{_near(option.lstrip('-'), _trainer_options())}"
    if tag := re.search(r"constructor for the tag '(?:tag:yaml.org,2002:)?([^']+)'", message):
        return f"The recipe has the YAML tag {tag[1]}; recipes are plain YAML, without tags."
    path = _path(message)
    if refused := refusal(message, f"--{path}" if path else "The command line"):
        return refused
    unknown = _OPTION.search(message)
    if unknown:
        leaf = next(filter(None, unknown.groups()))
        owners = _CLASS.findall(message)
        path = path if path.endswith(leaf) else f"{path}.{leaf}".strip(".")
        prefix = path.removesuffix(leaf.rpartition(".")[2])
        known = [prefix + name for name in _arguments(owners[-1])] if owners else _trainer_options()
        return f"There is no option --{path}{_near(path, known)}"
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(_NOISE) and "NoneType" not in line]
    reason = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", reasons[-1] if reasons else lines[0])
    if reason.startswith("Expected a dot import path string"):
        name = reason.rpartition(":")[2].strip()
        number = next((kind for kind in ("float", "int") if any(f"<class '{kind}'>" in line for line in reasons)), "")
        if number:
            expected = f"{_ARTICLES[number]} {number}"
            return f"--{path}: Expected {expected}, or a class such as asdkit.core.ramps.Ramp. Got value: {name}"
        reason = f"there is no class {name}; give its full import path, such as my_module.{name}"
    return f"--{path}: {reason}" if path else reason


def _path(message: str) -> str:
    """The dotted option that a message is about."""
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    given = _GIVEN.findall(message)
    if given and keys:
        return f"{keys[0]}.{max(given, key=len)}"  # shorter ones lack the parts that they lie in
    return ".".join(keys)


def _arguments(class_path: str) -> list[str]:
    """The names of a part's constructor arguments."""
    module, _, name = class_path.rpartition(".")
    target = getattr(sys.modules.get(module), name, lambda: None)  # nothing is imported for what a message says
    return [name for name in inspect.signature(target).parameters if name not in ("args", "kwargs")]


def _trainer_options() -> list[str]:
    from pytorch_lightning import Trainer

    from asdkit.run.checkpoints import Checkpoints
    from asdkit.run.report import Report
    from asdkit.run.run_folder import RunFolder
    from asdkit.run.snapshots import Snapshots
    from asdkit.run.viewer import Viewer

    groups = {
        "trainer": Trainer,
        "run": RunFolder,
        "checkpoints": Checkpoints,
        "snapshots": Snapshots,
        "report": Report,
        "viewer": Viewer,
    }
    options = [f"{key}.{name}" for key, group in groups.items() for name in inspect.signature(group).parameters]
    return [*options, "config", "ckpt_path", "model", "data", "model.prompt", "print_config"]


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean --{near[0]}?" if near else "; asdkit <command> --help lists them."
