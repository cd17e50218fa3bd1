"""The object that a run folder, a checkpoint or a file of Gaussians holds."""

import math
from pathlib import Path

from asdkit.core.text import existing
from asdkit.formats.splat_files import is_splats, read_splats
from asdkit.generators import from_checkpoint as checkpoints
from asdkit.generators.base import Generator
from asdkit.generators.gaussians import Gaussians


def object_of(path: Path) -> Generator:
    """The object in a run folder, a checkpoint, or a file of Gaussians.

    Raises:
        ValueError: there is none, or it is broken.
    """
    existing(path)
    if not is_splats(path):
        return checkpoints.generator_of(path)
    splats = read_splats(path)
    count, coefficients = splats.sh.shape[:2]
    return Gaussians(str(path), count=1, capacity=count, sh_degree=math.isqrt(coefficients) - 1)
