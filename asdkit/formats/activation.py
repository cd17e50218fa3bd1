"""What the formats share: Gaussians after activation, and the checks of what is written and read."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from asdkit.formats.ply import FLOAT_LIMIT, Splats

OPACITY_MARGIN = 1e-6  # opacities that are read come no nearer to 0 and 1, where logits are infinite
SCALE_MIN = float(np.finfo(np.float32).tiny)  # the like for scales


class Activated(NamedTuple):
    """Gaussians as most formats store them.

    Shapes:
        means: centres in world units [N,3].
        quats: rotations wxyz of norm 1 [N,4].
        scales: standard deviations in world units [N,3].
        opacities: within [0,1] [N].
        sh: coefficients of spherical harmonics, K = 1, 4, 9 or 16 [N,K,3].
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    sh: Float[np.ndarray, "N K 3"]


def activated(path: Path, splats: Splats) -> Activated:
    """What a file shall hold.

    Raises:
        ValueError: there are no Gaussians, or values that no format can hold.
    """
    check(splats, f"{path} was not written, as it would have")
    means, quats, log_scales, logits = (array.astype(np.float64) for array in splats[:4])
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return Activated(means, quats, np.exp(log_scales), np.exp(-np.logaddexp(0, -logits)), splats.sh)


def deactivated(path: Path, gaussians: Activated) -> Splats:
    """What a file holds; its quaternions may have any norm.

    Raises:
        ValueError: there are no Gaussians, or values that are not sensible.
    """
    means, quats, scales, opacities, sh = gaussians
    if (scales < 0).any() or ((opacities < 0) | (opacities > 1)).any():
        raise ValueError(f"{path} has a negative scale or an opacity outside [0,1].")
    opacities = opacities.astype(np.float64).clip(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    arrays = means, quats, np.log(scales.clip(SCALE_MIN)), np.log(opacities / (1 - opacities)), sh
    splats = Splats(*(array.astype(np.float32) for array in arrays))
    check(splats, f"{path} has")
    return splats


def check(splats: Splats, subject: str) -> None:
    """Refuses what is no object, in a sentence that begins with `subject`.

    Raises:
        ValueError: no Gaussians, values that are not finite or huge, a rotation of zero, or a wrong number of
            coefficients.
    """
    if len(splats.means) == 0:
        raise ValueError(f"{subject} no Gaussians.")
    if splats.sh.shape[1] not in (1, 4, 9, 16):
        raise ValueError(f"{subject} {splats.sh.shape[1]} coefficients per colour, but 1, 4, 9 or 16 are possible.")
    for name, values in splats._asdict().items():
        small = values < math.log(FLOAT_LIMIT) if name == "log_scales" else np.abs(values) < FLOAT_LIMIT
        if not (small & np.isfinite(values)).all():
            raise ValueError(f"{subject} a value of '{name}' that is not a finite number of sensible size.")
    if not np.abs(splats.quats).sum(axis=1).all():
        raise ValueError(f"{subject} a rotation that is zero.")
