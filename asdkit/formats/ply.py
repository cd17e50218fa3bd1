"""PLY files: tables of numbers in text or binary, and point clouds; files come from anywhere, see `splat_files`."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float32

from asdkit.core.parts import require
from asdkit.formats.splats import FLOAT_LIMIT, ODD_SHARE

_log = logging.getLogger(__name__)
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_KIND = re.compile("(list {0} )?{0}".format(f"({'|'.join(_TYPES)})"))  # of a number, or of a list's length and items
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER_LIMIT = 1 << 16  # bytes
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_WHITES = {"f4": 1, "f8": 1, "u2": 65535}  # by a colour's type; 255 of others
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")  # of SuperSplat's compressed files


class PointCloud(NamedTuple):
    """Points in world units [N,3], and their colours in [0,1] [N,3] or None."""

    points: Float32[np.ndarray, "N 3"]
    colors: Float32[np.ndarray, "N 3"] | None


class _Element(NamedTuple):
    """Rows of a kind. A property is a numpy type without byte order, or two: of a list's length and of its items."""

    rows: int
    properties: dict[str, tuple[str, ...]]

    @property
    def has_lists(self) -> bool:
        return any(len(kinds) > 1 for kinds in self.properties.values())


@dataclass(frozen=True)
class Header:
    """What a PLY file says about itself."""

    path: Path
    encoding: str
    offset: int  # the bytes of the head
    lines: int  # those of the head
    elements: dict[str, _Element]  # by name, in the file's order

    @property
    def vertex(self) -> Mapping[str, tuple[str, ...]]:
        """The vertices' properties: their names, and their numpy types without byte order."""
        return self.elements["vertex"].properties

    @property
    def is_splats(self) -> bool:
        """Whether the vertices are Gaussians, whole or not."""
        return bool({"scale_0", "rot_0", "f_dc_0", PACKED[0]} & self.vertex.keys())

    @property
    def is_mesh(self) -> bool:
        """Whether there are faces."""
        return "face" in self.elements and self.elements["face"].rows > 0

    def table(self, name: str) -> dict[str, np.ndarray]:
        """The numbers of an element, by property; it must be there, and have neither no rows nor lists."""
        if name not in self.elements or not self.elements[name].rows:
            raise ValueError(f"{self.path} has no {'vertices' if name == 'vertex' else name}.")
        if self.elements[name].has_lists:
            raise ValueError(f"{self.path} has lists in its element {name!r}; plain numbers are read.")
        before = list(self.elements.values())[: list(self.elements).index(name)]
        count, properties = self.elements[name]
        if self.encoding == "ascii":
            past = self.lines + sum(element.rows for element in before)
            try:
                table = np.loadtxt(self.path, max_rows=count, ndmin=2, comments=None, skiprows=past, encoding="latin-1")
            except ValueError as error:
                raise ValueError(f"{self.path} has a {name} line that is not {len(properties)} numbers.") from error
            if table.shape != (count, len(properties)):
                raise ValueError(f"{self.path} does not hold {count} {name} lines of {len(properties)} numbers each.")
            return dict(zip(properties, table.T, strict=True))
        record = np.dtype([(key, _ORDERS[self.encoding] + kind) for key, (kind,) in properties.items()])
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for element in before:
                self._pass_over(element, file)
            content = file.read(record.itemsize * count)
        require(len(content) >= record.itemsize * count, f"{self.path} is truncated: it ends within its {name!r}.")
        rows = np.frombuffer(content, record)
        return {key: rows[key] for key in properties}

    def _pass_over(self, element: _Element, file: IO[bytes]) -> None:
        """Go to the end of an element; a file of lists is walked along, row by row."""
        if not element.has_lists:
            file.seek(element.rows * sum(int(kind[1]) for (kind,) in element.properties.values()), 1)
            return
        big = self.encoding == "binary_big_endian"
        for _ in range(element.rows):
            for kind, *items in element.properties.values():
                number = file.read(int(kind[1]))
                require(bool(number), f"{self.path} is truncated: it ends within a list.")
                for item in items:
                    file.seek(int.from_bytes(number, "big" if big else "little") * int(item[1]), 1)


def read_header(path: Path) -> Header:
    """Reads the head of a PLY file, which must have vertices and not be larger on paper than on disk."""
    with path.open("rb") as file:
        start = file.read(_HEADER_LIMIT)
    if not (line_end := re.match(rb"ply(\r\n|\r|\n)", start)):
        raise ValueError(f"{path} is not a PLY file: it does not start with the line 'ply'.")
    end = re.search(rb"[\r\n]end_header[ \t]*" + (b"\r" if line_end[1] == b"\r" else b"\r?\n"), start)
    if end is None:
        raise ValueError(f"{path} has no 'end_header' line within its first {_HEADER_LIMIT} bytes.")
    encoding, elements = _parse_header(path, start[: end.start()].decode("ascii", errors="replace").splitlines()[1:])
    header = Header(path, encoding, end.end(), len(re.findall(rb"\r\n?|\n", start[: end.end()])), elements)
    _check_size(header)
    return header


def _parse_header(path: Path, lines: list[str]) -> tuple[str, dict[str, _Element]]:
    encoding, elements = "", {}
    properties: dict[str, tuple[str, ...]] = {}
    for line in lines:
        match line.split():
            case ["comment" | "obj_info", *_] | []:
                continue
            case ["format", name, "1.0"] if name in _ORDERS:
                encoding = name
            case ["element", name, count] if re.fullmatch("[0-9]{1,18}", count) and name not in elements:
                properties = {}
                elements[name] = _Element(int(count), properties)
            case ["property", *kinds, name] if elements and name not in properties and _KIND.fullmatch(" ".join(kinds)):
                properties[name] = tuple(_TYPES[kind] for kind in kinds if kind != "list")
            case _:
                raise ValueError(f"{path} has a line in its PLY header that cannot be understood: {line[:80]!r}.")
    require(bool(encoding), f"{path} does not say its PLY format in the header.")
    require("vertex" in elements, f"{path} has no vertices.")
    return encoding, elements


def _check_size(header: Header) -> None:
    """Compares what the header promises with the bytes that are there: at least one per number or list."""
    held = header.path.stat().st_size - header.offset
    text = header.encoding == "ascii"
    needed = -1 if text else 0  # the last line may lack its end
    for count, properties in header.elements.values():
        row = 2 * len(properties) or 1 if text else sum(int(kinds[0][1]) for kinds in properties.values())
        needed += count * row
    require(needed <= held, f"{header.path} is truncated: its header promises more than {held} bytes of data.")


def columns(header: Header, names: Sequence[str], element: str = "vertex") -> Float32[np.ndarray, "N P"]:
    """The named properties of an element's rows; what is too large for a number of sensible size becomes NaN."""
    if missing := [name for name in names if name not in header.elements[element].properties]:
        raise ValueError(f"{header.path} lacks the {element} property {missing[0]!r}.")
    table = header.table(element)
    values = np.empty((header.elements[element].rows, len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        large = np.isfinite(table[name]) & (np.abs(table[name].astype(np.float64)) >= FLOAT_LIMIT)
        values[:, column] = np.where(large, np.nan, table[name])
    return values


def colours(header: Header) -> Float32[np.ndarray, "N 3"] | None:
    """The vertices' red, green and blue, 0 (black) to 1 (white), if there are any; large floats are a ValueError."""
    if (names := next((names for names in _COLOURS if set(names) <= header.vertex.keys()), None)) is None:
        return None
    values, white = columns(header, names), _WHITES.get(header.vertex[names[0]][0], 255)
    known = white > 1 or not (values > 2).any()  # a little beyond white is light
    require(known, f"{header.path} has colours in floats beyond 1; bytes, or floats within 0 and 1, are read.")
    return values / np.float32(white)


def read_points(path: Path) -> PointCloud:
    """The vertices of a PLY file and their colours, if any; one in a hundred may not be finite, and is left out."""
    header, names = read_header(path), ["x", "y", "z", "colour"]
    values, colors = columns(header, names[:3]), colours(header)
    if colors is not None:
        values = np.hstack([values, colors])
    finite = np.isfinite(values)
    odd = ~finite.all(1)
    if odd.sum() > ODD_SHARE * len(odd):
        name = names[min(int(finite.all(0).argmin()), 3)]
        raise ValueError(f"{path} has a value of {name!r} that is not a finite number of sensible size.")
    if odd.any():
        _log.warning("%s: %d of %d points are left out, for they are not finite.", path, odd.sum(), len(odd))
        values = values[~odd]
    return PointCloud(values[:, :3], None if colors is None else values[:, 3:].clip(0, 1))
