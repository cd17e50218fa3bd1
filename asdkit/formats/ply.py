"""PLY files: 3D Gaussian splats in the layout of the original 3DGS code, and point clouds. Needs numpy only.

A file comes from anywhere, so counts are compared with the file's size before anything is allocated, and whatever is
wrong is told in one sentence (a ValueError that names the file).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from asdkit.core.atomic import write_bytes
from asdkit.formats.splats import FLOAT_LIMIT, Splats, check

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER_LIMIT = 1 << 16  # bytes


class PointCloud(NamedTuple):
    """Points in world units [N,3], and their colours in [0,1] [N,3] or None."""

    points: Float32[np.ndarray, "N 3"]
    colors: Float32[np.ndarray, "N 3"] | None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: dict[str, str]  # name -> numpy type without byte order, in the file's order
    has_lists: bool


@dataclass(frozen=True)
class Header:
    """What a PLY file says about itself; `vertex` names the properties of its vertices."""

    path: Path
    encoding: str
    offset: int
    elements: tuple[_Element, ...]

    @property
    def vertex(self) -> frozenset[str]:
        """Names of the vertices' properties."""
        return frozenset(self.elements[0].properties)

    @property
    def is_splats(self) -> bool:
        """Whether the vertices are Gaussians."""
        return {"opacity", "scale_0", "rot_0"} <= self.vertex

    @property
    def is_mesh(self) -> bool:
        """Whether there are faces."""
        return any(element.name == "face" and element.count > 0 for element in self.elements)


def read_header(path: str | Path) -> Header:
    """Reads and checks the head of a PLY file.

    Raises:
        ValueError: not a PLY file, not in the order vertices first, or larger on paper than on disk.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(_HEADER_LIMIT)
    if start[:4] not in (b"ply\n", b"ply\r"):
        raise ValueError(f"{path} is not a PLY file: it does not start with the line 'ply'.")
    for ending in (b"end_header\n", b"end_header\r\n"):
        head, found, _ = start.partition(ending)
        if found:
            break
    else:
        raise ValueError(f"{path} has no 'end_header' line within its first {_HEADER_LIMIT} bytes.")
    encoding, elements = _parse_header(path, head.decode("ascii", errors="replace").splitlines()[1:])
    header = Header(path, encoding, len(head) + len(found), elements)
    _check_size(header)
    return header


def _parse_header(path: Path, lines: list[str]) -> tuple[str, tuple[_Element, ...]]:
    encoding, elements = "", []
    for line in lines:
        match line.split():
            case ["comment" | "obj_info", *_] | []:
                continue
            case ["format", name, "1.0"] if name in _ORDERS:
                encoding = name
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(_Element(name, int(count), {}, False))
            case ["property", "list", counts, items, _] if elements and counts in _TYPES and items in _TYPES:
                elements[-1] = _Element(elements[-1].name, elements[-1].count, elements[-1].properties, True)
            case ["property", kind, name] if elements and kind in _TYPES and name not in elements[-1].properties:
                elements[-1].properties[name] = _TYPES[kind]
            case _:
                raise ValueError(f"{path} has a line in its PLY header that cannot be understood: {line[:80]!r}.")
    if not encoding:
        raise ValueError(f"{path} does not say its PLY format in the header.")
    if not elements or elements[0].name != "vertex" or elements[0].has_lists:
        raise ValueError(f"{path} does not begin with vertices of plain numbers.")
    return encoding, tuple(elements)


def _check_size(header: Header) -> None:
    """Compares what the header promises with the bytes that are there: at least one per number or list."""
    available = header.path.stat().st_size - header.offset
    needed = 0
    for element in header.elements:
        if header.encoding == "ascii":
            row = 2 * (len(element.properties) + element.has_lists) or 1
        else:
            row = sum(int(kind[1]) for kind in element.properties.values()) + element.has_lists
        needed += element.count * row
    if header.encoding == "ascii":
        needed -= 1  # the last line may lack its end
    if needed > available:
        raise ValueError(f"{header.path} is truncated: its header promises more than {available} bytes of data.")


def _read_vertices(header: Header, names: Sequence[str]) -> Float32[np.ndarray, "N P"]:
    """The named properties of all vertices as float32, checked to be finite."""
    vertex = header.elements[0]
    missing = [name for name in names if name not in vertex.properties]
    if missing:
        raise ValueError(f"{header.path} lacks the vertex property {missing[0]!r}.")
    if vertex.count == 0:
        raise ValueError(f"{header.path} has no vertices.")
    with header.path.open("rb") as file:
        file.seek(header.offset)
        if header.encoding == "ascii":
            table = _read_ascii(header, file)
        else:
            order = _ORDERS[header.encoding]
            record = np.dtype([(name, order + kind) for name, kind in vertex.properties.items()])
            table = np.frombuffer(file.read(record.itemsize * vertex.count), dtype=record)
    values = np.empty((vertex.count, len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        source = table[name]
        if not (np.isfinite(source) & (np.abs(source.astype(np.float64)) < FLOAT_LIMIT)).all():
            raise ValueError(f"{header.path} has a value of {name!r} that is not a finite number of sensible size.")
        values[:, column] = source
    return values


def _read_ascii(header: Header, file) -> dict[str, np.ndarray]:
    vertex = header.elements[0]
    names = list(vertex.properties)
    try:
        table = np.loadtxt(file, dtype=np.float64, max_rows=vertex.count, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{header.path} has a vertex line that is not {len(names)} numbers.") from error
    if table.shape != (vertex.count, len(names)):
        raise ValueError(f"{header.path} does not hold {vertex.count} vertex lines of {len(names)} numbers each.")
    return {name: table[:, column] for column, name in enumerate(names)}


def read_ply(path: str | Path) -> Splats:
    """Reads a 3DGS file.

    Raises:
        ValueError: the file is broken, lacks a property or holds numbers that are not finite.
        FileNotFoundError: there is no such file.
    """
    header = read_header(path)
    rest = sum(name.startswith("f_rest_") for name in header.vertex)
    if rest not in (0, 9, 24, 45):
        raise ValueError(f"{path} has {rest} 'f_rest' properties; degrees 0 to 3 have 0, 9, 24 or 45.")
    values = _read_vertices(header, _splat_properties(rest, normals=False))
    means, dc, higher, opacity, log_scales, quats = np.split(values, np.cumsum([3, 3, rest, 1, 3]), axis=1)
    higher = higher.reshape(len(values), 3, rest // 3).transpose(0, 2, 1)
    splats = Splats(means, quats, log_scales, opacity[:, 0], np.concatenate([dc[:, None], higher], axis=1))
    check(splats, f"{path} has")
    return splats


def _splat_properties(rest: int, normals: bool) -> list[str]:
    """Property names in 3DGS's order; `f_rest` runs over all coefficients of red, then green, then blue."""
    names = ["x", "y", "z"] + ["nx", "ny", "nz"] * normals + ["f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{index}" for index in range(rest)]
    return names + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def write_ply(path: str | Path, splats: Splats) -> None:
    """Writes a 3DGS file (binary, little endian) that common viewers open.

    Raises:
        ValueError: there are no Gaussians, or values that are not sensible.
    """
    check(splats, f"{path} was not written, as it would have")
    count, coefficients = splats.sh.shape[:2]
    higher = splats.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (coefficients - 1))
    columns = (
        splats.means, np.zeros_like(splats.means), splats.sh[:, 0], higher,
        splats.opacity_logits[:, None], splats.log_scales, splats.quats,
    )  # fmt: skip
    values = np.concatenate(columns, axis=1).astype("<f4")
    names = _splat_properties(higher.shape[1], normals=True)
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in names] + ["end_header", ""]
    write_bytes(Path(path), "\n".join(lines).encode() + values.tobytes())


def read_points(path: str | Path) -> PointCloud:
    """Reads the vertices of a PLY file, ascii or binary, with their colours (red, green, blue) if it has any.

    Raises:
        ValueError: the file is broken, has no vertices or holds numbers that are not finite.
        FileNotFoundError: there is no such file.
    """
    header = read_header(path)
    if not {"red", "green", "blue"} <= header.vertex:
        return PointCloud(_read_vertices(header, ["x", "y", "z"]), None)
    values = _read_vertices(header, ["x", "y", "z", "red", "green", "blue"])
    is_integer = header.elements[0].properties["red"][0] in "iu"
    colors = values[:, 3:] / np.float32(255) if is_integer else values[:, 3:]
    return PointCloud(values[:, :3], colors.clip(0, 1))
