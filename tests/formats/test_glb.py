"""GLB files of Gaussians (KHR_gaussian_splatting), in others' programs and of others' making."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support import splat_tools as tools
from support.splat_tools import glb_file, glb_parts, near, near_quats, opacities, splat_transform, splats

from asdkit.formats.splat_files import read_splats, write_splats
from asdkit.formats.splats import Splats, rotated

EXTENSION = "KHR_gaussian_splatting"
BYTE = 0.5 / 255


@pytest.mark.parametrize("degree", range(4))
def test_glb_has_the_attributes_of_the_extension_and_comes_back(tmp_path: Path, degree: int) -> None:
    original = splats(degree=degree)
    write_splats(tmp_path / "a.glb", original)
    scene, _ = glb_parts(tmp_path / "a.glb")
    primitive = scene["meshes"][0]["primitives"][0]
    assert scene["extensionsUsed"] == [EXTENSION] and "extensionsRequired" not in scene and primitive["mode"] == 0
    assert primitive["extensions"][EXTENSION] == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    values = {name: np.array(rows) for name, rows in tools.glb_attributes(tmp_path / "a.glb").items()}
    np.testing.assert_array_equal(values.pop("POSITION"), original.means)
    near(values.pop(f"{EXTENSION}:SCALE"), np.exp(original.log_scales), 0)
    near(values.pop(f"{EXTENSION}:OPACITY")[:, 0], opacities(original), 0)
    w, *xyz = (original.quats / np.linalg.norm(original.quats, axis=1, keepdims=True)).T
    near(values.pop(f"{EXTENSION}:ROTATION"), np.transpose([*xyz, w]), 0)
    srgb = (0.5 + tools.SH_0 * original.sh[:, 0]).clip(0, 1)
    back = values["COLOR_0"][:, :3] / 255
    back = np.where(back <= 0.0031308, 12.92 * back, 1.055 * np.maximum(back, 1e-9) ** (1 / 2.4) - 0.055)  # to sRGB
    assert np.abs(back - srgb).max() < 12.92 * BYTE and np.abs((back - srgb)[srgb > 0.5]).max() < 2.4 * BYTE
    near(values.pop("COLOR_0")[:, 3] / 255, opacities(original), BYTE)
    names = [f"{EXTENSION}:SH_DEGREE_{band}_COEF_{n}" for band in range(degree + 1) for n in range(2 * band + 1)]
    assert list(values) == names
    np.testing.assert_array_equal(np.stack([values[name] for name in names], axis=1), original.sh)
    read = read_splats(tmp_path / "a.glb")
    np.testing.assert_array_equal(read.means, original.means)
    np.testing.assert_array_equal(read.sh, original.sh)
    near_quats(read.quats, original.quats, 0)
    near(read.log_scales, original.log_scales, 0)
    near(read.opacity_logits, original.opacity_logits, 1e-5)


@pytest.mark.parametrize("degree", [0, 3])
def test_glb_is_valid(tmp_path: Path, degree: int) -> None:
    """The validator does not know the extension, so its names are errors to it; by other names all must be right."""
    path = tmp_path / "a.glb"
    write_splats(path, splats(degree=degree))
    report = tools.validated(path)
    errors = [message for message in report["messages"] if message["severity"] == 0]
    assert {message["code"] for message in errors} <= {"MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
    assert all(message["pointer"].split("/")[-1].startswith(f"{EXTENSION}:") for message in errors)
    path.write_bytes(path.read_bytes().replace(b'"KHR_gaussian_splatting:', b'"_HR_GAUSSIAN_SPLATTING_'))
    report = tools.validated(path)
    assert (report["numErrors"], report["numWarnings"]) == (0, 0)
    assert [message["code"] for message in report["messages"]] == ["UNSUPPORTED_EXTENSION"]


def test_glb_of_splat_transform_is_read(tmp_path: Path) -> None:
    """Its world is glTF's, with a PLY file's x and y reversed; attributes of its file stand in that world already."""
    original = splats()
    write_splats(tmp_path / "a.ply", original)
    splat_transform(tmp_path / "a.ply", tmp_path / "b.glb")
    read = read_splats(tmp_path / "b.glb")
    expected = rotated(original, tools.UPRIGHT.T @ np.diag([-1.0, -1, 1]))
    np.testing.assert_allclose(read.means, (original.means * [-1, -1, 1])[:, [2, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(tools.covariances(read), tools.covariances(expected), atol=1e-7)
    np.testing.assert_allclose(read.sh, expected.sh, atol=1e-5)
    near(read.log_scales, original.log_scales, 0)
    near(read.opacity_logits, original.opacity_logits, 1e-5)


def test_glb_nodes_place_the_gaussians(tmp_path: Path) -> None:
    original = splats(degree=2)
    write_splats(tmp_path / "a.glb", original)
    scene, blob = glb_parts(tmp_path / "a.glb")
    inner, outer = Rotation.from_rotvec([0.3, -1.1, 0.7]), Rotation.from_rotvec([-2, 0.4, 0.1])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 1.5 * outer.as_matrix(), [4, 5, 6]
    scene["nodes"] = [
        {},
        {"mesh": 0, "rotation": inner.as_quat().tolist(), "scale": [2, 2, 2], "translation": [1, -2, 3]},
        {"children": [0, 1], "matrix": matrix.T.reshape(-1).tolist()},
    ]
    read = read_splats(glb_file(tmp_path / "b.glb", scene, blob))
    points = 1.5 * outer.apply(2 * inner.apply(original.means) + [1, -2, 3]) + [4, 5, 6]
    np.testing.assert_allclose(read.means, points @ tools.UPRIGHT, rtol=1e-5, atol=1e-5)
    expected = rotated(original, tools.UPRIGHT.T @ (outer * inner).as_matrix())
    np.testing.assert_allclose(tools.covariances(read), 9 * tools.covariances(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(read.sh, expected.sh, atol=1e-6)


def test_glb_with_small_numbers_side_by_side(tmp_path: Path) -> None:
    """What the extension allows beside floats: bytes and shorts, normalised or not, and rows that are interleaved."""
    row = struct.Struct("<3f 4b 4h 3B x 3H H B 3x 3f")
    rows = [
        (1, 2, 3, 127, -127, 64, -128, 32767, -32767, 16384, -32768, 1, 2, 255, 1, 2, 65535, 65535, 51, 0.1, 0.2, 0.3),
        (4, 5, 6, 0, 0, 0, 127, 0, 0, 0, 32767, 1, 1, 1, 3, 3, 3, 13107, 204, 0.4, 0.5, 0.6),
    ]
    blob = bytes(8) + b"".join(row.pack(*values) for values in rows)

    def read(rotation: tuple, scale: tuple, opacity: tuple) -> Splats:
        columns = {
            "POSITION": (0, 5126, "VEC3", False), f"{EXTENSION}:ROTATION": (*rotation, "VEC4", True),
            f"{EXTENSION}:SCALE": (*scale[:2], "VEC3", scale[2]), f"{EXTENSION}:OPACITY": (*opacity, "SCALAR", True),
            f"{EXTENSION}:SH_DEGREE_0_COEF_0": (40, 5126, "VEC3", False),
        }  # fmt: skip
        keys = ("bufferView", "count", "byteOffset", "componentType", "type", "normalized")
        attributes = {name: index for index, name in enumerate(columns)}
        extensions = {EXTENSION: {"kernel": "ellipse"}}
        scene = {
            "nodes": [{"mesh": 0, "rotation": [-0.5, -0.5, -0.5, 0.5]}],
            "meshes": [{"primitives": [{"mode": 0, "attributes": attributes, "extensions": extensions}]}],
            "bufferViews": [{"buffer": 0, "byteOffset": 8, "byteLength": len(blob) - 8, "byteStride": row.size}],
            "accessors": [dict(zip(keys, (0, 2, *column), strict=True)) for column in columns.values()],
        }
        return read_splats(glb_file(tmp_path / "a.glb", scene, blob))

    assert row.size == 52
    one = read((12, 5120), (24, 5121, False), (36, 5121))
    two = read((16, 5122), (28, 5123, True), (34, 5123))
    for result in (one, two):
        np.testing.assert_allclose(result.means, [[1, 2, 3], [4, 5, 6]])
        np.testing.assert_allclose(result.sh[:, 0], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], rtol=1e-6)
        np.testing.assert_allclose(result.quats, [[-1, 1, -1, 0.5], [1, 0, 0, 0]], atol=0.005)
    np.testing.assert_allclose([one.quats[0, 3], two.quats[0, 3]], [64 / 127, 16384 / 32767], rtol=1e-6)
    np.testing.assert_allclose(np.exp(one.log_scales), [[1, 2, 255], [1, 1, 1]], rtol=1e-5)
    np.testing.assert_allclose(np.exp(two.log_scales) * 65535, [[1, 2, 65535], [3, 3, 3]], rtol=1e-5)
    np.testing.assert_allclose([opacities(one), opacities(two)], [[0.2, 0.8], [1, 0.2]], rtol=1e-5)
