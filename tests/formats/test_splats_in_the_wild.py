"""Files of Gaussians as other programs write them: odd rows, infinite logits, discs, plain colours, packed numbers."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.splat_tools import SH_0, equal, glb_file, glb_parts, gsply, near, near_quats, splats

import asdkit
from asdkit.formats import ply
from asdkit.formats.mesh.sample import _SUFFIXES, sample_mesh
from asdkit.formats.pictures import FORMATS
from asdkit.formats.splat_files import _UNREAD, SUFFIXES, read_splats, write_splats
from asdkit.formats.splats import Splats
from asdkit.generators.gaussian_settings import Initial
from asdkit.generators.gaussians import object_of

NAN, MARK = np.float32(np.nan).tobytes(), np.float32(0.123).tobytes()


def table(path: Path, columns: dict[str, np.ndarray], before: list[str] = (), head: bytes = b"") -> Path:
    """A PLY file of vertices with these properties, after other elements: their header's lines and their bytes."""
    kinds = {"f4": "float", "u1": "uchar", "u2": "ushort", "f8": "double"}
    record = np.dtype([(name, values.dtype.str) for name, values in columns.items()])
    rows = np.empty(len(next(iter(columns.values()))), record)
    for name, values in columns.items():
        rows[name] = values
    lines = ["ply", "format binary_little_endian 1.0", *before, f"element vertex {len(rows)}"]
    lines += [f"property {kinds[values.dtype.str[1:]]} {name}" for name, values in columns.items()]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + head + rows.tobytes())
    return path


def columns(gaussians: Splats) -> dict[str, np.ndarray]:
    """The columns of a 3DGS file of degree 0."""
    named = {axis: gaussians.means[:, i] for i, axis in enumerate("xyz")}
    named |= {f"f_dc_{i}": gaussians.sh[:, 0, i] for i in range(3)} | {"opacity": gaussians.opacity_logits}
    named |= {f"scale_{i}": gaussians.log_scales[:, i] for i in range(3)}
    return named | {f"rot_{i}": gaussians.quats[:, i] for i in range(4)}


@pytest.mark.parametrize("suffix", [".ply", ".glb", ".splat"])
def test_one_row_in_a_hundred_may_be_odd(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    path, gaussians = tmp_path / f"a{suffix}", splats(count=200, degree=0)
    gaussians.means[[5, 77, 130], 1] = 0.123
    write_splats(path, gaussians)
    whole, content = read_splats(path), path.read_bytes()
    assert content.count(MARK) == 3 and not caplog.records
    path.write_bytes(content.replace(MARK, NAN, 2))
    kept = read_splats(path)
    assert "2 of 200 Gaussians are left out" in caplog.text and "'means'" in caplog.text
    rows = np.isin(np.arange(200), (whole.means[:, 1] == np.float32(0.123)).nonzero()[0][:2], invert=True)
    equal(kept, Splats(*(values[rows] for values in whole)))
    path.write_bytes(content.replace(MARK, NAN))
    with pytest.raises(ValueError, match="'means'"):
        read_splats(path)


@pytest.mark.parametrize(
    ("field", "value"), [("rot", 0.0), ("scale", np.inf), ("opacity", np.nan), ("f_dc", -np.inf), ("x", 1e31)]
)
def test_every_kind_of_odd_row_is_left_out(tmp_path: Path, field: str, value: float) -> None:
    gaussians = splats(count=100, degree=0)
    named = {name: values.copy() for name, values in columns(gaussians).items()}
    for name, values in named.items():
        if name.startswith(field):
            values[41] = value
    kept = read_splats(table(tmp_path / "a.ply", named))
    equal(kept, Splats(*(np.delete(values, 41, axis=0) for values in gaussians)))


def test_odd_points_and_odd_rotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = np.random.default_rng(0).normal(size=(300, 3)).astype("f4")
    points[7, 2] = np.nan
    cloud = ply.read_points(table(tmp_path / "a.ply", dict(zip("xyz", points.T, strict=True))))
    np.testing.assert_array_equal(cloud.points, np.delete(points, 7, axis=0))
    write_splats(tmp_path / "b.splat", splats(count=100, degree=0))
    content = bytearray((tmp_path / "b.splat").read_bytes())
    content[28:32] = bytes([128] * 4)  # the first record's rotation is none
    (tmp_path / "b.splat").write_bytes(content)
    assert len(read_splats(tmp_path / "b.splat").means) == 99
    assert "1 of 300 points" in caplog.text
    assert "1 of 100 Gaussians are left out, for they have a rotation" in caplog.text


def test_what_trainers_mean_by_infinity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A logit of +-infinity is an opacity of 1 or 0, a logarithm of -infinity a scale of 0; half the rows have them."""
    gaussians = splats(count=40, degree=0)
    gaussians.opacity_logits[:20:2], gaussians.opacity_logits[1:20:2] = np.inf, -np.inf
    gaussians.log_scales[10:30, 2] = -np.inf
    read = read_splats(table(tmp_path / "a.ply", columns(gaussians)))
    assert len(read.means) == 40 and all(np.isfinite(values).all() for values in read) and not caplog.records
    opacities, scales = 1 / (1 + np.exp(-read.opacity_logits.astype(float))), np.exp(read.log_scales.astype(float))
    np.testing.assert_allclose(opacities[:20:2], 1, atol=2e-6)
    np.testing.assert_allclose(opacities[1:20:2], 0, atol=2e-6)
    assert scales[10:30, 2].max() < 1e-30
    equal(Splats(*(values[30:] for values in read)), Splats(*(values[30:] for values in gaussians)))


def test_two_scales_are_discs_and_one_is_a_ball(tmp_path: Path) -> None:
    gaussians = splats(count=9, degree=0)
    named = columns(gaussians)
    del named["scale_2"]
    read = read_splats(table(tmp_path / "a.ply", named))
    np.testing.assert_array_equal(read.log_scales[:, :2], gaussians.log_scales[:, :2])
    thickness = np.exp(read.log_scales[:, 2]) / np.exp(gaussians.log_scales[:, :2]).min(axis=1)
    np.testing.assert_allclose(thickness, 0.01, rtol=1e-5)
    del named["scale_1"]
    ball = read_splats(table(tmp_path / "b.ply", named)).log_scales
    np.testing.assert_array_equal(ball, gaussians.log_scales[:, [0, 0, 0]])


@pytest.mark.parametrize(("kind", "white"), [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 1)])
@pytest.mark.parametrize("names", ["red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b"])
def test_plain_colours(tmp_path: Path, kind: str, white: int, names: str) -> None:
    gaussians = splats(count=9, degree=0)
    shares = np.random.default_rng(0).integers(0, 256, (9, 3)) / 255
    named = {name: values for name, values in columns(gaussians).items() if "f_dc" not in name}
    named |= {name: (shares[:, i] * white).round(6).astype(kind) for i, name in enumerate(names.split())}
    path = table(tmp_path / "a.ply", named)
    np.testing.assert_allclose(0.5 + SH_0 * read_splats(path).sh[:, 0], shares, atol=1e-6)
    np.testing.assert_allclose(ply.read_points(path).colors, shares, atol=1e-6)


def test_floats_without_a_known_white(tmp_path: Path) -> None:
    named = {name: values for name, values in columns(splats(count=9, degree=0)).items() if "f_dc" not in name}
    path = table(tmp_path / "a.ply", named | dict.fromkeys(["red", "green", "blue"], np.full(9, 200, "f4")))
    for read in (read_splats, ply.read_points):
        with pytest.raises(ValueError, match="colours in floats beyond 1"):
            read(path)


def test_mip_splattings_filter_is_in_scales_and_opacities(tmp_path: Path) -> None:
    """Variances add up, and an opacity falls by the square root of the determinants' ratio."""
    gaussians = splats(count=9, degree=0)
    widths = np.random.default_rng(0).uniform(0.01, 0.2, 9).astype("f4")
    read = read_splats(table(tmp_path / "a.ply", columns(gaussians) | {"filter_3D": widths}))
    before = np.exp(gaussians.log_scales.astype(float)) ** 2
    after = before + widths[:, None].astype(float) ** 2
    np.testing.assert_allclose(np.exp(read.log_scales), np.sqrt(after), rtol=1e-5)
    expected = np.sqrt(before.prod(1) / after.prod(1)) / (1 + np.exp(-gaussians.opacity_logits.astype(float)))
    np.testing.assert_allclose(1 / (1 + np.exp(-read.opacity_logits.astype(float))), expected, rtol=1e-4)


def test_gaussians_that_lack_a_property_are_no_points(tmp_path: Path) -> None:
    for lacking in ("opacity", "rot_0", "scale_0", "f_dc_1"):
        named = columns(splats(count=9, degree=0))
        del named[lacking]
        with pytest.raises(ValueError, match=f"lacks the vertex property '{lacking}'"):
            asdkit.Gaussians(str(table(tmp_path / "a.ply", named)))


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_gaussians_are_fitted(tmp_path: Path, count: int) -> None:
    """One has the ball's radius as its largest scale; of two, the one that isn't the median is at that distance."""
    path = table(tmp_path / "a.ply", columns(splats(count=count, degree=0)))
    fitted = asdkit.Gaussians(str(path), initial=Initial(radius=0.7, fit=True)).living()
    size = fitted.log_scales.exp().max() if count == 1 else fitted.means.norm(dim=1).max()
    assert size.item() == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("lists", [False, True])
def test_vertices_need_not_come_first(tmp_path: Path, lists: bool) -> None:
    gaussians = splats(count=6, degree=0)
    before, head = ["element camera 2", "property double fov", "property uchar id"], bytes(18)
    if lists:  # of two and of no items
        before, head = [*before, "element tag 2", "property list ushort int words"], head + b"\2\0" + bytes(8) + b"\0\0"
    equal(read_splats(table(tmp_path / "a.ply", columns(gaussians), before, head)), gaussians)
    text = "ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int i\nelement vertex 1\nproperty float x\n"
    (tmp_path / "b.ply").write_text(text + "property float y\nproperty float z\nend_header\n3 0 0 0\n1 2 3\n")
    assert ply.read_points(tmp_path / "b.ply").points.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="truncated"):
        read_splats(table(tmp_path / "c.ply", columns(gaussians), before, head[:-3]))


def test_a_fourth_degree_is_left_out_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gaussians, rest = splats(count=5, degree=3), np.random.default_rng(0).normal(size=(5, 3, 24)).astype("f4")
    rest[:, :, :15] = gaussians.sh[:, 1:].transpose(0, 2, 1)
    named = columns(gaussians) | {f"f_rest_{i}": values for i, values in enumerate(rest.reshape(5, 72).T)}
    equal(read_splats(table(tmp_path / "a.ply", named)), gaussians)
    assert "degree 4" in caplog.text


def _by_gsply(gaussians: Splats, path: Path) -> None:
    write_splats(path.with_name("plain.ply"), gaussians)
    gsply().plywrite(str(path), gsply().plyread(str(path.with_name("plain.ply"))), compressed=True)


def _by_gsplat(gaussians: Splats, path: Path) -> None:
    export = pytest.importorskip("gsplat.exporter").export_splats
    means, quats, log_scales, logits, sh = gaussians.tensors()
    norms = quats / quats.norm(dim=1, keepdim=True)
    export(means, log_scales, norms, logits, sh[:, :1], sh[:, 1:], format="ply_compressed", save_to=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("write", [_by_gsply, _by_gsplat])
def test_supersplats_packed_files(tmp_path: Path, write: Callable[[Splats, Path], None], degree: int) -> None:
    """As two other programs write them; their order is their own, and each number is within half its step."""
    path, gaussians = tmp_path / "a.compressed.ply", splats(count=600, degree=degree)
    write(gaussians, path)
    read = read_splats(path)
    assert len(read.means) == 600 and read.sh.shape == gaussians.sh.shape
    order = np.linalg.norm(read.means[:, None] - gaussians.means[None], axis=2).argmin(axis=1)
    assert sorted(order) == list(range(600))
    original = Splats(*(values[order] for values in gaussians))
    near(read.means, original.means, np.ptp(gaussians.means, axis=0).max() / 1023 / 2)
    near(read.log_scales, original.log_scales, np.ptp(gaussians.log_scales, axis=0).max() / 1023 / 2)
    near_quats(read.quats, original.quats, 2 * math.sqrt(2) / 1023)
    opacities = [1 / (1 + np.exp(-logits.astype(float))) for logits in (read.opacity_logits, original.opacity_logits)]
    near(*opacities, 0.5 / 255)
    near(read.sh[:, 0], original.sh[:, 0], np.ptp(gaussians.sh[:, 0], axis=0).max() / 255 / 2)
    near(read.sh[:, 1:], original.sh[:, 1:], 8 / 256 / 2)


def test_packed_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.compressed.ply"
    _by_gsply(splats(count=300, degree=0), path)
    content = path.read_bytes()
    for old, new in ((b"element chunk 2", b"element chunk 1"), (b"element chunk 2", b"element chink 2")):
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=r"a\.compressed\.ply"):
            read_splats(path)


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name, words in (
        ("a.ksplat", "GaussianSplats3D"),
        ("a.sog", "PlayCanvas"),
        ("A.PSHT", "Postshot"),
        ("a.pt", "another program"),
    ):
        (tmp_path / name).write_bytes(b"whatever")
        for read in (read_splats, object_of, lambda path: asdkit.Gaussians(str(path))):
            with pytest.raises(ValueError, match=f"{words}.*, which is not read; export its Gaussians as .ply"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_gaussian_splatting_compression_spz_2"]
)
def test_compressed_gltf_is_named(tmp_path: Path, extension: str) -> None:
    path = tmp_path / "a.glb"
    write_splats(path, splats(count=5))
    scene, blob = glb_parts(path)
    glb_file(path, scene | {"extensionsRequired": [extension]}, blob)
    for read in (read_splats, lambda path: sample_mesh(path, 10, 0.5, torch.Generator())):
        with pytest.raises(ValueError, match=f"a.glb is compressed by {extension}"):
            read(path)


def test_the_table_in_the_documents_is_whole() -> None:
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
    missing = [suffix for suffix in (*SUFFIXES, *_UNREAD, *_SUFFIXES) if f"`{suffix}`" not in text]
    assert missing == [] and [kind for kind in FORMATS if kind.lower() not in text.lower()] == []
