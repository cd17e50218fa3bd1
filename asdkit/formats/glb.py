"""GLB files with Gaussians: glTF 2.0 with the ratified extension KHR_gaussian_splatting.

glTF's y points up and its front faces +z. A file's numbers are the world's as they are, and a node turns them.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from asdkit.core.parts import require
from asdkit.formats.pictures import linear_light
from asdkit.formats.splats import Activated, Splats, deactivate, rotated, to_be_written, to_bytes
from asdkit.rendering.projection import SH_0, rotation_entries

EXTENSION = "KHR_gaussian_splatting"
TO_GLTF = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # from z up, front +x to y up, front +z
_COLOR_SPACE = "srgb_rec709_display"
_JSON, _BIN = b"JSON", b"BIN\0"
_JSON_LIMIT = 1 << 22  # bytes
_SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}


def _names(degree: int) -> list[str]:
    """The attributes of rotation, scale, opacity and all coefficients."""
    coefficients = [f"SH_DEGREE_{band}_COEF_{n}" for band in range(degree + 1) for n in range(2 * band + 1)]
    return [f"{EXTENSION}:{name}" for name in ("ROTATION", "SCALE", "OPACITY", *coefficients)]


def encode_glb(path: Path, splats: Splats) -> bytes:
    """The Gaussians in their order; viewers that do not know the extension see coloured points."""
    means, quats, scales, opacities, sh = to_be_written(path, splats)
    seen = (0.5 + SH_0 * sh[:, 0]).clip(0, 1)
    colours = to_bytes(255 * np.column_stack([linear_light(seen), opacities]))  # COLOR_0 is linear, and has an alpha
    columns = [means, colours, np.roll(quats, -1, axis=1), scales, opacities, *sh.transpose(1, 0, 2)]
    names = ["POSITION", "COLOR_0", *_names(math.isqrt(sh.shape[1]) - 1)]
    arrays = dict(zip(names, (np.asarray(c, "u1" if c is colours else "<f4") for c in columns), strict=True))
    offset, views, accessors = 0, [], []
    for values in arrays.values():
        kind = {"componentType": 5121, "normalized": True} if values.dtype == "u1" else {"componentType": 5126}
        shape = {"count": len(values), "type": _SHAPES[values.size // len(values)]}
        accessors.append({"bufferView": len(views)} | kind | shape)
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": values.nbytes, "target": 34962})
        offset += values.nbytes
    low, high = (bound(arrays["POSITION"], axis=0).tolist() for bound in (np.min, np.max))
    accessors[0] |= {"min": low, "max": high}
    primitive = {"mode": 0, "attributes": {name: index for index, name in enumerate(arrays)}}
    primitive["extensions"] = {EXTENSION: {"kernel": "ellipse", "colorSpace": _COLOR_SPACE}}
    scene = {
        "asset": {"version": "2.0", "generator": "asdkit"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "rotation": [-0.5, -0.5, -0.5, 0.5]}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + offset) + struct.pack("<I4s", len(text), _JSON) + text
    return b"".join([head, struct.pack("<I4s", offset, _BIN), *(values.tobytes() for values in arrays.values())])


def read_glb(path: Path) -> Splats:
    """The one set of Gaussians of a file, where its node puts them, in the world's axes (z up, front +x)."""
    text, rest = _chunks(path)
    require(len(text) <= _JSON_LIMIT, f"{path} has a JSON part of {len(text)} bytes; at most {_JSON_LIMIT} are read.")
    scene, blob = _parsed(path, text), _binary(path, rest)
    try:
        primitive, node = _find(path, scene)
        placement = _placement(scene["nodes"], node)
        gaussians = _gaussians(path, scene, primitive, blob)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} has a glTF structure that is broken or not supported.") from error
    return _placed(path, deactivate(gaussians), placement)


def holds_gaussians(path: Path) -> bool:
    """Whether a GLB file speaks of Gaussians; meshes do not."""
    with path.open("rb") as file:
        head = file.read(20)
        return f'"{EXTENSION}"'.encode() in file.read(min(int.from_bytes(head[12:16], "little"), _JSON_LIMIT))


def read_scene(path: Path) -> Any:
    """The JSON of a `.glb` or `.gltf` file; a ValueError if it is broken, or its data are compressed."""
    return _parsed(path, path.read_bytes() if path.suffix.lower() == ".gltf" else _chunks(path)[0])


def _parsed(path: Path, text: bytes) -> Any:
    try:
        scene = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a JSON part that cannot be parsed.") from error
    required = scene.get("extensionsRequired") if isinstance(scene, dict) else None
    for name in required if isinstance(required, list) else ():
        if "compression" in str(name):
            raise ValueError(f"{path} is compressed by {str(name)[:60]}, which isn't read; export it uncompressed.")
    return scene


def _chunks(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    if len(data) < 20 or data[:4] != b"glTF" or data[4:8] != b"\2\0\0\0" or data[16:20] != _JSON:
        raise ValueError(f"{path} is not a GLB file of glTF 2.0.")
    total, length = struct.unpack("<II", data[8:16])
    if total > len(data) or 20 + length > len(data):
        raise ValueError(f"{path} is truncated: its header promises more than {len(data)} bytes.")
    return data[20 : 20 + length], data[20 + length :]


def _binary(path: Path, rest: bytes) -> bytes:
    length = int.from_bytes(rest[:4], "little")
    if len(rest) < 8 or rest[4:8] != _BIN or 8 + length > len(rest):
        raise ValueError(f"{path} has no binary part, or a truncated one.")
    return rest[8 : 8 + length]


def _find(path: Path, scene: Any) -> tuple[Any, int]:
    """The primitive with Gaussians and the index of the node that shows it. Every node and primitive is seen once."""
    gaussians = [[p for p in mesh["primitives"] if EXTENSION in p.get("extensions", {})] for mesh in scene["meshes"]]
    shown = [(_item(gaussians, node["mesh"]), index) for index, node in enumerate(scene["nodes"]) if "mesh" in node]
    count = sum(len(primitives) for primitives, _ in shown)
    require(count == 1, f"{path} must hold one set of Gaussians ({EXTENSION}), but holds {count}.")
    primitive, node = next((primitives[0], index) for primitives, index in shown if primitives)
    color_space = primitive["extensions"][EXTENSION].get("colorSpace", _COLOR_SPACE)
    if color_space != _COLOR_SPACE:
        raise ValueError(f"{path} has colours in the space {str(color_space)[:40]!r}; only {_COLOR_SPACE!r} is read.")
    return primitive, node


def _item(items: Any, index: Any) -> Any:
    return items[_number(index)]


def _number(value: Any) -> int:
    """A whole number that is not negative; anything else is a broken structure."""
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _gaussians(path: Path, scene: Any, primitive: Any, blob: bytes) -> Activated:
    attributes = primitive["attributes"]
    degree = max(band for band in range(4) if band == 0 or f"{EXTENSION}:SH_DEGREE_{band}_COEF_0" in attributes)
    names = ["POSITION", *_names(degree)]
    if missing := [name for name in names if name not in attributes]:
        raise ValueError(f"{path} lacks the attribute {missing[0]!r}.")
    widths = {names[1]: 4, names[3]: 1}  # rotation and opacity; the others have 3 numbers
    read = [_values(path, scene, attributes[name], widths.get(name, 3), blob) for name in names]
    means, xyzw, scales, opacities, *sh = read
    if {len(array) for array in (xyzw, scales, opacities, *sh)} != {len(means)}:
        raise ValueError(f"{path} has attributes of different lengths.")
    return Activated(means, np.roll(xyzw, 1, axis=1), scales, opacities[:, 0], np.stack(sh, axis=1))


def _values(path: Path, scene: Any, index: Any, width: int, blob: bytes) -> Float[np.ndarray, "N D"]:
    """What an accessor points at, as rows of `width` numbers."""
    accessor = _item(scene["accessors"], index)
    view, kind = _item(scene["bufferViews"], accessor["bufferView"]), np.dtype(_TYPES[accessor["componentType"]])
    count = _number(accessor["count"])
    start = _number(view.get("byteOffset", 0)) + _number(accessor.get("byteOffset", 0))
    stride = _number(view.get("byteStride", width * kind.itemsize))
    row, plain = width * kind.itemsize, "sparse" not in accessor and view["buffer"] == 0
    if not plain or accessor["type"] != _SHAPES[width] or stride < row:
        raise KeyError(index)
    if start + max(count - 1, 0) * stride + row > len(blob):
        raise ValueError(f"{path} is truncated: an attribute lies beyond its {len(blob)} bytes of data.")
    values = np.ndarray((count, width), kind, blob, start, (stride, kind.itemsize)).astype(np.float32)
    if accessor.get("normalized") and kind.kind != "f":
        values = (values / np.iinfo(kind).max).clip(-1)
    return values


def _placement(nodes: Any, index: int) -> Float[np.ndarray, "4 4"]:
    parents = {child: parent for parent, node in enumerate(nodes) for child in node.get("children", [])}
    matrix = _matrix(nodes[index])
    for _ in nodes:
        if index not in parents:
            return matrix
        index = parents[index]
        matrix = _matrix(nodes[index]) @ matrix
    raise KeyError(index)  # a node is its own ancestor


def _matrix(node: Any) -> Float[np.ndarray, "4 4"]:
    if "matrix" in node:
        return _vector(node["matrix"], 16).reshape(4, 4).T
    x, y, z, w = _vector(node.get("rotation", [0, 0, 0, 1]), 4)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(rotation_entries(w, x, y, z), (3, 3)) * _vector(node.get("scale", [1, 1, 1]), 3)
    matrix[:3, 3] = _vector(node.get("translation", [0, 0, 0]), 3)
    return matrix


def _vector(values: Any, length: int) -> Float[np.ndarray, " D"]:
    is_list = type(values) is list and len(values) == length
    if not is_list or not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):
        raise TypeError(values)
    return np.array(values, np.float64)


def _placed(path: Path, splats: Splats, placement: Float[np.ndarray, "4 4"]) -> Splats:
    linear, offset = TO_GLTF.T @ placement[:3, :3], TO_GLTF.T @ placement[:3, 3]
    if np.array_equal(linear, np.eye(3)) and not offset.any():
        return splats
    scale = np.cbrt(np.linalg.det(linear))
    if not (scale > 0 and np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-4 * scale**2)):
        raise ValueError(f"{path} has a node that mirrors, or does not scale all directions alike.")
    with np.errstate(invalid="ignore", over="ignore"):  # numbers that are not finite are looked for later
        splats = rotated(splats, linear / scale)
        means = (scale * splats.means + offset).astype(np.float32)
    return splats._replace(means=means, log_scales=(splats.log_scales + np.log(scale)).astype(np.float32))
