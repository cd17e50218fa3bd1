"""Files of Gaussians: `.ply`, `.splat`, `.spz` and `.glb`, and `.sog`, which is written alone.

A file comes from anywhere, so what it claims is compared with its size before anything is allocated, and whatever is
wrong is told in one sentence (a ValueError that names the file).
"""

from pathlib import Path

from asdkit.core.atomic import write_bytes
from asdkit.core.parts import require
from asdkit.formats.dot_splat import encode_splat, read_splat
from asdkit.formats.glb import encode_glb, read_glb
from asdkit.formats.sog import encode_sog
from asdkit.formats.splat_ply import encode_ply, read_ply
from asdkit.formats.splats import Splats, sound
from asdkit.formats.spz import encode_spz, read_spz

_FORMATS = {
    ".ply": (read_ply, encode_ply),
    ".splat": (read_splat, encode_splat),
    ".spz": (read_spz, encode_spz),
    ".glb": (read_glb, encode_glb),
}
_ENCODERS = {suffix: encode for suffix, (_, encode) in _FORMATS.items()} | {".sog": encode_sog}
SUFFIXES = tuple(_FORMATS)  # of what is read and written
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
    require(suffix in _FORMATS, f"{path} must end in {', '.join(SUFFIXES)}: Gaussians are kept in these formats.")
    return sound(path, _FORMATS[suffix][0](path))


def write_splats(path: str | Path, splats: Splats) -> None:
    """Writes Gaussians in the format that the suffix tells (only `.ply` and `.glb` keep everything), the whole file or
    none. Its folder is made. Another suffix, or values that the format cannot hold, are a ValueError.
    """
    path = Path(path)
    if (encode := _ENCODERS.get(path.suffix.lower())) is None:
        raise ValueError(f"{path} must end in {', '.join(_ENCODERS)}: Gaussians are written in these formats.")
    write_bytes(path, encode(path, splats))
