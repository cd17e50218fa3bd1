"""SPZ files, Niantic's compressed Gaussians: versions 3 (gzip) and 4 (zstd) are written, 2 to 4 are read.

Version 4 has the numbers of version 3, in a stream of its own for each attribute. SPZ's axes are right, up, back,
where a PLY file's are by convention right, down, front. So y and z change their signs on the way in and out, as they do
in the usual converters: a file has the same Gaussians as the PLY file beside it.
"""

import logging
import math
import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

import numpy as np
import zstandard
from jaxtyping import Float, UInt8

from asdkit.core.parts import require
from asdkit.formats.splats import Activated, Splats, completed, deactivate, reduced, to_be_written, to_bytes
from asdkit.rendering.projection import sh_polynomials

_log = logging.getLogger(__name__)
COUNT_LIMIT = 10_000_000
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, degree, fractional bits, flags, number of streams
_TABLE = struct.Struct("<I12x")  # what follows in version 4: where the sizes of its streams stand
_GZIP = 31  # zlib's name for gzip's container
_BITS_LIMIT = 24  # fractional bits at most
_EXTENDED = 2  # the flag of files with vendors' extensions
_COLOR_SCALE = 0.15
_COMPONENT = 511 * math.sqrt(2)  # a quaternion's smaller components are at most sqrt(1/2); they have 9 bits and a sign
_PLACES = np.array([20, 10, 0])  # bits below each of them
_FLIP = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class _Header:
    version: int
    count: int
    degree: int
    bits: int  # of positions, after the point
    flags: int
    streams: int  # of version 4

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The bytes of a Gaussian's position, opacity, colour, scale, rotation and higher coefficients."""
        return [(3, 3), (), (3,), (3,), (3 if self.version == 2 else 4,), ((self.degree + 1) ** 2 - 1, 3)]

    @property
    def sizes(self) -> list[int]:
        return [self.count * math.prod(shape) for shape in self.shapes]  # in bytes


def encode_spz(path: Path, splats: Splats, version: int = 4) -> bytes:
    """The Gaussians in their order, with the finest grid of positions that holds them.

    log-scales are clipped to [-10, 5.93], coefficients of degree 0 to +-3.33 and higher ones to [-1, 0.99].
    """
    means, quats, _, opacities, sh = _flipped(to_be_written(path, splats))
    count, degree, bits = len(means), math.isqrt(sh.shape[1]) - 1, _grid(path, means)
    fixed = np.rint(means * 2**bits).astype("<i4").view(np.uint8).reshape(count, 3, 4)[..., :3]
    sections = [fixed, to_bytes(255 * opacities), to_bytes(255 * (0.5 + _COLOR_SCALE * sh[:, 0]))]
    sections += [to_bytes(16 * (splats.log_scales + np.float64(10))), _packed(quats), to_bytes(128 + 128 * sh[:, 1:])]
    streams = [section.tobytes() for section in sections if section.size]
    if version == 3:
        head, squeeze = _HEADER.pack(b"NGSP", 3, count, degree, bits, 0, 0), zlib.compressobj(wbits=_GZIP)
        return squeeze.compress(b"".join([head, *streams])) + squeeze.flush()
    head = _HEADER.pack(b"NGSP", 4, count, degree, bits, 0, len(streams)) + _TABLE.pack(_HEADER.size + _TABLE.size)
    compressor = zstandard.ZstdCompressor(level=12)  # as Niantic's own library has it
    packed = [compressor.compress(stream) for stream in streams]
    table = chain.from_iterable(zip(map(len, packed), map(len, streams), strict=True))
    return b"".join([head, struct.pack(f"<{2 * len(streams)}Q", *table), *packed])


def _grid(path: Path, means: Float[np.ndarray, "N 3"]) -> int:
    """The bits after the point of the finest grid that holds the positions."""
    largest = np.abs(means).max()
    for bits in range(_BITS_LIMIT, 0, -1):
        if np.rint(largest * 2**bits) < 1 << 23:  # they have 24 bits
            return bits
    raise ValueError(f"{path} was not written: an SPZ file holds positions up to 4 million, not {largest:.3g}.")


def _flipped(gaussians: Activated) -> Activated:
    """The same Gaussians where y and z point the other way. Each harmonic is even or odd in that."""
    before, after = np.transpose(sh_polynomials(3, np.array([1.0, 1.0]), np.array([2.0, -2.0]), np.array([4.0, -4.0])))
    signs = np.sign(before * after)[: gaussians.sh.shape[1]]
    means, quats, scales, opacities, sh = gaussians
    return Activated(means * _FLIP, quats * np.append(1, _FLIP), scales, opacities, sh * signs[:, None])


def _packed(quats: Float[np.ndarray, "N 4"]) -> UInt8[np.ndarray, "N 4"]:
    """32 bits: which of x, y, z, w is the largest, which is made positive, then sign and size of the others."""
    largest, smaller = reduced(np.roll(quats, -1, axis=1))
    codes = np.rint(np.abs(smaller) * _COMPONENT).astype(np.int64) | (smaller < 0) << 9
    words = largest << 30 | (codes << _PLACES).sum(axis=1)
    return np.asarray(words.astype("<u4").view(np.uint8).reshape(-1, 4))


def _unpacked(data: UInt8[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    words = data.view("<u4").astype(np.int64)
    codes = words >> _PLACES
    return np.roll(completed(words[:, 0] >> 30, (codes & 511) / _COMPONENT * np.where(codes & 512, -1, 1)), 1, axis=1)


def read_spz(path: Path) -> Splats:
    """The Gaussians of a file in its order, at most `COUNT_LIMIT`; of degree 4 the highest band is left out."""
    data = path.read_bytes()
    head, sections = (_from_streams if data[:4] == b"NGSP" else _from_gzip)(path, data)
    if head.degree > 3:
        _log.warning("%s has colours of degree 4; those up to degree 3 are read.", path)
    parts = zip(sections, head.shapes, strict=True)
    arrays = (np.frombuffer(section, np.uint8).reshape(head.count, *shape) for section, shape in parts)
    fixed, alphas, colors, log_scales, rotations, higher = arrays
    means = (np.pad(fixed, ((0, 0), (0, 0), (1, 0))).view("<i4")[..., 0] >> 8) * 2.0**-head.bits
    w_is_missing = np.zeros(len(means), np.int64)
    quats = completed(w_is_missing, rotations / 127.5 - 1) if head.version == 2 else _unpacked(rotations)
    sh = np.concatenate([(colors[:, None] / 255 - 0.5) / _COLOR_SCALE, higher[:, :15] / 128 - 1], axis=1)
    return deactivate(_flipped(Activated(means, quats, np.exp(log_scales / 16 - 10), alphas / 255, sh)))


def _from_gzip(path: Path, data: bytes) -> tuple[_Header, list[bytes]]:
    inflater = zlib.decompressobj(wbits=_GZIP)
    try:
        head = _header(path, inflater.decompress(data, _HEADER.size), (2, 3))
        body = inflater.decompress(inflater.unconsumed_tail, sum(head.sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"{path} is not an SPZ file, or is damaged ({error}).") from error
    sections = [body[start:end] for start, end in pairwise(accumulate(head.sizes, initial=0))]
    return head, _whole(path, head, sections, inflater.eof and len(body) == sum(head.sizes))


def _from_streams(path: Path, data: bytes) -> tuple[_Header, list[bytes]]:
    """What version 4 holds, each attribute in a zstd frame of its own; before the table stand vendors' extensions."""
    head = _header(path, data[: _HEADER.size], (4,))
    stored = [size for size in head.sizes if size]
    (place,) = _TABLE.unpack_from(data.ljust(_HEADER.size + _TABLE.size, b"\0"), _HEADER.size)
    table = data[place : place + 16 * len(stored)]
    if head.streams != len(stored) or len(table) < 16 * len(stored) or max(stored) > 1024 * len(data):
        # a byte becomes 1024 at most, for Niantic too
        _whole(path, head, [], False)
    if head.flags & _EXTENDED:
        _log.warning("%s has extensions of its vendor, which are left out.", path)
    ends = accumulate(struct.unpack(f"<{2 * len(stored)}Q", table)[::2], initial=place + len(table))
    try:
        frames = zip(pairwise(ends), stored, strict=True)
        readers = ((zstandard.ZstdDecompressor().stream_reader(data[start:end]), size) for (start, end), size in frames)
        streams = [reader.read(size + 1) for reader, size in readers]
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} is a damaged SPZ file ({error}).") from error
    streams += [b""] * (len(head.sizes) - len(stored))  # of degree 0 the last one has no bytes
    return head, _whole(path, head, streams, True)


def _header(path: Path, data: bytes, versions: tuple[int, ...]) -> _Header:
    require(len(data) == _HEADER.size and data[:4] == b"NGSP", f"{path} is not an SPZ file.")
    head = _Header(*_HEADER.unpack(data)[1:])
    known = head.version in versions and head.degree <= 4 and head.bits <= _BITS_LIMIT
    if not known or (head.version < 4 and head.flags & _EXTENDED):
        kind = f"version {head.version}, degree {head.degree}, {head.bits} fractional bits, flags {head.flags}"
        raise ValueError(f"{path} is an SPZ file of a kind that asdkit does not read: {kind}.")
    require(head.count > 0, f"{path} has no Gaussians.")
    require(head.count <= COUNT_LIMIT, f"{path} promises {head.count} Gaussians; at most {COUNT_LIMIT} are read.")
    return head


def _whole(path: Path, head: _Header, sections: list[bytes], ended: bool) -> list[bytes]:
    if not ended or list(map(len, sections)) != head.sizes:
        raise ValueError(f"{path} is truncated, or does not hold the {head.count} Gaussians that its header promises.")
    return sections
