"""Gaussians that start from meshes: where files put their surfaces, and which colours they have there."""

import math
import sys
import time
from itertools import accumulate, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.splat_tools import glb_file

from asdkit import Gaussians, Initial
from asdkit.formats.mesh.extract import Mesh
from asdkit.formats.mesh.sample import sample_mesh
from asdkit.formats.mesh.write import Texture, write_mesh

trimesh = pytest.importorskip("trimesh")
RADIUS = math.sqrt(1 + 0.36 + 0.16)  # of what is fitted to its own size


def start(path: Path, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Positions and colours of the Gaussians that start from a file."""
    gaussians = Gaussians(init=str(path), count=count, initial=Initial(radius=RADIUS))
    assert gaussians.num_alive == count
    colours = 0.5 + 0.28209479 * gaussians.sh[:count, 0]
    return gaussians.means[:count].detach().numpy(), colours.detach().numpy()


def colour_at(points: np.ndarray) -> np.ndarray:
    """The sRGB of the solid: red grows towards the front, green to the left, blue upwards."""
    return 0.5 + points / np.array([2.5, 1.5, 1.0])


def boxlike() -> Mesh:
    """A box of half sizes 1, 0.6 and 0.4 without its right side, in small triangles that share no vertices."""
    cells = np.array(list(product(range(12), repeat=2)))
    triangles = []
    for normal, side in [(0, -1), (0, 1), (1, 1), (2, -1), (2, 1)]:
        for order in ([(0, 0), (1, 0), (1, 1)], [(0, 0), (1, 1), (0, 1)]):
            corner = np.full((len(cells), 3, 3), float(side))
            corner[..., [(normal + 1) % 3, (normal + 2) % 3]] = (cells[:, None] + np.array(order)) / 6 - 1
            triangles.append(corner)
    vertices = np.concatenate(triangles).reshape(-1, 3) * np.array([1.0, 0.6, 0.4])
    faces = np.arange(len(vertices)).reshape(-1, 3)
    return Mesh(vertices.astype(np.float32), faces, vertices.astype(np.float32), colour_at(vertices).astype(np.float32))


def at_the_solid(points: np.ndarray) -> None:
    """On all sides of the box but its right one, by their areas."""
    half, areas = np.array([1, 0.6, 0.4]), np.array([[0.24, 0, 0.6], [0.24, 0.4, 0.6]])
    near = np.abs(points - half * np.array([[[-1]], [[1]]])) < 1e-4
    assert np.abs(points).max(0) == pytest.approx(half, abs=1e-4) and near.any((0, 2)).all()
    np.testing.assert_allclose(near.mean(1), areas / areas.sum(), atol=0.03)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_what_is_written_comes_back_where_it_was(tmp_path: Path, suffix: str) -> None:
    write_mesh(tmp_path / f"a.{suffix}", boxlike())
    points, colours = start(tmp_path / f"a.{suffix}")
    at_the_solid(points)
    np.testing.assert_allclose(colours, colour_at(points), atol=0.005)


@pytest.mark.parametrize("suffix", ["stl", "off", "gltf", "GLB", "ply"])
def test_what_others_write_is_where_its_format_says(tmp_path: Path, suffix: str) -> None:
    mesh, y_up = boxlike(), suffix.lower() in ("gltf", "glb")
    vertices = mesh.vertices[:, [1, 2, 0]] if y_up else mesh.vertices
    trimesh.Trimesh(vertices, mesh.faces, process=False).export(tmp_path / f"a.{suffix}")
    at_the_solid(start(tmp_path / f"a.{suffix}")[0])


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_what_is_written_with_a_texture_comes_back_where_it_was(tmp_path: Path, suffix: str) -> None:
    """A square that looks to the front, whose texture alone has colours: red grows to the left, green upwards."""
    corners = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float32)
    mesh = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), np.tile(np.float32([1, 0, 0]), (4, 1)), 0 * corners)
    shares = (np.arange(64) + 0.5) / 64
    red, green = np.meshgrid(shares, shares[::-1])
    image = np.rint(255 * np.stack([red, green, 0 * red], axis=2)).astype(np.uint8)
    write_mesh(tmp_path / f"a.{suffix}", mesh, Texture(np.arange(4), mesh.faces, (corners[:, 1:] + 1) / 2, image))
    points, colours = start(tmp_path / f"a.{suffix}")
    places = points * (math.sqrt(2) / RADIUS)
    assert places.max(0) == pytest.approx([0, 1, 1], abs=0.1)
    np.testing.assert_allclose(colours, np.column_stack([(places[:, 1:] + 1) / 2, places[:, 0]]), atol=0.02)


def glb(path: Path, material: dict, attributes: dict[str, np.ndarray], picture: bytes = b"", **changes: list) -> Path:
    """A GLB with one triangle at z = 0, x from 0 to 1 and y from 0 to 1, written by hand."""
    attributes = {"POSITION": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4"), **attributes}
    parts = [values.tobytes() for values in attributes.values()] + [picture] * bool(picture)
    starts, data = accumulate(map(len, parts), initial=0), b"".join(parts) + bytes(-len(picture) % 4)
    places = zip(parts, starts, strict=False)
    views = [{"buffer": 0, "byteLength": len(part), "byteOffset": start} for part, start in places]
    accessors = [
        {
            "bufferView": i, "componentType": {"f4": 5126, "u1": 5121, "u2": 5123}[values.dtype.str[1:]], "count": 3,
            "type": f"VEC{values.shape[1]}", "normalized": values.dtype.kind == "u",
            "min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist(),
        }
        for i, values in enumerate(attributes.values())
    ]  # fmt: skip
    scene = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {n: i for i, n in enumerate(attributes)}, "material": 0}]}],
        "materials": [material], "accessors": accessors, "buffers": [{"byteLength": len(data)}],
        "bufferViews": views,
    }  # fmt: skip
    if picture:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        view = len(parts) - 1
        scene |= {"textures": [{"source": 0}], "images": [{"bufferView": view, "mimeType": "image/png"}]}
    return glb_file(path, scene | changes, data)


def png(tmp_path: Path, *colours: list[int]) -> bytes:
    """A picture of one row."""
    Image.fromarray(np.array([colours], np.uint8)).save(tmp_path / "row.png")
    return (tmp_path / "row.png").read_bytes()


@pytest.mark.parametrize(
    ("values", "srgb"),
    [
        # linear light 0.2140 is sRGB 0.5, 0.5 is 0.7354, 0.0331 is 0.2
        (np.array([[0.2140411, 0.5, 0.0331048, 1.0]] * 3, "<f4"), [0.5, 0.735357, 0.2]),
        (np.array([[1.5, 0.0, -0.5]] * 3, "<f4"), [1, 0, 0]),
        (np.array([[14027, 32768, 2170]] * 3, "<u2"), [0.5, 0.735357, 0.2]),
        (np.array([[55, 128, 255, 0]] * 3, "u1"), [0.5018, 0.7366, 1.0]),
    ],
)
@pytest.mark.parametrize("material", [{}, {"pbrMetallicRoughness": {}}])
def test_a_glbs_vertex_colours_are_linear_light(tmp_path: Path, material: dict, values: np.ndarray, srgb: list) -> None:
    if values.dtype.str[1:] == "u2":
        values = np.pad(values, ((0, 0), (0, 1)), constant_values=65535)
    glb(tmp_path / "a.glb", material, {"COLOR_0": values})
    np.testing.assert_allclose(start(tmp_path / "a.glb", 10)[1], [srgb] * 10, atol=1e-3)


def test_a_glbs_material_texture_and_vertex_colours_are_multiplied(tmp_path: Path) -> None:
    """In linear light: 0.5020 (material) is sRGB 0.7366, times 0.2159 (texel) 0.3629, times 0.4 (vertices) 0.2303."""
    material, picture = {"baseColorFactor": [128 / 255, 1.0, 1.0, 1.0]}, png(tmp_path, [128, 255, 51])
    uvs, shade = {"TEXCOORD_0": np.full((3, 2), 0.5, "<f4")}, {"COLOR_0": np.array([[0.4, 1, 1, 1]] * 3, "<f4")}
    for attributes, texture, colour in (
        ({}, b"", [0.7366, 1, 1]),
        ({}, picture, [0.7366, 1, 1]),  # no place in the picture is said
        (uvs, picture, [0.3629, 1, 0.2]),
        (uvs | shade, picture, [0.2303, 1, 0.2]),
    ):
        glb(tmp_path / "a.glb", {"pbrMetallicRoughness": {**material}}, attributes, texture)
        np.testing.assert_allclose(start(tmp_path / "a.glb", 5)[1], [colour] * 5, atol=1e-3)


@pytest.mark.parametrize("period", [-3, 0, 1])
def test_textures_are_repeated_and_vary_between_pixels(tmp_path: Path, period: int) -> None:
    """A row of a black and a white pixel, of which the triangle sees the part between their middles, along its x."""
    uvs = np.array([[period + 0.25, 0.5], [period + 0.75, 0.5], [period + 0.25, 0.5]], "<f4")
    glb(tmp_path / "a.glb", {"pbrMetallicRoughness": {}}, {"TEXCOORD_0": uvs}, png(tmp_path, [0] * 3, [255] * 3))
    points, colours = start(tmp_path / "a.glb", 500)
    across = points[:, 1] / (2 * RADIUS / math.sqrt(2)) + 0.5  # the world's y
    np.testing.assert_allclose(colours, np.repeat(across[:, None], 3, axis=1), atol=1e-4)


def test_parts_of_a_scene_have_colours_of_their_own(tmp_path: Path) -> None:
    """One with a plain material, one with vertex colours and one with none, each where its node puts it."""
    plain, painted, bare = (trimesh.creation.box(extents=[0.2] * 3) for _ in range(3))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[55, 128, 255, 255])
    plain.visual = trimesh.visual.TextureVisuals(material=material)
    painted.visual.vertex_colors = [255, 0, 55, 255]
    scene = trimesh.Scene()
    for part, x in ((plain, -0.5), (painted, 0.0), (bare, 0.5)):
        scene.add_geometry(part, transform=trimesh.transformations.translation_matrix([x, 0, 0]))
    scene.add_geometry(trimesh.points.PointCloud(np.array([[9.0, 9.0, 9.0], [0, 0, 0]])))
    scene.export(tmp_path / "a.glb")
    points, colours = start(tmp_path / "a.glb")
    parts = np.digitize(points[:, 1], np.array([-0.25, 0.25]) * RADIUS / math.sqrt(0.6**2 + 2 * 0.1**2))
    for part, colour in enumerate([[0.5018, 0.7366, 1], [1, 0, 0.5018], [0.5, 0.5, 0.5]]):
        assert (parts == part).mean() == pytest.approx(1 / 3, abs=0.03)
        np.testing.assert_allclose(colours[parts == part], [colour] * (parts == part).sum(), atol=1e-3)


def test_a_node_may_turn_its_mesh(tmp_path: Path) -> None:
    """By 30 degrees about the file's y axis, which is the world's z: from its z axis, the front, to its x, the left."""
    scene, turn = trimesh.Scene(), trimesh.transformations.rotation_matrix(math.radians(30), [0, 1, 0])
    scene.add_geometry(trimesh.creation.box(extents=[0.1, 0.2, 2.0]), transform=turn)
    scene.export(tmp_path / "a.glb")
    points, _ = start(tmp_path / "a.glb")
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    back = points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    extents = 2 * np.abs(back).max(0)
    np.testing.assert_allclose(extents / extents[0], [1, 0.05, 0.1], atol=1e-3)


def test_an_objs_materials_are_srgb(tmp_path: Path) -> None:
    triangle = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
    (tmp_path / "a.obj").write_text(triangle)
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 0.2 0.4 0.6\n")
    np.testing.assert_allclose(start(tmp_path / "a.obj", 5)[1], [[0.2, 0.4, 0.6]] * 5, atol=1e-4)
    png(tmp_path, [102, 153, 204])
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 0.2 0.4 0.6\nmap_Kd row.png\n")
    np.testing.assert_allclose(start(tmp_path / "a.obj", 5)[1], [[0.4, 0.6, 0.8]] * 5, atol=1e-4)


def test_faces_colours_are_srgb_and_meshes_without_any_are_grey(tmp_path: Path) -> None:
    box = trimesh.creation.box(extents=[2, 2, 2])
    box.visual.face_colors = np.where(box.face_normals[:, [0]] > 0.5, [[255, 0, 51, 255]], [[0, 102, 255, 255]])
    box.export(tmp_path / "a.ply")
    points, colours = start(tmp_path / "a.ply", 500)
    front = points[:, 0] > RADIUS / math.sqrt(3) - 1e-4
    np.testing.assert_allclose(colours, np.where(front[:, None], [1, 0, 0.2], [0, 0.4, 1]), atol=1e-4)
    trimesh.creation.box().export(tmp_path / "b.glb")
    grey = start(tmp_path / "b.glb", 500)[1]
    assert np.abs(grey - 0.5).max() < 0.06 and grey.std() > 0.02


def test_textures_and_colours_that_are_broken_or_of_other_formats_are_told_in_a_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", "EPS")
    picture = png(tmp_path, *np.random.default_rng(0).integers(0, 255, (999, 3)).tolist())
    uvs, nan = {"TEXCOORD_0": np.full((3, 2), 0.5, "<f4")}, {"COLOR_0": np.array([[math.nan, 1, 1, 1]] * 3, "<f4")}
    for attributes, content, words in (
        (nan, b"", "colours that are not finite"),
        (uvs, picture[:500], "a texture that can't be read"),
        (uvs, (tmp_path / "a.png").read_bytes(), "a texture of the format EPS; PNG, JPEG"),
    ):
        glb(tmp_path / "a.glb", {"pbrMetallicRoughness": {}}, attributes, content)
        with pytest.raises(ValueError, match=rf"a\.glb has {words}"):
            start(tmp_path / "a.glb", 10)


def test_meshes_that_give_no_points_are_told_in_a_sentence(tmp_path: Path) -> None:
    for name, text, words in (
        ("c.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "has no surface"),
        ("d.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\n", "holds no faces"),
        ("d.off", "OFF\n3 0 0\n0 0 0\n1 0 0\n2 0 0\n", "holds no faces"),
        ("e.obj", "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "has no extent"),
        ("f.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n" + "o p\nusemtl m\nf 1 2 3\n" * 10_001, r"shows \d+ parts .*join some"),
        ("f.stl", "solid p\nendsolid p\n" * 10_001, r"shows \d+ parts .*join some"),
        ("g.dae", "<COLLADA/>", r"must end in \.glb, \.gltf, \.obj, \.stl, \.ply, \.off to be"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} {words}"):
            sample_mesh(tmp_path / name, 10, 0.5, torch.Generator())


def test_what_reads_meshes_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimesh.creation.box().export(tmp_path / "a.obj")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(RuntimeError, match=r'^This needs trimesh: pip install .*"trimesh>=4"'):
        start(tmp_path / "a.obj")


def test_a_chain_of_nodes_is_walked_once(tmp_path: Path) -> None:
    """Three thousand nodes, each a step further than its parent: looking each up from the root takes minutes."""
    nodes = [{"mesh": 0, "translation": [1, 0, 0], "children": [i + 1]} for i in range(2999)]
    path = glb(tmp_path / "a.glb", {}, {}, nodes=[*nodes, {"mesh": 0, "translation": [1, 0, 0]}])
    began = time.perf_counter()
    points, _ = sample_mesh(path, 2000, 1500.0, torch.Generator().manual_seed(0))
    assert time.perf_counter() - began < 100
    along = (points - points.mean(0)).norm(dim=1)
    assert along.max() > 1490 and abs(float(along.mean()) - 750) < 40  # evenly along a line


@pytest.mark.parametrize(("nodes", "primitives"), [(3000, 3000), (1, 10_001), (10_001, 1), (2, 6000)])
def test_scenes_that_repeat_without_end_are_refused(tmp_path: Path, nodes: int, primitives: int) -> None:
    meshes = [{"primitives": [{"attributes": {"POSITION": 0}}] * primitives}]
    path = glb(tmp_path / "a.glb", {}, {}, nodes=[{"mesh": 0}] * nodes, meshes=meshes)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"a\.glb shows {nodes * primitives} parts"):
        sample_mesh(path, 10, 0.5, torch.Generator())
    assert time.perf_counter() - began < 100
