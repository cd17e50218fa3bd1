"""The command `asdkit`: hands its arguments to the command's file. For speed, each imports what it needs."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import asdkit
from asdkit.core.errors import UsageError
from asdkit.core.text import suggestion
from asdkit.run.exits import end
from asdkit.run.recipes import is_recipe

USAGE = """\
asdkit: adversarial score distillation. A prompt becomes a 3D object, pulled by a difference of score fields.

  asdkit fit [RECIPE] "a yellow duck" [--key.of.anything value ...]
  asdkit fit RUN              go on with a run from its last checkpoint, in the same folder
  asdkit validate RUN         measure a finished run (test does the same and writes the figures down)
  asdkit test RUN
  asdkit predict RUN          render an orbit, or a sheet of images, from its last checkpoint
  asdkit export RUN|FILE      write it for other tools: --format ply,splat,spz,sog,glb,mesh-glb,obj,html,mp4,webp,png
                              a one-step generator of images as a model: --format diffusers
  asdkit view RUN|FILE        look at a run, a checkpoint or a file of splats in a browser, on this machine alone
  asdkit bench --config RECIPE [--prior random:sd21]   time the parts of a step: --steps N, --json, any option of fit,
                              --compare FILE, --vary KEY=A,B; or asdkit bench --gpu, all that a GPU has to show
  asdkit recipes              list the recipes; RECIPE is one of these names or a YAML file
  asdkit methods [NAME]       list the methods; or one, with its formula, its paper, its options and its cost
  asdkit sweep PROMPTS.txt --config RECIPE    a run for each line of a file: --seeds N, --vary KEY=A,B, --jobs N
  asdkit compare --methods ASD,SDS --prompts FILE --config RECIPE    methods side by side; or asdkit compare RUN RUN ...
  asdkit reproduce [FIGURE ...] --quick    the paper's figures made anew, and whether its claims hold: --full, --plan
  asdkit new KIND NAME        write a discriminator, generator or prior of your own, which runs, and its test
  asdkit doctor               what works on this machine, what does not, and what to do about it

RUN is a folder that fit made, runs/<recipe>/<prompt>@<time>. Other options:

  --prior PRIOR               toybox, sd21-base and other aliases, a hub's owner/name[@revision], a folder or a file
  --judge CLIP[,CLIP]         measure by CLIPs, e.g. openai/clip-vit-large-patch14, or their folders, as well
  --logger NAME[,NAME]        tensorboard, wandb or csv, with pictures, beside the run's own metrics.csv
  --trust PACKAGE             let recipes and checkpoints name its classes, also a module's in this folder; repeatable
  --viewer [PORT]             with fit: look at the object in a browser while it is made (port 8080)
  --version                   print the version
  <command> --help            the usual options of a command; of fit, --help all is every one, --help CLASS a part's
  --print_config              after any options: the resolved recipe, as YAML

Exit codes: 0 done, 1 unexpected, 2 usage, 3 environment (no such device, a missing extra), 4 prior unavailable,
5 out of memory, 6 diverged, 7 cannot write, 130 Ctrl-C, 141 nobody reads the output, 143 SIGTERM, SIGUSR1 or SIGHUP
(after saving, as 130).
ASDKIT_DEBUG=1 shows tracebacks of errors.
"""
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
# Each of the other commands is a file with add_arguments(parser) and run(options), which imports torch in run alone.
FILES = ("export", "view", "bench", "recipes", "methods", "sweep", "compare", "reproduce", "new", "doctor")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, the process's own when None; returns the exit code, which `USAGE` explains."""
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
    if command in ("-h", "--help", "help", "--version"):
        print(f"asdkit {asdkit.__version__}\n" if command == "--version" else USAGE, end="")
        return 0
    if command in TRAINER_COMMANDS:
        return _train(command, options)
    if command in FILES:
        return _run(command, options)
    is_for_fit = " " in command or is_recipe(command)
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


def _run(command: str, arguments: list[str]) -> int:
    from asdkit.commands.arguments import Arguments, prepare_libraries

    prepare_libraries()
    file = import_module(f"asdkit.commands.{command}")
    parser = Arguments(command)
    file.add_arguments(parser)
    code: int = file.run(parser.parse(arguments))
    return code


def _train(command: str, arguments: list[str]) -> int:
    from asdkit.commands.arguments import expand, prepare_libraries, trusted, trusted_packages
    from asdkit.commands.help import help_for

    if text := help_for(command, arguments):
        print(text, end="")
        return 0
    packages, options = trusted_packages([word for word in arguments if word != "all" or "--help" not in arguments])
    expanded, run = expand(command, options)
    if sys.stderr.isatty():
        print("Loading PyTorch, which takes some seconds ...", file=sys.stderr)
    prepare_libraries()
    with trusted(packages):
        from asdkit.commands.fit import run_trainer_command

        return run_trainer_command([command, *expanded], run)
