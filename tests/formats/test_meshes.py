"""Meshes of solids that are known in closed form, and their files and textures by an independent reader."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates
from support.splat_tools import glb_parts, validated
from torch import Tensor

from asdkit.formats.mesh import extract as extract_module
from asdkit.formats.mesh.extract import Mesh, density_grid, extract, skin, surface, threshold
from asdkit.formats.mesh.write import Texture, _inside, bake, write_mesh
from asdkit.formats.pictures import from_linear_light
from asdkit.rendering.cameras import Views, orbit
from asdkit.rendering.rays import Volume, rays_of

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")
pytest.importorskip("xatlas")

CENTRE, RADIUS, HALF = torch.tensor([0.1, -0.2, 0.3]), 0.55, 0.9
VIEWS = orbit(torch.arange(6) * 1.1, torch.tensor([-0.9, -0.3, 0.0, 0.4, 0.7, 1.2]), torch.full((6,), 3.4), 0.7, 64, 64)


def balls(*placed: tuple[Tensor, float], density: float = 100.0) -> Volume:
    """Balls whose colour is linear in space."""

    def radiance(points: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.stack([(points - centre).norm(dim=1) < radius for centre, radius in placed])
        return density * inside.any(0).float(), 0.5 + 0.4 * points

    return Volume(HALF, radiance)


def misses(centre: Tensor = CENTRE, views: Views = VIEWS) -> Tensor:
    """How far each pixel's ray passes a point, in the shape of alpha."""
    rays = rays_of(views, 10.0)
    along = torch.nn.functional.normalize(rays.directions, dim=1)
    to = centre - rays.origins
    return torch.linalg.cross(to, along).norm(dim=1).view(len(views), 1, views.height, views.width)


def extracted(resolution: int, faces: int = 0) -> Mesh:
    return extract(balls((CENTRE, RADIUS)), VIEWS, (misses() < RADIUS).float(), resolution, faces)


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return extracted(64)


def closed(mesh: Mesh):
    """As trimesh sees it, after it has been found closed and consistent."""
    model = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert model.is_watertight and model.is_winding_consistent
    return model


def test_a_ball_is_a_ball(ball: Mesh) -> None:
    model, outwards = closed(ball), ball.vertices - CENTRE.numpy()
    distance = np.linalg.norm(outwards, axis=1)
    assert model.euler_number == 2
    assert model.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)  # positive: its faces look outwards
    assert model.area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.02)
    np.testing.assert_allclose(model.center_mass, CENTRE.numpy(), atol=0.002)
    np.testing.assert_allclose(distance, RADIUS, atol=0.6 * 2 * HALF / 63)
    assert ((ball.normals * outwards).sum(1) / distance).min() > 0.95
    np.testing.assert_allclose(np.linalg.norm(ball.normals, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ball.colours, 0.5 + 0.4 * ball.vertices, atol=0.02)


def test_fewer_faces_are_the_same_ball(ball: Mesh) -> None:
    small = extracted(64, faces=1000)
    assert len(ball.faces) > 10_000 and len(small.faces) == 1000
    assert closed(small).volume == pytest.approx(closed(ball).volume, rel=0.01)
    outwards = small.vertices - CENTRE.numpy()
    assert ((small.normals * outwards).sum(1) / np.linalg.norm(outwards, axis=1)).min() > 0.9
    assert len(extracted(64, faces=10**6).faces) == len(ball.faces) and len(extracted(16, faces=100).faces) == 100


def test_of_two_balls_the_larger_is_kept_and_cavities_are_filled() -> None:
    large, small = torch.tensor([-0.35, 0.0, 0.1]), torch.tensor([0.55, 0.0, 0.0])
    alpha = ((misses(large) < 0.4) | (misses(small) < 0.25)).float()
    for order in ([(large, 0.4), (small, 0.25)], [(small, 0.25), (large, 0.4)]):
        model = closed(extract(balls(*order), VIEWS, alpha, 48))
        assert model.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.04)
        np.testing.assert_allclose(model.center_mass, large.numpy(), atol=0.01)

    def shell(points: Tensor) -> tuple[Tensor, Tensor]:
        distance = (points - CENTRE).norm(dim=1)
        return 100.0 * ((distance < RADIUS) & (distance > 0.4)), points.abs()

    model = closed(extract(Volume(HALF, shell), VIEWS, (misses() < RADIUS).float(), 48))
    assert model.euler_number == 2
    assert model.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)


def test_at_the_cube_s_faces_the_mesh_is_closed() -> None:
    full = Volume(0.5, lambda points: (torch.full((len(points),), 9.0), points.abs()))
    mesh, step = extract(full, VIEWS, torch.ones(6, 1, 64, 64), 32), 1 / 31
    assert 0.5 < np.abs(mesh.vertices).max() < 0.5 + step
    assert 1 < closed(mesh).volume < (1 + 2 * step) ** 3


def test_the_surface_lies_where_the_grid_says() -> None:
    """A plane at x = 0.21 and one at z = -0.33, by linear interpolation."""
    axis = torch.linspace(-2, 2, 17)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.minimum(torch.minimum(x - 0.21, -0.33 - z), 1.5 - y.abs()) + 1
    model = surface(grid.clamp(min=0), 1.0, 2.0)
    assert model.vertices[:, 0].min() == pytest.approx(0.21, abs=1e-5)
    assert model.vertices[:, 2].max() == pytest.approx(-0.33, abs=1e-5)
    assert np.abs(model.vertices[:, 1]).max() == pytest.approx(1.5, abs=1e-5) and model.is_watertight


def test_the_threshold_is_the_density_at_the_silhouette() -> None:
    """A Gaussian of density 30 and standard deviation 0.3 that is seen as a ball of radius 0.5."""
    volume = Volume(HALF, lambda p: (30 * torch.exp(-(p - CENTRE).square().sum(1) / 0.18), p.abs()))
    alpha = torch.where(misses() < 0.5, 0.51, 0.49)
    best = threshold(density_grid(volume, 64), HALF, VIEWS, alpha)
    assert best == pytest.approx(30 * math.exp(-(0.5**2) / 0.18), rel=0.02)
    mesh = extract(volume, VIEWS, alpha, 64)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1), 0.5, atol=0.01)


def test_no_other_threshold_agrees_better() -> None:
    """Largest values along rays by scipy's interpolation, and every threshold between two of them by a loop."""
    draws = torch.Generator().manual_seed(0)
    grid = torch.rand(7, 7, 7, generator=draws)
    alpha = torch.rand(6, 1, 16, 16, generator=draws)
    views = Views(**(vars(VIEWS) | {"K": VIEWS.K / torch.tensor([[4.0], [4.0], [1.0]]), "height": 16, "width": 16}))
    rays = rays_of(views, 0.8)
    peaks = np.zeros(len(rays.near))
    for i in (rays.far > rays.near).nonzero().squeeze(1).tolist():
        along = torch.linspace(float(rays.near[i]), float(rays.far[i]), 1000)[:, None]
        index = ((rays.origins[i] + along * rays.directions[i]) / 0.8 + 1) * 3
        peaks[i] = map_coordinates(grid.numpy(), index.T.numpy(), order=1, mode="nearest").max()
    alpha += 0.3 * (torch.from_numpy(peaks).view(alpha.shape) - 0.7)
    covered = (alpha > 0.5).flatten().numpy()

    def agreement(level: float) -> float:
        return (covered & (peaks >= level)).sum() / (covered | (peaks >= level)).sum()

    levels = np.unique(peaks)
    best = max(agreement(level) for level in (levels[1:] + levels[:-1]) / 2)
    chosen = threshold(grid, 0.8, views, alpha)
    assert 0.3 < best < 0.9 and agreement(chosen) == pytest.approx(best, abs=0.01)


def test_nothing_to_make_a_mesh_of() -> None:
    seen = (misses() < RADIUS).float()
    for density, alpha, words in (
        (100.0, seen / 2, "nothing to make a mesh of: no camera sees anything more than half opaque"),
        (0.0, seen, "nothing to make a mesh of"),
        (math.nan, seen, "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            extract(balls((CENTRE, RADIUS), density=density), VIEWS, alpha, 32)


def test_the_skin_is_seen_from_outside() -> None:
    """Three of six layers lie in a body of density 40, the outermost of them red, the others blue; by NeRF's sum."""
    half = 1.6
    step = 2 * half / 32 / 6

    def radiance(points: Tensor) -> tuple[Tensor, Tensor]:
        red = (points[:, 2:] > -step).float()
        return 40.0 * (points[:, 2] < 0), torch.cat([red, 0 * red, 1 - red], dim=1)

    up = np.array([[0, 0, 1]], np.float32)
    (colour,) = skin(Volume(half, radiance), np.zeros((1, 3), np.float32), up)
    layers = [math.exp(-40 * step * i) * (1 - math.exp(-40 * step)) for i in range(3)]
    share = layers[0] / sum(layers)
    np.testing.assert_allclose(colour, [share, 0, 1 - share], atol=1e-5)


def test_the_skin_ends_at_the_cube_and_has_a_colour_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "_POINTS", 12)  # two points at a time

    def radiance(points: Tensor) -> tuple[Tensor, Tensor]:
        green = (points.abs().amax(1) > 1).float()[:, None]
        left = (points[:, :1] < 0).float()
        return 50.0 * (points[:, 1] > -0.5), torch.cat([left, green, 1 - left], dim=1)

    places = np.array([[-0.5, 0, 1], [0.5, 0, 1], [-0.4, -0.9, 1], [0.4, -0.9, 1], [0.5, 0, 1]], np.float32)
    colours = skin(Volume(1.0, radiance), places, np.tile(np.array([0, 0, 1], np.float32), (5, 1)))
    red, blue = [1, 0, 0], [0, 0, 1]
    np.testing.assert_allclose(colours, [red, blue, red, blue, blue], atol=1e-5)
    empty = Volume(1.0, lambda points: (0 * points[:, 0], points.abs()))
    assert skin(empty, places, places).max() == 0


def corner() -> Mesh:
    """A tetrahedron with one vertex in front, one to the left and one above."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    normals = np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    colours = np.array([[0.04, 0.5, 1], [1, 0, 0], [0.0245, 0.735, 0], [0, 0, 0.2]], np.float32)
    return Mesh(vertices, faces, normals, colours)


AXES = [[0, 0, 0], [0, 0, 1], [2, 0, 0], [0, 3, 0]]  # front is +z, left +x, up +y
NORMALS = [[0, 0, -1], [0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_a_glb_has_its_axes_and_linear_colours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.glb"
    assert write_mesh(path, corner()) == [path]
    model = trimesh.load(path, force="mesh", process=False)
    assert model.vertices.tolist() == AXES and model.faces.tolist() == corner().faces.tolist()
    document, binary = glb_parts(path)
    (primitive,) = document["meshes"][0]["primitives"]
    accessors = [document["accessors"][primitive["attributes"][name]] for name in ("COLOR_0", "NORMAL")]
    starts = [document["bufferViews"][accessor["bufferView"]]["byteOffset"] for accessor in accessors]
    assert np.frombuffer(binary, "<f4", 12, starts[1]).reshape(4, 3).tolist() == NORMALS
    assert [accessors[0][key] for key in ("componentType", "normalized", "type")] == [5123, True, "VEC4"]
    colours = np.frombuffer(binary, "<u2", 16, starts[0]).reshape(4, 4) / 65535
    # sRGB 0.5 is 0.2140 in linear light, 0.735 is 0.4995, 0.2 is 0.0331, 0.04 is 0.0031 and 0.0245 is 0.0019
    light = [[0.0031, 0.2140, 1, 1], [1, 0, 0, 1], [0.0019, 0.4995, 0, 1], [0, 0, 0.0331, 1]]
    np.testing.assert_allclose(colours, light, atol=5e-5)
    assert "_COLOUR" not in primitive["attributes"]
    material = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert (material["metallicFactor"], material["roughnessFactor"]) == (0, 1)
    assert material.get("baseColorFactor", [1] * 4) == [1] * 4


@pytest.mark.parametrize("textured", [False, True])
def test_a_glb_s_object_and_material_are_called_as_the_file_is(tmp_path: Path, textured: bool) -> None:
    """The names are what an outliner shows."""
    texture = Texture(np.arange(4), corner().faces, np.zeros((4, 2), np.float32), np.zeros((2, 2, 3), np.uint8))
    write_mesh(tmp_path / "two words.glb", corner(), texture if textured else None)
    document, _ = glb_parts(tmp_path / "two words.glb")
    assert [each["name"] for each in document["nodes"] if "mesh" in each] == ["two words"]
    assert [each["name"] for kind in ("meshes", "materials") for each in document[kind]] == ["two words"] * 2


def test_no_grey_is_lost_in_a_glb(tmp_path: Path) -> None:
    """Of 8 bits of linear light, a quarter of all greys would be lost, and dark colours be bands."""
    greys = np.repeat(np.arange(256, dtype=np.float32)[:, None] / 255, 3, axis=1)
    faces = np.arange(255)[:, None] + [0, 1, 0]
    write_mesh(tmp_path / "a.glb", Mesh(greys * [1, 2, 3], faces, greys + 1, greys))
    document, binary = glb_parts(tmp_path / "a.glb")
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    light = np.frombuffer(binary, "<u2", 4 * 256, start).reshape(256, 4)[:, :3] / 65535
    np.testing.assert_allclose(from_linear_light(light), greys, atol=0.1 / 255)


def test_an_obj_has_the_same_axes_and_srgb_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    assert write_mesh(path, corner()) == [path] == list(tmp_path.iterdir())
    model = trimesh.load(path, force="mesh", process=False)
    assert model.vertices.tolist() == AXES and model.faces.tolist() == corner().faces.tolist()
    assert model.visual.vertex_colors[0].tolist() == [10, 128, 255, 255]
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [[float(number) for number in line[1:]] for line in lines if line[:1] == ["vn"]] == NORMALS


def half_and_half() -> Volume:
    """A ball that is red for x > 0 and blue for x < 0, and whose green grows with z."""

    def radiance(points: Tensor) -> tuple[Tensor, Tensor]:
        red = (points[:, 0] > 0).float()
        return 100.0 * (points.norm(dim=1) < 0.6), torch.stack([red, 0.5 + 0.7 * points[:, 2], 1 - red], dim=1)

    return Volume(HALF, radiance)


@pytest.fixture(scope="module")
def painted() -> Mesh:
    return extract(half_and_half(), VIEWS, (misses(torch.zeros(3)) < 0.6).float(), 48, faces=2000)


def bilinear(image: np.ndarray, u: float, v: float) -> np.ndarray:
    """An image at a place, v upwards, by scipy."""
    place = [[(1 - v) * image.shape[0] - 0.5], [u * image.shape[1] - 0.5]]
    bands = image.transpose(2, 0, 1).astype(float) / 255
    return np.concatenate([map_coordinates(band, place, order=1, mode="nearest") for band in bands])


@pytest.mark.parametrize("name", ["a.glb", "two words.obj"])
def test_a_texture_has_the_solid_s_colours(tmp_path: Path, painted: Mesh, name: str) -> None:
    """At corners (which seams pass through) and inside of faces, read anew; at x = 0 a texel may be of either side."""
    texture = bake(painted, half_and_half(), 256)
    write_mesh(tmp_path / name, painted, texture)
    model = trimesh.load(tmp_path / name, force="mesh", process=False)
    material = model.visual.material
    picture = material.baseColorTexture if name == "a.glb" else material.image
    image = np.asarray(picture.convert("RGB"))
    assert image.shape == (256, 256, 3) and len(model.faces) == len(painted.faces)
    assert model.volume == pytest.approx(closed(painted).volume, rel=1e-4)
    world = np.asarray(model.vertices)[:, [2, 0, 1]]
    draws = np.random.default_rng(0)
    sides = [0, 0]
    for face in draws.choice(model.faces, 300, replace=False):
        for shares in (*np.eye(3), draws.dirichlet([1, 1, 1])):
            x, _, z = shares @ world[face]
            colour = bilinear(image, *(shares @ model.visual.uv[face]))
            assert colour[1] == pytest.approx(0.5 + 0.7 * z, abs=0.06)
            if abs(x) > 0.08:
                sides[int(x > 0)] += 1
                np.testing.assert_allclose(colour[[0, 2]], [x > 0, x < 0], atol=0.01)
    assert min(sides) > 300


def test_pixels_inside_of_triangles_are_those_of_a_slow_loop() -> None:
    draws = np.random.default_rng(0)
    corners = np.concatenate([draws.uniform(0, 9, (12, 3, 2)), np.array([[[1, 1], [2, 2], [4, 4]]], float)])
    expected = set()
    for face, row, column in product(range(12), range(9), range(9)):  # the last triangle has no area
        system = np.pad(corners[face].T, ((0, 1), (0, 0)), constant_values=1)
        shares = np.linalg.solve(system, [column + 0.5, row + 0.5, 1])
        if shares.min() >= 0:
            expected.add((row * 9 + column, face, *shares.round(6)))
    texel, face, weights = _inside(corners, 9)
    covered = {(*pair, *each.round(6)) for *pair, each in zip(texel.tolist(), face.tolist(), weights, strict=True)}
    assert covered == expected and len(texel) == len(expected) > 50


def test_a_texture_is_seen_from_outside_like_vertices_without_holes_and_rounded(painted: Mesh) -> None:
    """What is outside of the charts has the colour of what is near: red and blue, but never black."""
    image = bake(painted, half_and_half(), 128).image / 255
    np.testing.assert_allclose(image[..., 0] + image[..., 2], 1, atol=0.01)

    def layered(points: Tensor) -> tuple[Tensor, Tensor]:
        outer = (points.norm(dim=1) > 0.59).float()[:, None]
        return 100.0 * (points.norm(dim=1) < 0.6), torch.cat([1 - outer, outer, 0 * outer], dim=1)

    volume = Volume(HALF, layered)
    texture = bake(painted, volume, 128)
    vertices = skin(volume, painted.vertices, painted.normals)[texture.parents]
    read = np.stack([bilinear(texture.image, u, v) for u, v in texture.uvs])
    assert np.abs(read - vertices).mean() < 0.1 and vertices[:, 1].mean() > 0.6
    plain = Volume(HALF, lambda p: (100.0 * (p.norm(dim=1) < 0.6), torch.tensor([[0.297, 0.903, 1]]).expand(len(p), 3)))
    assert np.unique(bake(painted, plain, 64).image.reshape(-1, 3), axis=0).tolist() == [[76, 230, 255]]


def test_a_textured_obj_is_three_files_or_none(tmp_path: Path, painted: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    texture = bake(painted, half_and_half(), 64)
    names = {"a_duck.mtl", "a_duck.png", "a duck.obj"}
    good, bad = tmp_path / "good", tmp_path / "bad"
    files = write_mesh(good / "a duck.obj", painted, texture)
    assert {file.name for file in files} == {file.name for file in good.iterdir()} == names
    lines = (good / "a duck.obj").read_text().splitlines()
    normals = [[float(number) for number in line.split()[1:]] for line in lines if line.startswith("vn ")]
    np.testing.assert_allclose(normals, painted.normals[texture.parents][:, [1, 2, 0]], atol=1e-5)
    assert "mtllib a_duck.mtl" in lines
    material = (good / "a_duck.mtl").read_text().splitlines()
    assert "map_Kd a_duck.png" in material and "Kd 1.00000000 1.00000000 1.00000000" in material
    np.testing.assert_array_equal(np.asarray(Image.open(good / "a_duck.png")), texture.image)
    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if path.suffix == ".mtl":
            raise OSError("the disk is full")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_mesh(bad / "a duck.obj", painted, texture)
    assert not list(bad.iterdir())


def test_khronos_finds_no_error(tmp_path: Path, painted: Mesh) -> None:
    for texture in (None, bake(painted, half_and_half(), 64)):
        write_mesh(tmp_path / "a.glb", painted, texture)
        report = validated(tmp_path / "a.glb")
        assert (report["numErrors"], report["numWarnings"]) == (0, 0), report
