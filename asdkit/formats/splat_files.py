"""Files of Gaussians: `.ply`, `.splat`, `.spz` and `.glb`, and `.sog`, which is written alone.

A file comes from anywhere, so what it claims is compared with its size before anything is allocated, and whatever is
wrong is told in one sentence (a ValueError that names the file).
"""

from pathlib import Path

import numpy as np

from asdkit.core.atomic import write_bytes
from asdkit.core.parts import require
from asdkit.formats.glb import encode_glb, read_glb
from asdkit.formats.sog import encode_sog
from asdkit.formats.splat_ply import encode_ply, read_ply
from asdkit.formats.splats import ODD_SHARE, Activated, Splats, deactivate, sound, to_be_written, to_bytes
from asdkit.formats.spz import encode_spz, read_spz
from asdkit.rendering.projection import SH_0

# Of .splat files, the format of antimatter15's viewer: 32 bytes for each Gaussian, and no higher bands of colours.
_RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("colors", "u1", 4), ("quats", "u1", 4)])


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
    odd = np.abs(np.linalg.norm(quats, axis=1) - 1) >= 0.1  # far more than rounding to bytes can do
    require(odd.mean() <= ODD_SHARE, f"{path} is not a .splat file: many of its rotations are far from unit length.")
    quats[odd] = 0  # no rotation at all
    colors = table["colors"] / 255
    sh = (colors[:, None, :3] - 0.5) / SH_0
    return deactivate(Activated(table["means"], quats, table["scales"], colors[:, 3], sh))


_READERS = {".ply": read_ply, ".splat": read_splat, ".spz": read_spz, ".glb": read_glb}
_ENCODERS = {".ply": encode_ply, ".splat": encode_splat, ".spz": encode_spz, ".glb": encode_glb, ".sog": encode_sog}
SUFFIXES = tuple(_READERS)  # of what is read and written
_UNREAD = {
    ".sog": "a bundle of PlayCanvas", ".ssproj": "a project of SuperSplat", ".psht": "a project of Postshot",
    ".ksplat": "a file of GaussianSplats3D", ".splatv": "a film of antimatter15's viewer", ".rad": "a file of Spark",
    ".lcc": "a file of XGRIDS", ".usd": "a scene of Omniverse", ".usdz": "a scene of Omniverse",
    ".pt": "a checkpoint of another program", ".pth": "a checkpoint of another program", ".html": "a page for browsers",
}  # fmt: skip


def is_splats(path: Path) -> bool:
    """Whether a path is a file, which by its suffix may hold Gaussians, of formats that are read or not."""
    return path.is_file() and path.suffix.lower() in (*SUFFIXES, *_UNREAD)


def read_splats(path: str | Path) -> Splats:
    """Reads Gaussians from a file of any of the formats, which its suffix tells. Another suffix or a broken file is a
    ValueError; one row in a hundred may be no Gaussian, and is left out.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        raise ValueError(f"{path} is {_UNREAD[suffix]}, which is not read; export its Gaussians as .ply.")
    require(suffix in _READERS, f"{path} must end in {', '.join(SUFFIXES)}: Gaussians are kept in these formats.")
    return sound(path, _READERS[suffix](path))


def write_splats(path: str | Path, splats: Splats) -> None:
    """Writes Gaussians in the format that the suffix tells (only `.ply` and `.glb` keep everything), the whole file or
    none. Its folder is made. Another suffix, or values that the format cannot hold, are a ValueError.
    """
    path = Path(path)
    if (encode := _ENCODERS.get(path.suffix.lower())) is None:
        raise ValueError(f"{path} must end in {', '.join(_ENCODERS)}: Gaussians are written in these formats.")
    write_bytes(path, encode(path, splats))
