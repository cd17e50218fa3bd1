"""`.splat` files, 32 bytes for each Gaussian: the format of antimatter15's viewer. Colours depend on no direction."""

from pathlib import Path

import numpy as np

from asdkit.core.parts import require
from asdkit.formats.splats import ODD_SHARE, Activated, Splats, deactivate, to_be_written, to_bytes
from asdkit.rendering.spherical_harmonics import SH_0

_RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("colors", "u1", 4), ("quats", "u1", 4)])
_NORM_ERROR = 0.1  # far more than rounding to bytes can do


def encode_splat(path: Path, splats: Splats) -> bytes:
    """The largest and most opaque first; colours in [0,1] (no higher bands), opacities and rotations become bytes."""
    gaussians = to_be_written(path, splats)
    table = np.empty(len(gaussians.means), _RECORD)
    table["means"], table["scales"] = gaussians.means, gaussians.scales
    table["colors"][:, :3] = to_bytes(255 * (0.5 + SH_0 * gaussians.sh[:, 0]))
    table["colors"][:, 3] = to_bytes(255 * gaussians.opacities)
    table["quats"] = to_bytes(128 + 128 * gaussians.quats)
    log_weight = splats.log_scales.sum(axis=1, dtype=np.float64) + np.log(gaussians.opacities)
    return table[np.argsort(-log_weight, kind="stable")].tobytes()


def read_splat(path: Path) -> Splats:
    """Gaussians of degree 0, in the file's order."""
    data = path.read_bytes()
    if not data or len(data) % _RECORD.itemsize:
        raise ValueError(f"{path} is truncated or no .splat file: it has {len(data)} bytes, not 32 for each Gaussian.")
    require(not data.isascii(), f"{path} is not a .splat file: all its bytes are ASCII.")
    table = np.frombuffer(data, _RECORD)
    quats = table["quats"] / 128 - 1
    odd = np.abs(np.linalg.norm(quats, axis=1) - 1) >= _NORM_ERROR
    require(odd.mean() <= ODD_SHARE, f"{path} is not a .splat file: many of its rotations are far from unit length.")
    quats[odd] = 0  # no rotation at all
    colors = table["colors"] / 255
    sh = (colors[:, None, :3] - 0.5) / SH_0
    return deactivate(Activated(table["means"], quats, table["scales"], colors[:, 3], sh))
