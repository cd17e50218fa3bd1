"""N Gaussians, before and after activation, and the checks of what is read and written."""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

_log = logging.getLogger(__name__)
FLOAT_LIMIT = 1e30  # what files hold must be smaller
ODD_SHARE = 0.01  # of a file's rows may be invalid, and are left out
THINNER = 100  # times as wide as thick are discs, at least
OPACITY_MARGIN = 1e-6  # opacities that are read come no nearer to 0 and 1, where logits are infinite
SCALE_MIN = float(np.finfo(np.float32).tiny)  # the like for scales


class Splats(NamedTuple):
    """N Gaussians as 3DGS stores and optimises them, before activation: tensors, or numpy arrays of files.

    Shapes:
        means: centres in world units [N,3].
        quats: rotations wxyz, of any norm but zero [N,4].
        log_scales: logarithms of standard deviations in world units [N,3].
        opacity_logits: logits of opacities [N].
        sh: coefficients of spherical harmonics for red, green and blue, K = 1, 4, 9 or 16 [N,K,3].
    """

    means: Float[Any, "N 3"]
    quats: Float[Any, "N 4"]
    log_scales: Float[Any, "N 3"]
    opacity_logits: Float[Any, " N"]
    sh: Float[Any, "N K 3"]

    def tensors(self, dtype: torch.dtype = torch.float32) -> "Splats":
        """The arrays of a file as tensors."""
        return Splats(*(torch.from_numpy(array).to(dtype) for array in self))


class Activated(NamedTuple):
    """N Gaussians after activation, as they are drawn and as most formats store them: tensors or numpy arrays.

    Shapes:
        means: centres in world units [N,3].
        quats: rotations wxyz [N,4].
        scales: standard deviations in world units [N,3].
        opacities: within [0,1] [N].
        sh: coefficients of spherical harmonics [N,K,3].
    """

    means: Float[Any, "N 3"]
    quats: Float[Any, "N 4"]
    scales: Float[Any, "N 3"]
    opacities: Float[Any, " N"]
    sh: Float[Any, "N K 3"]


def activate(splats: Splats) -> Activated:
    """The scales and opacities of tensors, differentiably; rotations keep their norm."""
    return Activated(splats.means, splats.quats, splats.log_scales.exp(), splats.opacity_logits.sigmoid(), splats.sh)


def deactivate(gaussians: Activated) -> Splats:
    """The inverse of `activate`, for arrays; scales and opacities stay within what has a finite logarithm or logit."""
    means, quats, scales, opacities, sh = (np.asarray(array, np.float64) for array in gaussians)
    opacities = opacities.clip(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    arrays = means, quats, np.log(scales.clip(SCALE_MIN)), np.log(opacities / (1 - opacities)), sh
    return Splats(*(array.astype(np.float32) for array in arrays))


def to_bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """The nearest whole numbers within 0 and 255."""
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def to_be_written(path: Path, splats: Splats) -> Activated:
    """The activated values that a file shall hold, as arrays of double precision, with quaternions of norm 1.

    Raises:
        ValueError: there are no Gaussians, or values that no format can hold.
    """
    check(splats, f"{path} was not written, as it would have")
    gaussians = activate(splats.tensors(torch.float64))
    quats = gaussians.quats / gaussians.quats.norm(dim=1, keepdim=True)
    return Activated(*(tensor.numpy() for tensor in gaussians._replace(quats=quats)))


def as_read(path: Path, gaussians: Activated) -> Splats:
    """The Gaussians of a file that holds activated values, whose quaternions may have any norm; see `sound`."""
    scales = np.where(gaussians.scales < 0, np.nan, gaussians.scales)
    opacities = np.where((gaussians.opacities < 0) | (gaussians.opacities > 1), np.nan, gaussians.opacities)
    return sound(path, deactivate(gaussians._replace(scales=scales, opacities=opacities)))


def sound(path: Path, splats: Splats) -> Splats:
    """The Gaussians of a file, without its invalid rows if they are few; infinite logits and logarithms of 0 are valid.

    Raises:
        ValueError: there are no Gaussians, or more than one in a hundred is invalid.
    """
    logits, limit = splats.opacity_logits, math.log(1 / OPACITY_MARGIN - 1)
    logits = np.where(np.isinf(logits), np.copysign(limit, logits), logits).astype(np.float32)
    log_scales = np.where(np.isneginf(splats.log_scales), math.log(SCALE_MIN), splats.log_scales).astype(np.float32)
    splats = splats._replace(opacity_logits=logits, log_scales=log_scales)
    faults = _faults(splats)
    odd = np.any(list(faults.values()), axis=0)
    if 0 < odd.sum() <= ODD_SHARE * len(odd):
        reason = next(fault for fault, rows in faults.items() if rows.any())
        _log.warning("%s: %d of %d Gaussians are left out, for they have %s.", path, odd.sum(), len(odd), reason)
        splats = Splats(*(values[~odd] for values in splats))
    check(splats, f"{path} has")
    return splats


def check(splats: Splats, subject: str) -> None:
    """Refuses arrays that are no object, in a sentence that begins with `subject`.

    Raises:
        ValueError: no Gaussians, values that are not finite or huge, a rotation of zero, or a wrong number of
            coefficients.
    """
    if len(splats.means) == 0:
        raise ValueError(f"{subject} no Gaussians.")
    if splats.sh.shape[1] not in (1, 4, 9, 16):
        raise ValueError(f"{subject} {splats.sh.shape[1]} coefficients per colour, but 1, 4, 9 or 16 are possible.")
    for fault, rows in _faults(splats).items():
        if rows.any():
            raise ValueError(f"{subject} {fault}.")


def _faults(splats: Splats) -> dict[str, Bool[np.ndarray, " N"]]:
    """Which rows are no Gaussians, by what is wrong with them."""
    faults = {}
    for name, values in splats._asdict().items():
        small = values < math.log(FLOAT_LIMIT) if name == "log_scales" else np.abs(values) < FLOAT_LIMIT
        fine = (small & np.isfinite(values)).reshape(len(values), math.prod(values.shape[1:]))
        faults[f"a value of '{name}' that is not a finite number of sensible size"] = ~fine.all(axis=1)
    return faults | {"a rotation that is zero": ~splats.quats.any(axis=1)}
