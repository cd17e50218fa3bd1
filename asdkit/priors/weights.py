"""Files of weights: whether they are whole, and a digest of what they hold."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from asdkit.core.errors import PriorUnavailable

_EXACT = 256 * 2**20  # bytes of weights that are read whole for a digest
_PIECES, _PIECE = 256, 4096  # of a larger model's file


def check_length(file: Path) -> None:
    """A safetensors file is as long as its header says.

    Raises:
        PriorUnavailable: it is torn, or nothing of the kind.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, size)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        raise PriorUnavailable(f"{file} is torn, or no safetensors file; delete it and copy it again.") from None
    if size != expected:
        raise PriorUnavailable(f"{file} is torn: {size} bytes of {expected}; delete it and copy it again.")


def digest_of(files: dict[str, Path], used: dict[str, Path], also: str = "") -> str:
    """A digest of a model's weights, wherever they lie.

    Of a small model every byte of every file counts. Of a large one those files do that are used: their sizes, their
    headers and 256 pieces of 4 KiB each, which any training changes and which cost no minutes.

    Args:
        files: all weights, by their names.
        used: those that are read.
        also: further text that counts.

    Returns:
        The first 12 hex digits of a SHA-256.
    """
    small = sum(file.stat().st_size for file in files.values()) <= _EXACT
    sha = hashlib.sha256()
    for name, file in sorted((files if small else used).items()):
        sha.update(name.encode())
        for piece in [file.read_bytes()] if small else _sampled(file):
            sha.update(piece)
    sha.update(also.encode())
    return sha.hexdigest()[:12]


def _sampled(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        yield stream.read(header)
        for piece in range(_PIECES):
            stream.seek(header + (size - header - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
