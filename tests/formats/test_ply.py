"""PLY files: the layout of 3DGS, point clouds, and files that want to do harm."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.splat_tools import equal, splats

from asdkit.formats import ply
from asdkit.formats.splat_files import read_splats, write_splats


def write(path: Path, properties: list[str], body: bytes, count: object, encoding: str = "ascii") -> Path:
    lines = ["ply", f"format {encoding} 1.0", "comment made by a test", f"element vertex {count}"]
    lines += [f"property {line}" for line in properties] + ["end_header", ""]
    path.write_bytes("\n".join(lines).encode() + body)
    return path


XYZ = ["float x", "float y", "float z"]
RGB = ["uchar red", "uchar green", "uchar blue"]


def test_splats_are_laid_out_as_inria_does(tmp_path: Path) -> None:
    original = splats(count=2, degree=1)
    write_splats(tmp_path / "a.ply", original)
    content = (tmp_path / "a.ply").read_bytes()
    head, body = content.split(b"end_header\n")
    lines = head.decode().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 2"]
    assert names == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest,
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    means, quats, log_scales, logit, sh = (values[1].ravel().tolist() for values in original)
    higher = original.sh[1, 1:].T.ravel().tolist()  # all of red first
    row = np.frombuffer(body, "<f4").reshape(2, -1)[1].tolist()
    assert row == [*means, 0, 0, 0, *sh[:3], *higher, *logit, *log_scales, *quats]


def test_properties_are_found_by_name_among_others_and_comments(tmp_path: Path) -> None:
    original = splats(count=3, degree=0)
    write_splats(tmp_path / "a.ply", original)
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property")]
    table = np.frombuffer(body, "<f4").reshape(3, -1)
    names, table = [*names, "scale_factor", "f_rest_of_it"], np.column_stack([table, table[:, :2]])
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = table[:, order].astype(">f8")
    properties = [f"double {names[i]}" for i in order]
    properties[3:3] = ["double label\ncomment after this comes no end_header\nobj_info 1"]
    shuffled = np.insert(shuffled, 3, 7, axis=1).astype(">f8")
    path = write(tmp_path / "b.ply", properties, shuffled.tobytes(), 3, "binary_big_endian")
    equal(read_splats(path), original)


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_points_with_and_without_colours(tmp_path: Path, encoding: str) -> None:
    points = np.array([[1, 2, 3], [-4, 5.5, 6], [0, 0, 1e-3]])
    colors = np.array([[255, 0, 51], [1, 2, 3], [128, 128, 0]])
    order = ">" if "big" in encoding else "<"
    record = np.dtype([(name, order + "f4") for name in "xyz"] + [(name, "u1") for name in "rgb"])
    table = np.array([(*p, *c) for p, c in zip(points, colors, strict=True)], dtype=record)
    text = "\n".join(" ".join(str(value) for value in row) for row in table.tolist()) + "\n"
    body = text.encode() if encoding == "ascii" else table.tobytes()
    more = b"7 7 7 7 7 7\n" if encoding == "ascii" else bytes(2 * record.itemsize)  # what follows the vertices
    cloud = ply.read_points(write(tmp_path / "a.ply", XYZ + RGB, body + more, 3, encoding))
    np.testing.assert_allclose(cloud.points, points, rtol=1e-6)
    np.testing.assert_allclose(cloud.colors, colors / 255, rtol=1e-6)
    plain = points.astype(order + "f4").tobytes() if encoding != "ascii" else b"1 2 3\n-4 5.5 6\n0 0 1e-3"
    cloud = ply.read_points(write(tmp_path / "b.ply", XYZ, plain, 3, encoding))
    np.testing.assert_allclose(cloud.points, points, rtol=1e-6)
    assert cloud.colors is None


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_float_colours_in_text_with_any_line_ends(tmp_path: Path, line_end: bytes) -> None:
    properties = [*XYZ, "float red", "float green", "float blue"]
    path = write(tmp_path / "a.ply", properties, b"1 2 3 0.5 1.5 -1\n4 5 6 1 1 1", 2)
    path.write_bytes(path.read_bytes().replace(b"\n", line_end))
    cloud = ply.read_points(path)
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]] and cloud.colors.tolist() == [[0.5, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_binary_numbers_begin_right_after_the_header(tmp_path: Path, line_end: bytes) -> None:
    """The first byte of the first number is that of a line's end."""
    numbers = np.frombuffer(b"\n\r\n\r" + bytes(8), "<f4")
    path = write(tmp_path / "a.ply", XYZ, b"", 1, "binary_little_endian")
    path.write_bytes(path.read_bytes().replace(b"\n", line_end) + numbers.tobytes())
    np.testing.assert_array_equal(ply.read_points(path).points[0], numbers)


def test_faces_are_told_from_points(tmp_path: Path) -> None:
    faces = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    path = write(tmp_path / "a.ply", XYZ, b"0 0 0\n1 0 0\n0 1 0\n", 3)
    assert not ply.read_header(path).is_mesh
    path.write_bytes(path.read_bytes().replace(b"end_header\n", faces) + b"3 0 1 2\n")
    assert ply.read_header(path).is_mesh and not ply.read_header(path).is_splats
    assert len(ply.read_points(path).points) == 3


TWELVE, BINARY = np.arange(3, dtype="<f4").tobytes(), "binary_little_endian"
HOSTILE = {
    "huge count": (XYZ, TWELVE, 10**17, BINARY, "truncated"),
    "absurd count": (XYZ, TWELVE, "9" * 400, BINARY, "cannot be understood"),
    "huge count in text": (XYZ, b"1 2 3\n", 10**15, "ascii", "truncated"),
    "negative count": (XYZ, TWELVE, -1, BINARY, "cannot be understood"),
    "no count": (XYZ, TWELVE, "many", "ascii", "cannot be understood"),
    "zero count": (XYZ, b"", 0, "ascii", "no vertices"),
    "truncated": (XYZ, TWELVE[:-1], 1, BINARY, "truncated"),
    "truncated text": (XYZ, b"1 2 3\n4 5 6", 3, "ascii", "truncated"),
    "short line": (XYZ, b"1 2 3\n4 5\n666666", 2, "ascii", "vertex line"),
    "missing lines": (XYZ, b"1.000 2.000 3.000\n", 2, "ascii", "2 vertex lines"),
    "words": (XYZ, b"one two three\n", 1, "ascii", "vertex line"),
    "binary text": (XYZ, b"\xff\xfe\x00\x01\x02\x03\n", 1, "ascii", "vertex line"),
    "nan": (XYZ, np.array([0, np.nan, 0], "<f4").tobytes(), 1, BINARY, "'y'"),
    "infinity": (XYZ, np.array([np.inf, 0, 0], "<f4").tobytes(), 1, BINARY, "'x'"),
    "too large": ([XYZ[0], XYZ[1], "double z"], b"0 0 1e300\n", 1, "ascii", "'z'"),
    "nan in text": (XYZ, b"0 0 nan\n", 1, "ascii", "'z'"),
    "no z": (XYZ[:2], b"0 0\n", 1, "ascii", "lacks the vertex property 'z'"),
    "twice x": ([*XYZ, "float x"], b"0 0 0 0\n", 1, "ascii", "cannot be understood"),
    "list in vertex": ([*XYZ, "list uchar int more"], b"0 0 0 0\n", 1, "ascii", "plain numbers"),
    "unknown type": ([*XYZ, "quaternion q"], b"0 0 0 0\n", 1, "ascii", "cannot be understood"),
    "unknown format": (XYZ, b"0 0 0\n", 1, "hexadecimal", "cannot be understood"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_broken_points_give_one_sentence(tmp_path: Path, case: str) -> None:
    properties, body, count, encoding, message = HOSTILE[case]
    path = write(tmp_path / "hostile.ply", properties, body, count, encoding)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        ply.read_points(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "hostile.ply" in str(caught.value) and "\n" not in str(caught.value)
    assert peak < 10_000_000
