"""What commands do with their arguments: a parser whose errors are sentences, `--trust`, short forms."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from asdkit.core.errors import UsageError
from asdkit.core.text import local
from asdkit.core.trust import trusting
from asdkit.run.recipes import find_recipe, recipes

PORT = 8080


class Arguments(argparse.ArgumentParser):
    """The options of a command that needs no trainer; what is wrong with them is a UsageError.

    Attributes:
        passes_on: whether options that it does not know are those of `asdkit fit`.

    Args:
        command: its name.
    """

    passes_on = False

    def __init__(self, command: str) -> None:
        super().__init__(f"asdkit {command}", allow_abbrev=False)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The values of the options, with the unknown ones as `of_fit` and all arguments as `given`.

        Args:
            arguments: what stands after the command.

        Raises:
            UsageError: an option is unknown or lacks its value.
            SystemExit: after --help.
        """
        options, unknown = self.parse_known_args(arguments)
        if unknown and not self.passes_on:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.of_fit, options.given = unknown, arguments
        return options

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('asdkit ')}: {message}; {self.prog} --help tells more.")

    def add_trust(self) -> None:
        """Add `--trust`, for commands that open checkpoints."""
        text = "let checkpoints name its classes, also a module's in this folder; repeatable"
        self.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=text)


@contextmanager
def trusted(packages: list[str]) -> Iterator[None]:
    """Inside, recipes and checkpoints may name classes of these packages.

    Args:
        packages: import paths; a module is also found in the working directory.

    Raises:
        UsageError: no import path, or jsonargparse itself.
    """
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise UsageError(f"--trust needs a package that may be imported, such as my_module; got {name!r}.")
    if packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: no file there takes the place of a library
    with trusting(packages):
        yield


def trusted_packages(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The packages that `--trust` names, and the arguments without it."""
    packages: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag == "--trust":
            packages.append(value if equals else next(remaining, ""))
        else:
            rest.append(argument)
    return packages, rest


def expand(command: str, arguments: list[str]) -> tuple[list[str], Path | None]:
    """Replace short forms by what LightningCLI understands: run folders, recipe names and prompts.

    Returns:
        The arguments, and the run folder that was named.

    Raises:
        UsageError: an unknown recipe, a folder that is no run, or a short form without its value.
    """
    run: Path | None = None
    if arguments and not arguments[0].startswith("-"):
        run, options = Path(arguments[0]), arguments[1:]
        arguments = [*_run_arguments(run, options), *options]
    expanded: list[str] = []
    remaining = iter(_with_port(arguments))
    for argument in remaining:
        flag, equals, text = argument.partition("=")
        if flag not in _SHORT_FORMS:
            expanded.append(argument)
            continue
        value = text if equals else next(remaining, None)
        if value is None:
            raise UsageError(f"{flag} needs a value.")
        expanded += _SHORT_FORMS[flag](flag, value)
    if run is None and not _NEEDS_ONE_OF & _flags(expanded):
        names = ", ".join(recipes())
        raise UsageError(f"{command} needs a recipe: asdkit {command} --config NAME, with one of {names}.")
    return expanded, run


def _flags(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


def _run_arguments(run: Path, options: list[str]) -> list[str]:
    """The recipe and the last checkpoint of a run folder, unless the options name another checkpoint."""
    if not (local(run) / "config.yaml").is_file():
        raise UsageError(f"{run} is no run folder, for it has no config.yaml; name a folder that asdkit fit made.")
    recipe = ["--config", str(run / "config.yaml")]
    if "--ckpt_path" in _flags(options):
        return recipe
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise UsageError(f"{run} has no checkpoints/last.ckpt; give one with --ckpt_path.")
    return [*recipe, "--ckpt_path", str(checkpoint)]


def _with_port(arguments: list[str]) -> list[str]:
    """`--viewer` alone names the usual port; `--viewer 9000` and `--viewer=9000` name another."""
    expanded: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, _ = argument.partition("=")
        expanded.append(argument.replace(flag, "--viewer.port", 1) if flag == "--viewer" else argument)
        if flag == "--viewer" and not equals and not following.isdigit():
            expanded.append(str(PORT))
    return expanded


def _config(flag: str, value: str) -> list[str]:
    return [flag, str(find_recipe(value))]


def _prompt(flag: str, value: str) -> list[str]:
    """A prompt is text, even where YAML would see something else."""
    if ":" not in value and value[:1] not in "[{" and value.lower() not in ("null", "~"):
        return [f"{flag}={value}"]
    return ["--config", json.dumps({"model": {"init_args": {"prompt": value}}})]


def _target(flag: str, value: str) -> list[str]:
    """In editing, the prompt says what the target is."""
    return _prompt("--model.prompt", value)


def _asset(flag: str, value: str) -> list[str]:
    """Editing in 3D starts from the object that it compares with."""
    return ["--data.asset", value, "--model.generator.init", value]


def _prior(flag: str, value: str) -> list[str]:
    """Every component comes from one place."""
    return [f"--model.prior.path={value}"]


_NEEDS_ONE_OF = {"--config", "-c", "-h", "--help", "--print_config"}
_SHORT_FORMS = {
    "--asset": _asset,
    "--config": _config,
    "-c": _config,
    "--model.prompt": _prompt,
    "--model.target": _target,
    "--prior": _prior,
}
