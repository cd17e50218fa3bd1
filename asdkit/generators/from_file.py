"""The object that a run folder, a checkpoint or a file of Gaussians holds."""

import math
from pathlib import Path

from asdkit.core.parts import require
from asdkit.core.text import local
from asdkit.formats.splat_files import is_splats, read_splats
from asdkit.generators import from_checkpoint as checkpoints
from asdkit.generators.base import Generator
from asdkit.generators.gaussians import Gaussians


def object_of(path: Path) -> Generator:
    """The object in a run folder, a checkpoint, or a file of Gaussians.

    Raises:
        ValueError: there is none, or it is broken.
    """
    require(local(path).exists(), f"There is no {path}; name a run folder, a checkpoint or a file of splats.")
    if not is_splats(path):
        return checkpoints.generator_of(path)
    splats = read_splats(path)
    count, coefficients = splats.sh.shape[:2]
    return Gaussians(str(path), count=1, capacity=count, sh_degree=math.isqrt(coefficients) - 1)
