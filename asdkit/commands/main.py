"""The command `asdkit`: answers what needs no torch at once, and hands the rest to LightningCLI."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import asdkit
from asdkit.commands.arguments import PORT, Arguments, expand, prepare, trusted_packages
from asdkit.core.errors import UsageError
from asdkit.core.text import shown, suggestion
from asdkit.core.trust import trusting
from asdkit.formats.names import FORMATS
from asdkit.run.recipes import recipes

USAGE = """\
asdkit: adversarial score distillation. A prompt becomes a 3D object, pulled by a difference of score fields.

  asdkit fit --config RECIPE [--model.prompt "a yellow duck"] [--key.of.anything value ...]
  asdkit fit RUN              go on with a run from its last checkpoint, in the same folder
  asdkit validate RUN         measure a finished run (test does the same and writes the figures down)
  asdkit test RUN
  asdkit predict RUN          render an orbit from its last checkpoint
  asdkit export RUN|FILE      write it for other tools: --format ply,splat,spz,glb,mesh-glb,obj,html,mp4,webp,png
  asdkit view RUN|FILE        look at a run, a checkpoint or a file of splats in a browser, on this machine alone
  asdkit bench --config RECIPE [--prior random:sd21]   time the parts of a step: --steps N, --json, any option of fit
  asdkit recipes              list the recipes; RECIPE is one of these names or a YAML file
  asdkit sweep PROMPTS.txt --config RECIPE    a run for each line of a file; started again, it goes on
  asdkit doctor               what works on this machine, what does not, and what to do about it

RUN is a folder that fit made, runs/<recipe>/<prompt>@<time>. Other options:

  --prior PRIOR               toybox, sd21-base and other aliases, a hub's owner/name[@revision], a folder or a file
  --trust PACKAGE             let recipes and checkpoints name its classes, also a module's in this folder; repeatable
  --viewer [PORT]             with fit: look at the object in a browser while it is made (port 8080)
  --version                   print the version
  <command> --help            every option of a command, and --model.help=CLASS those of one part
  --print_config              after any options: the resolved recipe, as YAML

Exit codes: 0 done, 1 unexpected, 2 usage, 3 environment (no such device, a missing extra), 4 prior unavailable,
5 out of memory, 6 diverged, 7 cannot write, 130 Ctrl-C, 143 SIGTERM or SIGUSR1 (after saving, as 130).
ASDKIT_DEBUG=1 shows tracebacks of errors.
"""
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
COMMANDS = (*TRAINER_COMMANDS, "export", "view", "bench", "recipes", "doctor", "sweep")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when None.

    Returns:
        The exit code, which `USAGE` explains.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(f"asdkit {asdkit.__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    try:
        if command not in COMMANDS:
            raise UsageError(f"There is no command {command!r}{suggestion(command, COMMANDS)}")
        if command == "recipes":
            print("\n".join(recipes()))
            return 0
        if command in ("export", "view"):
            return (export if command == "export" else view)(rest)
        if command == "bench":
            return bench(rest)
        if command == "doctor":
            from asdkit.commands.doctor import main as examine

            return examine(rest)
        if command == "sweep":
            from asdkit.commands.sweep import main as sweep

            return sweep(rest)
        packages, rest = trusted_packages(rest)
        rest, run = expand(command, rest)
    except ValueError as error:
        print(f"asdkit: {shown(str(error))}", file=sys.stderr)
        return 2
    prepare(packages)
    from asdkit.commands.fit import run_trainer_command

    with trusting(packages):
        return run_trainer_command([command, *rest], run)


def view(arguments: list[str]) -> int:
    """`asdkit view`; returns the process's exit code.

    Args:
        arguments: what stands after `view`.

    Raises:
        UsageError: an unknown option.
    """
    parser = Arguments("asdkit view", description="Look at an object in a browser, on this machine alone.")
    parser.add_argument("what", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint or a file of splats")
    parser.add_argument("--port", type=int, default=PORT, help="the next free one when it is taken (default: 8080)")

    def serve(options: argparse.Namespace) -> None:
        from asdkit.run.live_view import main as serve_for_ever

        serve_for_ever(options.what, options.port)

    return _carried_out(parser, arguments, serve)


def export(arguments: list[str]) -> int:
    """`asdkit export`; returns the process's exit code.

    Args:
        arguments: what stands after `export`.

    Raises:
        UsageError: an unknown option.
    """
    parser = Arguments("asdkit export", description="Write an object as files that other tools open.")
    parser.add_argument("what", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint or a file of splats")
    parser.add_argument("--format", required=True, metavar="LIST", help=f"with commas between: {', '.join(FORMATS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: export, there)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--up", default="z", metavar="AXIS", help="up in ply, splat and spz: z (default), y or -y")
    parser.add_argument("--size", type=int, default=512, help="pixels of pictures and films (default: 512)")
    parser.add_argument("--frames", type=int, default=60, help="of films (default: 60)")
    parser.add_argument("--resolution", type=int, default=128, help="of the grid for meshes (default: 128)")
    parser.add_argument("--faces", type=int, default=0, help="of meshes at most (default: 0, all)")
    parser.add_argument("--texture", type=int, default=0, help="pixels of meshes' texture (default: 0, vertex colours)")

    def write(options: argparse.Namespace) -> None:
        from asdkit.run.export import Choices
        from asdkit.run.export import export as write_files

        how = Choices(options.up, options.size, options.frames, options.resolution, options.faces, options.texture)
        formats = [name.strip() for name in options.format.split(",") if name.strip()]
        for file in write_files(options.what, formats, options.out, options.force, how):
            print(file)

    return _carried_out(parser, arguments, write)


def bench(arguments: list[str]) -> int:
    """`asdkit bench`; returns the process's exit code.

    Args:
        arguments: what stands after `bench`.

    Raises:
        UsageError: an unknown recipe, or none.
    """
    usage = "asdkit bench --config RECIPE [--prior random:sd21] [--steps N] [--json] [--key.of.anything value ...]"
    parser = Arguments("asdkit bench", usage, "Time the parts of a recipe's step.", allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="to time of each kind (default: 50)")
    parser.add_argument("--json", action="store_true", help="print all facts as JSON, and nothing else")
    try:
        options, others = parser.parse_known_args(arguments)
    except SystemExit:  # after --help
        return 0
    packages, others = trusted_packages(others)
    others, run = expand("bench", others)
    if run is not None:
        raise UsageError(f"bench times recipes, not runs; name one with --config {run / 'config.yaml'}.")
    prepare(packages)
    from asdkit.commands.bench import run_bench_command

    with trusting(packages):
        return run_bench_command(others, options.steps, options.json)


def _carried_out(parser: Arguments, arguments: list[str], act: Callable[[argparse.Namespace], None]) -> int:
    """The exit code of a command that acts on its options; what goes wrong is one sentence."""
    packages, arguments = trusted_packages(arguments)
    parser.epilog = "--trust PACKAGE: let checkpoints name its classes, also a module's in this folder; repeatable"
    try:
        options = parser.parse_args(arguments)
    except SystemExit:  # after --help; what is wrong with the options is a UsageError
        return 0
    prepare(packages)
    try:
        with trusting(packages):
            act(options)
    except (KeyboardInterrupt, Exception) as error:
        from asdkit.run.exits import end

        return end(error)
    return 0
