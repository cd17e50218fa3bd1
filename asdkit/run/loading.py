"""Runs and objects, brought back from their files."""

import inspect
from pathlib import Path

from pytorch_lightning.cli import instantiate_module

from asdkit.core.trust import trusting
from asdkit.distillation import Distillation
from asdkit.generators import from_checkpoint as checkpoints


def load(path: Path, prompt: str = "") -> Distillation:
    """Loads a run with its generator's weights on the CPU, from a checkpoint or from the last one of a run folder.

    The prior and what the discriminator has learned are not loaded. A checkpoint may name the classes of its parts, as
    a recipe does, and nothing in it is executed. A prompt, where given, replaces the run's.

    Raises:
        ValueError: there is none, or it is broken or of something else.
    """
    saved = checkpoints.read(path)
    if not saved.arguments.keys() <= inspect.signature(Distillation).parameters.keys():
        raise ValueError(f"{saved.file} is the checkpoint of something else than a distillation.")
    try:
        generator = checkpoints.started_anyhow(saved.arguments["generator"])
        with trusting():
            own = {"generator": generator} | ({"prompt": prompt} if prompt else {})
            module = instantiate_module(Distillation, saved.arguments | own)
    except Exception as error:  # of jsonargparse, or of a part that does not like its arguments
        raise checkpoints.cannot_build(saved.file, error) from None
    checkpoints.restore(module.generator, saved)
    return module
