"""What all commands do with their arguments: `--trust`, recipes by name, and short forms that LightningCLI lacks."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from asdkit.core.errors import UsageError
from asdkit.core.text import local
from asdkit.run.recipes import find_recipe, recipes

PORT = 8080


class Arguments(argparse.ArgumentParser):
    """The options of a command that needs no trainer; what is wrong with them is a UsageError."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('asdkit ')}: {message}; {self.prog} --help tells more.")


def trusted_packages(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The packages that `--trust` names, and the other arguments."""
    packages: list[str] = []
    others: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag == "--trust":
            packages.append(value if equals else next(waiting, ""))
        else:
            others.append(argument)
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise UsageError(f"--trust needs a package that may be imported, such as my_module; got {name!r}.")
    return packages, others


def prepare(packages: list[str]) -> None:
    """Before torch is imported: quiet libraries, and let a trusted module be found in the working directory."""
    quiet = {"JSONARGPARSE_DEPRECATION_WARNINGS": "off", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name, value in (quiet | {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
    if packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: no file there takes the place of a library


def expand(command: str, arguments: list[str]) -> tuple[list[str], Path | None]:
    """Replace short forms by what LightningCLI understands: run folders, recipe names and prompts.

    Returns:
        The arguments, and the run folder that was named.

    Raises:
        UsageError: an unknown recipe, a folder that is no run, or a short form without its value.
    """
    run: Path | None = None
    if arguments and not arguments[0].startswith("-"):
        run, arguments = Path(arguments[0]), [*_run_arguments(Path(arguments[0]), arguments[1:]), *arguments[1:]]
    expanded: list[str] = []
    waiting = iter(_with_port(arguments))
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag not in _SHORT_FORMS:
            expanded.append(argument)
        elif equals or (value := next(waiting, None)) is not None:
            expanded += _SHORT_FORMS[flag](flag, value)
        else:
            raise UsageError(f"{flag} needs a value.")
    if run is None and not any(
        a.split("=")[0] in ("--config", "-c", "-h", "--help", "--print_config") for a in expanded
    ):
        raise UsageError(
            f"{command} needs a recipe: asdkit {command} --config NAME, with one of {', '.join(recipes())}."
        )
    return expanded, run


def _run_arguments(run: Path, others: list[str]) -> list[str]:
    """The recipe and the last checkpoint of a run folder."""
    if not (local(run) / "config.yaml").is_file():
        raise UsageError(f"{run} is no run folder, for it has no config.yaml; name a folder that asdkit fit made.")
    found = ["--config", str(run / "config.yaml")]
    if not any(argument.split("=")[0] == "--ckpt_path" for argument in others):
        checkpoint = run / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file():
            raise UsageError(f"{run} has no checkpoints/last.ckpt; give one with --ckpt_path.")
        found += ["--ckpt_path", str(checkpoint)]
    return found


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


_SHORT_FORMS = {
    "--asset": _asset,
    "--config": _config,
    "-c": _config,
    "--model.prompt": _prompt,
    "--model.target": _target,
    "--prior": _prior,
}
