"""SPZ files, Niantic's compressed Gaussians: version 3 is written, 2 and 3 are read (both gzip).

SPZ's axes are right, up, back, where a PLY file's are by convention right, down, front. So y and z change their signs
on the way in and out, as they do in the usual converters: a file has the same Gaussians as the PLY file beside it.
"""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from asdkit.formats.splats import Activated, Splats, completed, deactivate, to_be_written, to_bytes
from asdkit.rendering.spherical_harmonics import sh_polynomials

COUNT_LIMIT = 10_000_000
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, degree, fractional bits, flags, reserved
_GZIP = 31  # zlib's name for gzip's container
_FIXED_LIMIT = 1 << 23  # positions have 24 bits
_BITS_LIMIT = 24  # fractional bits at most
_EXTENDED = 2  # the flag of files with vendors' extensions
_COLOR_SCALE = 0.15
_COMPONENT = 511 * math.sqrt(2)  # a quaternion's smaller components are at most sqrt(1/2); they have 9 bits and a sign
_PLACES = np.array([20, 10, 0])  # bits below each of them
_FLIP = np.array([1.0, -1.0, -1.0])


def encode_spz(path: Path, splats: Splats) -> bytes:
    """The Gaussians in their order, with the finest grid of positions that holds them.

    log-scales are clipped to [-10, 5.93], coefficients of degree 0 to +-3.33 and higher ones to [-1, 0.99].
    """
    means, quats, _, opacities, sh = _flipped(to_be_written(path, splats))
    count, degree = len(means), math.isqrt(sh.shape[1]) - 1
    largest = np.abs(means).max()
    for bits in range(_BITS_LIMIT, 0, -1):
        if np.rint(largest * 2**bits) < _FIXED_LIMIT:
            break
    else:
        raise ValueError(f"{path} was not written: an SPZ file holds positions up to 4 million, not {largest:.3g}.")
    fixed = np.rint(means * 2**bits).astype("<i4").view(np.uint8).reshape(count, 3, 4)[..., :3]
    sections = [
        fixed,
        to_bytes(255 * opacities),
        to_bytes(255 * (0.5 + _COLOR_SCALE * sh[:, 0])),
        to_bytes(16 * (splats.log_scales + np.float64(10))),
        _packed(quats),
        to_bytes(128 + 128 * sh[:, 1:]),
    ]
    head = _HEADER.pack(b"NGSP", 3, count, degree, bits, 0, 0)
    squeeze = zlib.compressobj(wbits=_GZIP)
    return squeeze.compress(head + b"".join(part.tobytes() for part in sections)) + squeeze.flush()


def _flipped(gaussians: Activated) -> Activated:
    """The same Gaussians where y and z point the other way. Each harmonic is even or odd in that."""
    before, after = np.transpose(sh_polynomials(3, np.array([1.0, 1.0]), np.array([2.0, -2.0]), np.array([4.0, -4.0])))
    signs = np.sign(before * after)[: gaussians.sh.shape[1]]
    means, quats, scales, opacities, sh = gaussians
    return Activated(means * _FLIP, quats * np.append(1, _FLIP), scales, opacities, sh * signs[:, None])


def _packed(quats: Float[np.ndarray, "N 4"]) -> UInt8[np.ndarray, "N 4"]:
    """32 bits: which of x, y, z, w is the largest, which is made positive, then sign and size of the others."""
    xyzw = np.roll(quats, -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1, 1)
    smaller = xyzw[np.arange(4) != largest[:, None]].reshape(-1, 3)
    codes = np.rint(np.abs(smaller) * _COMPONENT).astype(np.int64) | (smaller < 0) << 9
    words = largest << 30 | (codes << _PLACES).sum(axis=1)
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def _unpacked(data: UInt8[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    words = data.view("<u4").astype(np.int64)
    codes = words >> _PLACES
    smaller = (codes & 511) / _COMPONENT * np.where(codes & 512, -1, 1)
    return np.roll(completed(words[:, 0] >> 30, smaller), 1, axis=1)


def read_spz(path: Path) -> Splats:
    """The Gaussians of a file in its order, at most `COUNT_LIMIT`."""
    version, degree, bits, sections = _unzipped(path)
    fixed, alphas, colors, log_scales, rotations, higher = sections
    means = (np.pad(fixed, ((0, 0), (0, 0), (1, 0))).view("<i4")[..., 0] >> 8) * 2.0**-bits
    w_is_missing = np.zeros(len(means), np.int64)
    quats = _unpacked(rotations) if version == 3 else completed(w_is_missing, rotations / 127.5 - 1)
    sh = np.concatenate([(colors[:, None] / 255 - 0.5) / _COLOR_SCALE, higher / 128 - 1], axis=1)
    scales = np.exp(log_scales / 16 - 10)
    return deactivate(_flipped(Activated(means, quats, scales, alphas / 255, sh)))


def _unzipped(path: Path) -> tuple[int, int, int, list[UInt8[np.ndarray, "..."]]]:
    """Version, degree, fractional bits, and the bytes of each section in its shape."""
    data = path.read_bytes()
    if data[:4] == b"NGSP":
        raise ValueError(f"{path} is an SPZ file of version 4 or later; convert it to version 3.")
    inflater = zlib.decompressobj(wbits=_GZIP)
    try:
        head = inflater.decompress(data, _HEADER.size)
        if len(head) < _HEADER.size or head[:4] != b"NGSP":
            raise ValueError(f"{path} is not an SPZ file.")
        _, version, count, degree, bits, flags, _ = _HEADER.unpack(head)
        if version not in (2, 3) or degree > 3 or bits > _BITS_LIMIT or flags & _EXTENDED:
            raise ValueError(
                f"{path} is an SPZ file of a kind that asdkit does not read: version {version}, degree {degree}, "
                f"{bits} fractional bits, flags {flags}."
            )
        if count > COUNT_LIMIT:
            raise ValueError(f"{path} promises {count} Gaussians; at most {COUNT_LIMIT} are read.")
        shapes = [(3, 3), (), (3,), (3,), (3 if version == 2 else 4,), ((degree + 1) ** 2 - 1, 3)]
        sizes = [count * math.prod(shape) for shape in shapes]
        body = inflater.decompress(inflater.unconsumed_tail, sum(sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"{path} is not an SPZ file, or is damaged ({error}).") from error
    if len(body) != sum(sizes) or not inflater.eof:
        raise ValueError(f"{path} is truncated, or does not hold the {count} Gaussians that its header promises.")
    parts = np.split(np.frombuffer(body, np.uint8), np.cumsum(sizes)[:-1])
    return version, degree, bits, [part.reshape(count, *shape) for part, shape in zip(parts, shapes, strict=True)]
