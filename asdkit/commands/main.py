"""The command `asdkit`: hands its arguments to the command's file. For speed, each imports what it needs."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import asdkit
from asdkit.core.errors import UsageError
from asdkit.core.text import suggestion
from asdkit.run.exits import end, exit_code_of
from asdkit.run.recipes import is_recipe

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
# Each of the other commands has options in `options.yaml`, and a file with run(options), which imports torch in it.
FILES = ("export", "view", "bench", "recipes", "methods", "sweep", "compare", "reproduce", "new", "doctor")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, the process's own when None; returns the exit code, which `usage.txt` explains."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, until the process ends
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that knows fewer letters is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _finished(_answer(sys.argv[1:] if arguments is None else arguments))
    except (KeyboardInterrupt, SystemExit, Exception) as error:  # argparse exits after --help
        return _finished(end(error))


def _answer(arguments: list[str]) -> int:
    command, *options = arguments or ["--help"]
    for argument in arguments:
        if argument.encode(errors="ignore").decode() != argument:  # no recipe or table could hold it
            raise UsageError(f"{ascii(argument)} is no text in UTF-8; rename what it names.")
    if command in ("-h", "--help", "help") and options[:1] and options[0] in (*TRAINER_COMMANDS, *FILES):
        return _answer([options[0], "--help"])
    if command in ("-h", "--help", "help", "--version", "version"):
        usage = Path(__file__).with_name("usage.txt").read_text("utf-8")
        print(f"asdkit {asdkit.__version__}\n" if "version" in command else usage, end="")
        return 0
    if command in TRAINER_COMMANDS:
        return _train(command, options)
    if command in FILES:
        from asdkit.commands.arguments import Arguments, prepare_libraries

        prepare_libraries()
        return int(import_module(f"asdkit.commands.{command}").run(Arguments(command).parse(options)))
    from asdkit.commands.answers import called_elsewhere

    is_for_fit = " " in command or is_recipe(command)
    if ours := called_elsewhere("commands", command):
        raise UsageError(f"There is no command {command!r}; did you mean asdkit {ours}?")
    near = f"; did you mean asdkit fit {command!r}?" if is_for_fit else suggestion(command, [*TRAINER_COMMANDS, *FILES])
    raise UsageError(f"There is no command {command!r}{near}")


def _finished(code: int) -> int:
    """The exit code once all that was printed has been written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again, and complains
        return code or end(error)
    return code


def _train(command: str, arguments: list[str]) -> int:
    from asdkit.commands.arguments import expand, help_for, prepare_libraries, trusted, trusted_packages

    if text := help_for(command, arguments):
        print(text, end="")
        return 0
    packages, options = trusted_packages([word for word in arguments if word != "all" or "--help" not in arguments])
    expanded, run = expand(command, options)
    if sys.stderr.isatty():
        print("Loading PyTorch, which takes some seconds ...", file=sys.stderr)
    prepare_libraries()
    with trusted(packages):
        from asdkit.commands.fit import CLI

        return exit_code_of(lambda signals: CLI([command, *expanded], run, signals))
