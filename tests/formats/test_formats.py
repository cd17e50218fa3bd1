"""Files of Gaussians, read by other people's programs; and Gaussians in a turned world."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from support.splat_tools import FLIP, SH_0, equal, gsply, near, near_quats, opacities, splat_transform, splats

from asdkit.formats.splat_files import SUFFIXES, read_splats, write_splats
from asdkit.formats.splats import Splats
from asdkit.formats.spz import encode_spz

# y and z change sign from SPZ's axes to PLY's; odd harmonics do: y z x | xy yz zz xz xx-yy | y xyz y z x z x
PARITY = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])
# Half a step of each format, for values inside its range. Of the components that SPZ stores of a quaternion, the
# largest moves with the others by at most sum(|q_i| / |q_L| * step) < 3 steps.
BYTE, SPZ_SCALE, SPZ_QUAT = 0.5 / 255, 0.5 / 16, 3.1 * 0.5 / (511 * math.sqrt(2))
SPLAT_QUAT = 1 / 128  # half a step, or a whole one at +1, which has no byte of its own


def spz_bits(gaussians: Splats) -> int:
    """The finest grid whose 24-bit numbers reach the furthest position."""
    return int(math.floor(math.log2(((1 << 23) - 0.5) / np.abs(gaussians.means).max())))


@pytest.mark.parametrize("degree", range(4))
def test_ply_is_exact_in_gsply(tmp_path: Path, degree: int) -> None:
    original = splats(degree=degree)
    write_splats(tmp_path / "a.ply", original)
    equal(read_splats(tmp_path / "a.ply"), original)
    read = gsply().plyread(tmp_path / "a.ply")
    sh = np.concatenate([read.sh0[:, None], *([read.shN] if degree else [])], axis=1)
    equal(Splats(read.means, read.quats, read.scales, read.opacities, sh), original)


def test_splat_bytes_by_a_slow_loop(tmp_path: Path) -> None:
    """The largest and most opaque come first; the order of equals stays."""
    original = splats(degree=2)
    original.sh[:, 0] *= 8  # so that colours are clipped at both ends
    original.log_scales[:30], original.opacity_logits[:30] = -3, np.arange(30) % 3
    records = []
    for mean, quat, log_scales, logit, sh in zip(*original, strict=True):
        scales, opacity = [math.exp(value) for value in log_scales], 1 / (1 + math.exp(-logit))
        color = [min(max(round(255 * (0.5 + SH_0 * float(value))), 0), 255) for value in sh[0]]
        norm = math.sqrt(sum(float(value) ** 2 for value in quat))
        rotation = [min(round(128 + 128 * float(value) / norm), 255) for value in quat]
        record = struct.pack("<6f8B", *mean, *scales, *color, round(255 * opacity), *rotation)
        records.append((math.prod(scales) * opacity, record))
    records.sort(key=lambda pair: -pair[0])
    write_splats(tmp_path / "a.splat", original)
    assert (tmp_path / "a.splat").read_bytes() == b"".join(record for _, record in records)


def test_splat_is_read_by_us_and_by_splat_transform(tmp_path: Path) -> None:
    original = splats(degree=1)
    write_splats(tmp_path / "a.splat", original)
    order = np.argsort(-np.exp(original.log_scales.sum(1)) * opacities(original))
    means, quats, log_scales, _, sh = (array[order] for array in original)
    ours = read_splats(tmp_path / "a.splat")
    splat_transform(tmp_path / "a.splat", tmp_path / "b.ply")
    theirs = read_splats(tmp_path / "b.ply")
    for read in (ours, theirs):
        np.testing.assert_array_equal(read.means, means)
        near(read.log_scales, log_scales, 0)
        near(opacities(read), opacities(original)[order], BYTE)
        near(SH_0 * read.sh, SH_0 * sh[:, :1], BYTE)
    near(ours.sh, theirs.sh, 0)
    near(ours.opacity_logits, theirs.opacity_logits, 0)
    np.testing.assert_array_equal(128 * ours.quats, np.rint(128 * ours.quats))
    near_quats(ours.quats, quats, 2 * SPLAT_QUAT)  # twice, as rounding also changes the norm
    near_quats(theirs.quats, quats, 3 * SPLAT_QUAT)  # its zero is at 127.5 instead of 128


def spz_parts(data: bytes) -> tuple[bytes, list[bytes]]:
    """The header of a file of version 4 and its streams, by the book."""
    head, place = data[:32], int.from_bytes(data[16:20], "little")
    sizes = np.frombuffer(data, "<u8", 2 * head[15], place).reshape(-1, 2).tolist()
    place, streams = place + 16 * len(sizes), []
    for packed, size in sizes:
        streams.append(zstandard.ZstdDecompressor().decompress(data[place : place + packed]))
        assert len(streams[-1]) == size
        place += packed
    assert place == len(data)
    return head, streams


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_spz_has_the_bytes_of_gsply(tmp_path: Path, degree: int, version: int) -> None:
    original = splats(degree=degree)
    sh = original.sh * PARITY[: (degree + 1) ** 2, None].astype(np.float32)
    data = gsply().GSData.from_arrays(
        means=original.means * FLIP.astype(np.float32), scales=original.log_scales,
        quats=original.quats * np.float32([1, *FLIP]), opacities=original.opacity_logits,
        sh0=sh[:, 0], shN=sh[:, 1:], format="ply",
    )  # fmt: skip
    gsply().write_spz(tmp_path / "b.spz", data, version=version, fractional_bits=spz_bits(original))
    ours, theirs = encode_spz(tmp_path / "a.spz", original, version), (tmp_path / "b.spz").read_bytes()
    unpack = gzip.decompress if version == 3 else spz_parts
    assert unpack(ours) == unpack(theirs)


@pytest.mark.parametrize("degree", [0, 3])
def test_spz_of_version_4_is_that_of_version_3_and_is_read_by_niantics_library(tmp_path: Path, degree: int) -> None:
    """The header by hand; without higher degrees there are five streams. splat-transform reads with Niantic's code."""
    original = splats(degree=degree)
    write_splats(tmp_path / "a.spz", original)
    (tmp_path / "b.spz").write_bytes(encode_spz(tmp_path / "b.spz", original, version=3))
    head, streams = spz_parts((tmp_path / "a.spz").read_bytes())
    count = 6 if degree else 5
    assert head == struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 40, degree, spz_bits(original), 0, count, 32)
    assert b"".join(streams) == gzip.decompress((tmp_path / "b.spz").read_bytes())[16:] and len(streams) == count
    ours = read_splats(tmp_path / "a.spz")
    equal(ours, read_splats(tmp_path / "b.spz"))
    splat_transform(tmp_path / "a.spz", tmp_path / "c.ply")
    theirs = read_splats(tmp_path / "c.ply")
    for read, ours_read in zip(theirs, ours, strict=True):
        near(read, ours_read, 1e-6)


@pytest.mark.parametrize("version", [3, 4])
def test_spz_of_others_is_read(tmp_path: Path, version: int) -> None:
    original = splats()
    write_splats(tmp_path / "a.ply", original)
    splat_transform("--spz-version", version, tmp_path / "a.ply", tmp_path / "a.spz")
    read = read_splats(tmp_path / "a.spz")
    near(read.means, original.means, 0.5**12 / 2)
    near_quats(read.quats, original.quats, SPZ_QUAT)
    near(read.log_scales, original.log_scales, SPZ_SCALE)
    near(opacities(read), opacities(original), BYTE)
    near(read.sh[:, 0], original.sh[:, 0], BYTE / 0.15)
    near(read.sh[:, 1:4], original.sh[:, 1:4], (8 / 2 + 0.5) / 128)  # it keeps 5 bits of degree 1, 4 of the others
    near(read.sh[:, 4:], original.sh[:, 4:], (16 / 2 + 0.5) / 128)


def test_spz_of_degree_4_and_with_extensions_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A vendor's records stand between header and table. What is of degree 4 is left out."""
    original = splats()
    head, streams = spz_parts(encode_spz(tmp_path / "a.spz", original))
    higher = np.frombuffer(streams[5], np.uint8).reshape(40, 45)
    streams[5] = np.pad(higher, ((0, 0), (0, 27)), constant_values=9).tobytes()
    packed = [zstandard.ZstdCompressor().compress(stream) for stream in streams]
    table = b"".join(struct.pack("<QQ", len(small), len(stream)) for small, stream in zip(packed, streams, strict=True))
    records = struct.pack("<IIf", 7, 4, 1.5)
    head = head[:12] + bytes([4, head[13], 2, 6]) + struct.pack("<I12x", 32 + len(records))
    (tmp_path / "b.spz").write_bytes(b"".join([head, records, table, *packed]))
    write_splats(tmp_path / "a.spz", original)
    equal(read_splats(tmp_path / "b.spz"), read_splats(tmp_path / "a.spz"))
    assert "b.spz has extensions of its vendor" in caplog.text and "b.spz has colours of degree 4" in caplog.text


def test_spz_of_version_2_is_read(tmp_path: Path) -> None:
    """One Gaussian by hand: the first three components of the quaternion are bytes around 127.5, and w follows."""
    position = b"".join(number.to_bytes(3, "little", signed=True) for number in (1 << 8, -(3 << 7), 5))
    rest = bytes([128, 192, 0, 64, 128, 128, 0, 1, 255])

    def read(rotation: list[int]) -> Splats:
        body = position + bytes([51, 204, 0, 255, 16, 160, 200, *rotation]) + rest
        (tmp_path / "a.spz").write_bytes(gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 2, 1, 1, 8, 1, 0) + body))
        return read_splats(tmp_path / "a.spz")

    one = read([127, 64, 191])
    near(one.means, [[1, 1.5, -5 / 256]], 0)
    x, y, z = 127 / 127.5 - 1, 64 / 127.5 - 1, 191 / 127.5 - 1
    near(one.quats, [[math.sqrt(1 - x * x - y * y - z * z), x, -y, -z]], 0)
    near(read([255, 0, 127]).quats, [[0, 1, 1, 0.5 / 127.5]], 0)
    near(one.log_scales, [[-9, 0, 2.5]], 0)
    near(opacities(one), [0.2], 0)
    near(one.sh[0, 0], [0.3 / 0.15, -0.5 / 0.15, 0.5 / 0.15], 0)
    near(one.sh[0, 1:], [[0, -0.5, 1], [0.5, 0, 0], [-1, -127 / 128, 127 / 128]], 0)


@pytest.mark.parametrize(
    ("furthest", "bits"),
    [(0.49, 24), (0.5, 23), (1 - 2**-23, 23), (1 - 2**-24, 22), (1, 22), (2047.9, 12), (2048, 11), (4194303, 1)],
)
def test_spz_takes_the_finest_grid_that_fits(tmp_path: Path, furthest: float, bits: int) -> None:
    original = splats()
    original.means.clip(-0.4, 0.4, out=original.means)
    original.means[3, 1] = -furthest
    write_splats(tmp_path / "a.spz", original)
    assert (tmp_path / "a.spz").read_bytes()[13] == bits
    near(read_splats(tmp_path / "a.spz").means, original.means, 0.5**bits / 2)


def test_spz_clips_what_it_cannot_hold(tmp_path: Path) -> None:
    original = splats(count=2, degree=1)
    original.log_scales[0] = [-400, 7, 0]
    original.sh[0, 0], original.sh[0, 2] = [9, -9, 0], [1.5, -1.5, 1]
    original.opacity_logits[:] = [40, -40]
    write_splats(tmp_path / "a.spz", original)
    read = read_splats(tmp_path / "a.spz")
    near(read.log_scales[0], [-10, 255 / 16 - 10, 0], 0)
    near(read.sh[0, 0], [0.5 / 0.15, -0.5 / 0.15, 0], BYTE / 0.15)
    near(read.sh[0, 2], [1, -127 / 128, 1], 0)
    near(opacities(read), [1, 0], 1e-6)


def test_opacities_and_scales_at_the_ends_of_float32(tmp_path: Path) -> None:
    original = splats(count=2, degree=0)
    original.opacity_logits[:], original.log_scales[0] = [700, -700], [-300, -80, 20]
    for suffix in (".splat", ".glb"):
        write_splats(tmp_path / f"a{suffix}", original)
        read = read_splats(tmp_path / f"a{suffix}")
        near(opacities(read), [1, 0], 1e-6)
        near(read.log_scales[0], [np.log(np.finfo(np.float32).tiny), -80, 20], 1e-4)


def test_the_suffix_tells_the_format(tmp_path: Path) -> None:
    assert SUFFIXES == (".ply", ".splat", ".spz", ".glb")
    for name in ("A.Spz", "b.spz"):
        write_splats(str(tmp_path / name), splats())
    equal(read_splats(str(tmp_path / "A.Spz")), read_splats(tmp_path / "b.spz"))
    for path in (tmp_path / "a.obj", tmp_path / "splat"):
        with pytest.raises(ValueError, match=r"must end in \.ply, \.splat, \.spz, \.glb, \.sog"):
            write_splats(path, splats())
        with pytest.raises(ValueError, match="must end in"):
            read_splats(path)
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            read_splats(tmp_path / f"none{suffix}")
