"""Gaussians in a rotated world."""

import math

import numpy as np
from jaxtyping import Float

from asdkit.formats.splats import Splats
from asdkit.rendering.spherical_harmonics import sh_polynomials


def rotated(splats: Splats, rotation: Float[np.ndarray, "3 3"]) -> Splats:
    """The Gaussians after a rotation about the origin (new = rotation @ old): positions, rotations, and colours."""
    rotation = rotation.astype(np.float64)
    w, xyz = np.split(_quaternion(rotation), [1])
    old_w, old_xyz = np.split(splats.quats.astype(np.float64), [1], axis=1)
    quats = np.column_stack([w * old_w - old_xyz @ xyz[:, None], w * old_xyz + old_w * xyz + np.cross(xyz, old_xyz)])
    sh = np.einsum("jk,nkc->njc", _sh_rotation(math.isqrt(splats.sh.shape[1]) - 1, rotation), splats.sh)
    means = splats.means @ rotation.T
    return splats._replace(means=means.astype("f4"), quats=quats.astype("f4"), sh=sh.astype("f4"))


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
    return longest / np.linalg.norm(longest)


def _sh_rotation(degree: int, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "K K"]:
    """What a rotation does to coefficients: the new function at R d is the old one at d.

    Both sides are evaluated at more directions than there are coefficients and solved for the new ones. That is
    exact, as rotations mix the harmonics of one degree among themselves.
    """
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    old = np.stack(sh_polynomials(degree, *directions.T), axis=1)
    new = np.stack(sh_polynomials(degree, *(rotation @ directions.T)), axis=1)
    return np.linalg.lstsq(new, old)[0]
