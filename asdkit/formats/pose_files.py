"""What files of cameras share, whose cameras look along -z, with y up in their pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.text import first_line

TO_OPENCV = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)  # times the columns of a camera-to-world matrix


@contextmanager
def as_written(file: Path, kind: str) -> Iterator[None]:
    """Whatever is missing within, or of another kind, is a ValueError: the file is not `kind`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{file} is no {kind} ({type(error).__name__}: {first_line(error)}).") from None


def is_pose(c2w: Float[Tensor, "*B 4 4"]) -> bool:
    """Whether matrices are a rotation, which does not mirror, and a position."""
    rotation = c2w[..., :3, :3]
    rigid = torch.allclose(rotation @ rotation.mT, torch.eye(3).to(c2w), atol=1e-3)
    return rigid and bool((torch.linalg.det(rotation) > 0).all() and c2w.isfinite().all())
