"""The command `asdkit`: answers what needs no torch at once, and hands the rest to LightningCLI."""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import asdkit
from asdkit.core.atomic import local, shown
from asdkit.core.trust import trusting

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
FORMATS = {
    "ply": "splats.ply", "splat": "splats.splat", "spz": "splats.spz", "glb": "splats.glb", "html": "viewer.html",
    "mesh-glb": "mesh.glb", "obj": "mesh.obj", "mp4": "orbit.mp4", "webp": "orbit.webp", "png": "views.png",
}  # fmt: skip
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
COMMANDS = (*TRAINER_COMMANDS, "export", "view", "bench", "recipes", "doctor", "sweep")
PORT = 8080


class UsageError(ValueError):
    """A command line that can't be carried out; the message is for the user."""


class Arguments(argparse.ArgumentParser):
    """The options of a command that needs no trainer; what is wrong with them is a UsageError."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('asdkit ')}: {message}; {self.prog} --help tells more.")


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
        packages, rest = _trusted(rest)
        rest, run = expand(command, rest)
    except ValueError as error:
        print(f"asdkit: {shown(str(error))}", file=sys.stderr)
        return 2
    _prepare(packages)
    from asdkit.commands.fit import run_trainer_command

    with trusting(packages):
        return run_trainer_command([command, *rest], run)


def _trusted(arguments: list[str]) -> tuple[list[str], list[str]]:
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


def _prepare(packages: list[str]) -> None:
    """Before torch is imported: quiet libraries, and let a trusted module be found in the working directory."""
    quiet = {"JSONARGPARSE_DEPRECATION_WARNINGS": "off", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name, value in (quiet | {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
    if packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: no file there takes the place of a library


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
    packages, others = _trusted(others)
    others, run = expand("bench", others)
    if run is not None:
        raise UsageError(f"bench times recipes, not runs; name one with --config {run / 'config.yaml'}.")
    _prepare(packages)
    from asdkit.commands.bench import run_bench_command

    with trusting(packages):
        return run_bench_command(others, options.steps, options.json)


def _carried_out(parser: Arguments, arguments: list[str], act: Callable[[argparse.Namespace], None]) -> int:
    """The exit code of a command that acts on its options; what goes wrong is one sentence."""
    packages, arguments = _trusted(arguments)
    parser.epilog = "--trust PACKAGE: let checkpoints name its classes, also a module's in this folder; repeatable"
    try:
        options = parser.parse_args(arguments)
    except SystemExit:  # after --help; what is wrong with the options is a UsageError
        return 0
    _prepare(packages)
    try:
        with trusting(packages):
            act(options)
    except (KeyboardInterrupt, Exception) as error:
        from asdkit.run.exits import end

        return end(error)
    return 0


def recipe_folder() -> Path:
    """Where the recipes are: inside the package when it was installed, beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def recipes() -> list[str]:
    """The names of all recipes, e.g. `gs3d` and `toybox/vae`."""
    folder = recipe_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe given by a path, by a name, or by its path in the repository from anywhere else.

    Raises:
        UsageError: there is none.
    """
    if local(name).is_file():
        return Path(name)
    short = name.removeprefix("./").removeprefix("recipes/").removesuffix(".yaml")
    known = recipes()
    if short in known:
        return recipe_folder() / f"{short}.yaml"
    raise UsageError(f"There is no recipe {name!r}{suggestion(short, known)} The recipes are: {', '.join(known)}.")


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, if any is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


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
