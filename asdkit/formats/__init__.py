"""Files of Gaussians: `.ply` (3DGS), `.splat`, `.spz` and `.glb`. Needs numpy only.

A file comes from anywhere, so what it claims is compared with its size before anything is allocated, and whatever is
wrong is told in one sentence (a ValueError that names the file).
"""

from pathlib import Path

from asdkit.core.atomic import atomic
from asdkit.formats import ply
from asdkit.formats.activation import check
from asdkit.formats.dot_splat import read_splat, write_splat
from asdkit.formats.glb import read_glb, write_glb
from asdkit.formats.ply import Splats
from asdkit.formats.rotation import turned
from asdkit.formats.spz import read_spz, write_spz

__all__ = ["SUFFIXES", "read_splats", "turned", "write_splats"]


def _write_ply(path: Path, splats: Splats) -> None:
    check(splats, f"{path} was not written, as it would have")
    with atomic(path) as temporary:
        ply.write_splats(temporary, splats)


_FORMATS = {
    ".ply": (ply.read_splats, _write_ply),
    ".splat": (read_splat, write_splat),
    ".spz": (read_spz, write_spz),
    ".glb": (read_glb, write_glb),
}
SUFFIXES = tuple(_FORMATS)


def read_splats(path: str | Path) -> Splats:
    """Reads Gaussians from a file of any of the formats, which its suffix tells.

    Raises:
        ValueError: another suffix, or a broken file.
        FileNotFoundError: there is no such file.
    """
    read, _ = _format(Path(path))
    return read(path)


def write_splats(path: str | Path, splats: Splats) -> None:
    """Writes Gaussians in the format that the suffix tells, the whole file or none; its folder is made if missing.

    Only `.ply` and `.glb` keep everything: `.spz` rounds, and `.splat` rounds and drops the higher bands of colours.

    Raises:
        ValueError: another suffix, or values that the format cannot hold.
    """
    _, write = _format(Path(path))
    write(Path(path), splats)


def _format(path: Path):
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: Gaussians are kept in these formats.")
    return _FORMATS[path.suffix.lower()]
