"""What the tests of formats share: random Gaussians, and programs of others that read the files."""

import json
import math
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from asdkit.formats.splats import Splats
from asdkit.rendering.cameras import Views
from asdkit.rendering.rasterize import rasterize

SH_0 = 0.5 * math.sqrt(1 / math.pi)
UPRIGHT = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # glTF's x, y, z are our y, z, x
FLIP = np.array([1, -1, -1])  # SPZ's axes against PLY's


def splats(count: int = 40, degree: int = 3, seed: int = 0) -> Splats:
    """Gaussians of a size and colour as in an object, with quaternions of any norm."""
    draws = np.random.default_rng(seed)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3)]
    means, quats, log_scales, logits, sh = (draws.normal(size=shape) for shape in shapes)
    arrays = 0.4 * means, quats, log_scales / 2 - 2.5, 1.5 * logits, sh * 0.25
    return Splats(*(array.astype(np.float32) for array in arrays))


def opacities(gaussians: Splats) -> np.ndarray:
    return 1 / (1 + np.exp(-gaussians.opacity_logits.astype(np.float64)))


def covariances(gaussians: Splats) -> np.ndarray:
    rotations = Rotation.from_quat(gaussians.quats[:, [1, 2, 3, 0]].astype(np.float64)).as_matrix()
    factors = rotations * np.exp(gaussians.log_scales.astype(np.float64))[:, None, :]
    return factors @ factors.transpose(0, 2, 1)


def equal(read: Splats, written: Splats) -> None:
    for ours, theirs in zip(read, written, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.float32


def near(read: np.ndarray, written: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(read, written, rtol=2e-6, atol=1.0001 * tolerance + 1e-7)


def near_quats(read: np.ndarray, written: np.ndarray, tolerance: float) -> None:
    """Unit quaternions of the same rotations: equal up to sign."""
    read, written = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (read, written))
    near(read * np.sign((read * written).sum(axis=1, keepdims=True)), written, tolerance)


def drawn(gaussians: Splats, views: Views) -> torch.Tensor:
    means, quats, log_scales, logits, sh = (torch.from_numpy(array.copy(order="C")) for array in gaussians)
    degree = math.isqrt(sh.shape[1]) - 1
    background = torch.tensor([0.2, 0.5, 0.9])
    shown = (means, quats, log_scales.exp(), logits.sigmoid(), sh, views, background)
    return rasterize(*shown, sh_degree=degree).image


def gsply() -> Any:
    """The library of that name, which is not compiled: its code runs once on few numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numba.config.DISABLE_JIT", True)
        return pytest.importorskip("gsply")


def node_modules(package: str) -> Path:
    """The folder that holds a package of node; the test is skipped where there is none."""
    given = os.environ.get("ASDKIT_NODE_MODULES")
    places = [Path(given)] if given else [folder / "node_modules" for folder in Path(__file__).resolve().parents]
    for place in places:
        if shutil.which("node") and (place / package).is_dir():
            return place
    pytest.skip(f"needs node and its package {package}: npm install {package}, or set ASDKIT_NODE_MODULES")


def splat_transform(*arguments: object) -> None:
    """Runs PlayCanvas's converter of files of Gaussians."""
    folder = node_modules("@playcanvas/splat-transform")
    command = ["node", folder / "@playcanvas/splat-transform/bin/cli.mjs", "-q", "-w", *arguments]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=200)


VALIDATE = """
const [folder, path] = process.argv.slice(1);
const validator = require(folder + '/gltf-validator');
validator.validateBytes(new Uint8Array(require('fs').readFileSync(path)), {maxIssues: 1000})
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def validated(path: Path) -> dict:
    """What Khronos's validator says of a GLB file."""
    command = ["node", "-e", VALIDATE, str(node_modules("gltf-validator")), str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=200).stdout)


def glb_parts(path: Path) -> tuple[dict, bytes]:
    """JSON and binary part, by the book."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, total, kind, length % 4) == (b"glTF", 2, len(data), b"JSON", 0)
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    assert kind == b"BIN\0" and 28 + length + size == total and size % 4 == 0
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def glb_file(path: Path, scene: object, blob: bytes) -> Path:
    text = scene if isinstance(scene, bytes) else json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(blob), len(text), b"JSON")
    path.write_bytes(head + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob)
    return path


def glb_attributes(path: Path) -> dict[str, list[tuple]]:
    """The values of all attributes of a file with one mesh, number by number."""
    scene, blob = glb_parts(path)
    result = {}
    for name, index in scene["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = scene["accessors"][index]
        view = scene["bufferViews"][accessor["bufferView"]]
        letter, width = {5126: "f", 5123: "H", 5121: "B"}[accessor["componentType"]], accessor["type"][-1]
        row = struct.Struct(f"<{ {'3': 3, '4': 4}.get(width, 1) }{letter}")
        assert view["byteOffset"] % 4 == 0 and view["byteLength"] == row.size * accessor["count"]
        start = view["byteOffset"] + accessor.get("byteOffset", 0)
        result[name] = [row.unpack_from(blob, start + i * row.size) for i in range(accessor["count"])]
    return result
