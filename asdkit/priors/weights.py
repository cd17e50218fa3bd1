"""Files of weights: the shapes of their tensors, and a digest of what they hold."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import first_line

_EXACT = 256 * 2**20  # bytes of weights that are read whole for a digest
_PIECES, _PIECE = 256, 4096  # of a larger model's file


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, which is as long as its header says, or is refused."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise PriorUnavailable(f"{file} is torn, or no safetensors file ({reason}); copy it again.") from None


def digest_of(used: dict[str, Path], also: str = "", beside: dict[str, Path] | None = None) -> str:
    """12 hex digits that stand for a model's weights, wherever they lie, and for the text `also`.

    Of a small model every byte of every file counts, also of those `beside` the used ones. Of a large one those files
    do that are used: their sizes, headers and 256 pieces of 4 KiB each, which any training changes and which cost no
    minutes.
    """
    files = beside or used
    small = sum(file.stat().st_size for file in files.values()) <= _EXACT
    sha = hashlib.sha256()
    for name, file in sorted((files if small else used).items()):
        sha.update(name.encode())
        for piece in [file.read_bytes()] if small else _sampled(file):
            sha.update(piece)
    sha.update(also.encode())
    return sha.hexdigest()[:12]


def _sampled(file: Path) -> Iterator[bytes]:
    """Its size, its header, and pieces from the first of its values to the last."""
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        yield stream.read(header)
        for piece in range(_PIECES):
            stream.seek(header + (size - header - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
