"""What checkpoints hold of generators; they come from anywhere, and nothing in them is executed."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asdkit.core.errors import unwrapped
from asdkit.core.text import local
from asdkit.core.trust import refusal, trusting
from asdkit.generators.base import Generator

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"  # how Lightning builds a module from its arguments
_NEEDED = {"prompt", "prior", "generator", "guidance"}


class Saved(NamedTuple):
    """A checkpoint's file, the arguments of its `Distillation` (parts are specs), and its generator's weights."""

    file: Path
    arguments: dict[str, Any]
    weights: dict[str, Tensor]


def read(path: Path) -> Saved:
    """What a checkpoint, or the last one of a run folder, holds; a ValueError if it is missing or no good."""
    path = local(path)
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"There is no checkpoint {file}; name a folder that asdkit fit made, or a checkpoint in it.")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True) if is_whole(file) else {}
        arguments, weights = dict(saved["hyper_parameters"]), dict(saved["state_dict"])
    except OSError:
        raise
    except Exception:  # torch's reader raises whatever a broken file makes it stumble over
        raise ValueError(f"{file} is broken, or no checkpoint of asdkit.") from None
    if arguments.pop("_instantiator", INSTANTIATOR) != INSTANTIATOR or not arguments.keys() >= _NEEDED:
        raise ValueError(f"{file} is the checkpoint of something else than a distillation.")
    parts = {name.partition("."): value for name, value in weights.items()}
    return Saved(file, arguments, {name: value for (part, _, name), value in parts.items() if part == "generator"})


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is all there, every byte as it was written, and none that unpacks to more."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
            plain = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            return plain and sum(part.file_size for part in parts) <= path.stat().st_size and file.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError):
        return False


def restore(generator: Generator, saved: Saved) -> None:
    """Give a generator the weights that were saved, which must be its own and finite."""
    try:
        generator.load_state_dict(saved.weights)
    except (RuntimeError, KeyError):
        raise ValueError(f"{saved.file} does not hold the weights of the generator that it names.") from None
    if not all(isinstance(value, Tensor) and bool(value.isfinite().all()) for value in saved.weights.values()):
        raise ValueError(f"{saved.file} holds weights that are not finite.")


def generator_of(path: Path) -> Generator:
    """The generator of a run folder or a checkpoint."""
    return built(read(path))


def built(saved: Saved) -> Generator:
    """The generator that was saved; a ValueError if it can't be built, or its weights are another's."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Generator, "generator")
    try:
        with trusting():
            parsed = parser.parse_object({"generator": started_anyhow(saved.arguments["generator"])})
            generator = parser.instantiate_classes(parsed).generator
    except Exception as error:  # of jsonargparse, or of a part that does not like its arguments
        raise cannot_build(saved.file, error) from None
    restore(generator, saved)
    return generator


def started_anyhow(spec: dict[str, Any]) -> dict[str, Any]:
    """A generator's class path and arguments, without the file that it started from, which may be gone by now."""
    arguments = {name: value for name, value in spec.get("init_args", {}).items() if name not in ("init", "start")}
    return {"class_path": spec.get("class_path"), "init_args": arguments}


def cannot_build(file: Path, error: Exception) -> ValueError:
    """The sentence for a checkpoint that names a part which can't be built."""
    if refused := refusal(str(error), str(file)):
        return ValueError(refused)
    lines = [line.strip(" -") for line in str(unwrapped(error)).splitlines()]
    reason = [type(error).__name__, *(line for line in lines if line and not line.startswith("Given value"))][-1]
    return ValueError(f"{file} names a part that can't be built: {reason}")
