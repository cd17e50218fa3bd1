"""Runs, brought back from their checkpoints."""

import inspect
from pathlib import Path

import torch
from pytorch_lightning.cli import instantiate_module

from asdkit.distillation import Distillation


def load(path: Path) -> Distillation:
    """A run with its generator's weights, on the CPU. The prior and what the discriminator has learned stay away.

    A checkpoint comes from anywhere: it may name the classes of its parts, as a recipe does, and nothing in it is
    executed.

    Args:
        path: a run folder, whose last checkpoint is taken, or a checkpoint.

    Raises:
        ValueError: there is none, or it is broken or of something else.
    """
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"There is no checkpoint {file}; name a folder that asdkit fit made, or a checkpoint in it.")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        arguments, weights = dict(saved["hyper_parameters"]), dict(saved["state_dict"])
    except OSError:
        raise
    except Exception:  # torch's reader raises whatever a broken file makes it stumble over
        raise ValueError(f"{file} is broken, or no checkpoint of asdkit.") from None
    known = inspect.signature(Distillation).parameters
    if not {"prompt", "prior", "generator", "guidance"} <= arguments.keys() <= {*known, "_instantiator"}:
        raise ValueError(f"{file} is the checkpoint of something else than a distillation.")
    arguments.pop("_instantiator", None)
    try:
        module = instantiate_module(Distillation, arguments)
    except Exception as error:  # of jsonargparse, or of a part that does not like its arguments
        reason = str(error).strip().splitlines()[-1].strip(" -")
        raise ValueError(f"{file} names a part that can't be built: {reason}") from None
    mine = {name.removeprefix("generator."): value for name, value in weights.items() if name.startswith("generator.")}
    try:
        module.generator.load_state_dict(mine)
    except (RuntimeError, KeyError):
        raise ValueError(f"{file} does not hold the weights of the generator that it names.") from None
    if not all(bool(value.isfinite().all()) for value in module.generator.state_dict().values()):
        raise ValueError(f"{file} holds weights that are not finite.")
    return module
