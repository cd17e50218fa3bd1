"""N Gaussians, before and after activation, in a rotated world, and the checks of what is read and written."""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8

from asdkit.core.parts import require
from asdkit.rendering.projection import sh_polynomials

_log = logging.getLogger(__name__)
FLOAT_LIMIT = 1e30  # what files hold must be smaller
ODD_SHARE = 0.01  # of a file's rows may be invalid, and are left out
THINNER = 100  # times as wide as thick are discs, at least
OPACITY_MARGIN = 1e-6  # opacities that are read come no nearer to 0 and 1, where logits are infinite
SCALE_MIN = float(np.finfo(np.float32).tiny)  # the like for scales


class Splats(NamedTuple):
    """N Gaussians as 3DGS stores and optimises them, before activation: tensors, or numpy arrays of files."""

    means: Float[Any, "N 3"]  # centres in world units
    quats: Float[Any, "N 4"]  # rotations wxyz, of any norm but zero
    log_scales: Float[Any, "N 3"]  # logarithms of standard deviations in world units
    opacity_logits: Float[Any, " N"]  # logits of opacities
    sh: Float[Any, "N K 3"]  # coefficients of spherical harmonics for red, green and blue, K = 1, 4, 9 or 16

    def tensors(self, dtype: torch.dtype = torch.float32) -> "Splats":
        """The arrays of a file as tensors."""
        return Splats(*(torch.from_numpy(array).to(dtype) for array in self))


class Activated(NamedTuple):
    """The same Gaussians as they are drawn and as most formats store them: with scales > 0 and opacities in [0,1]."""

    means: Float[Any, "N 3"]
    quats: Float[Any, "N 4"]
    scales: Float[Any, "N 3"]
    opacities: Float[Any, " N"]
    sh: Float[Any, "N K 3"]


def activate(splats: Splats) -> Activated:
    """The scales and opacities of tensors, differentiably; rotations keep their norm."""
    return Activated(splats.means, splats.quats, splats.log_scales.exp(), splats.opacity_logits.sigmoid(), splats.sh)


def deactivate(gaussians: Activated) -> Splats:
    """The inverse of `activate`, for arrays: finite at the ends of the ranges of scales and opacities, NaN beyond."""
    means, quats, scales, opacities, sh = (np.asarray(array, np.float64) for array in gaussians)
    scales = np.where(scales < 0, np.nan, scales.clip(SCALE_MIN))
    shares = opacities.clip(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    logits = np.where((opacities < 0) | (opacities > 1), np.nan, np.log(shares / (1 - shares)))
    return Splats(*(array.astype(np.float32) for array in (means, quats, np.log(scales), logits, sh)))


def rotated(splats: Splats, rotation: Float[np.ndarray, "3 3"]) -> Splats:
    """The Gaussians after a rotation about the origin (new = rotation @ old): positions, rotations, and colours."""
    rotation = rotation.astype(np.float64)
    w, xyz = np.split(_quaternion(rotation), [1])
    old_w, old_xyz = np.split(splats.quats.astype(np.float64), [1], axis=1)
    quats = np.column_stack([w * old_w - old_xyz @ xyz[:, None], w * old_xyz + old_w * xyz + np.cross(xyz, old_xyz)])
    sh = np.einsum("jk,nkc->njc", _sh_rotation(math.isqrt(splats.sh.shape[1]) - 1, rotation), splats.sh)
    return splats._replace(means=(splats.means @ rotation.T).astype("f4"), quats=quats.astype("f4"), sh=sh.astype("f4"))


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """The unit quaternion wxyz of a rotation, from the longest column of 4 q q^T."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    products = np.array([
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ])  # fmt: skip
    longest = products[products.diagonal().argmax()]
    return np.asarray(longest / np.linalg.norm(longest))


def _sh_rotation(degree: int, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "K K"]:
    """What a rotation does to coefficients: the new function at R d is the old one at d, solved for many directions."""
    # That is exact, as rotations mix the harmonics of one degree among themselves.
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    old = np.stack(sh_polynomials(degree, *directions.T), axis=1)
    new = np.stack(sh_polynomials(degree, *(rotation @ directions.T)), axis=1)
    return np.asarray(np.linalg.lstsq(new, old)[0])


def to_bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """The nearest whole numbers within 0 and 255."""
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def reduced(quats: Float[np.ndarray, "N 4"]) -> tuple[Integer[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """The place of the largest component of each quaternion, made positive, and the three others."""
    largest = np.abs(quats).argmax(axis=1)
    turned = quats * np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -1, 1)
    return largest, turned[np.arange(4) != largest[:, None]].reshape(-1, 3)


def completed(largest: Integer[np.ndarray, " N"], smaller: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """The inverse of `reduced`, of quaternions of norm 1."""
    quats, known = np.empty((len(largest), 4)), np.arange(4) != largest[:, None]
    quats[known] = smaller.ravel()
    quats[~known] = np.sqrt((1 - (smaller**2).sum(axis=1)).clip(0))
    return quats


def to_be_written(path: Path, splats: Splats) -> Activated:
    """The activated values that a file shall hold, checked, in double precision and with quaternions of norm 1."""
    check(splats, f"{path} was not written, as it would have")
    gaussians = activate(splats.tensors(torch.float64))
    quats = gaussians.quats / gaussians.quats.norm(dim=1, keepdim=True)
    return Activated(*(tensor.numpy() for tensor in gaussians._replace(quats=quats)))


def sound(path: Path, splats: Splats) -> Splats:
    """The Gaussians of a file without its invalid rows, one in a hundred at most; infinite logits, and 0, are valid."""
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
    """Refuses arrays that are no object, by a ValueError that begins with `subject`."""
    require(len(splats.means) > 0, f"{subject} no Gaussians.")
    for fault, rows in _faults(splats).items():
        require(not rows.any(), f"{subject} {fault}.")


def _faults(splats: Splats) -> dict[str, Bool[np.ndarray, " N"]]:
    """Rows that are no Gaussians, by what is wrong with them."""
    faults = {}
    for name, values in splats._asdict().items():
        small = values < math.log(FLOAT_LIMIT) if name == "log_scales" else np.abs(values) < FLOAT_LIMIT
        fine = (small & np.isfinite(values)).reshape(len(values), math.prod(values.shape[1:]))
        faults[f"a value of '{name}' that is not a finite number of sensible size"] = ~fine.all(axis=1)
    return faults | {"a rotation that is zero": ~splats.quats.any(axis=1)}
