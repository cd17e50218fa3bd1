"""`asdkit export`: what other tools get is what the run shows, and what can't be written is one sentence before."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.recipe import RECIPE, small_run, write_recipe

from asdkit import Gaussians, Initial, Pretrained
from asdkit.commands.main import main
from asdkit.formats.names import FORMATS, Choices
from asdkit.formats.splat_files import read_splats, write_splats
from asdkit.rendering.cameras import joined, ring
from asdkit.run.export import export, load, opened

ROOT = Path(__file__).parents[2]
QUICK = ("--trainer.max_steps=1", "--snapshots.every=0", "--trainer.callbacks=[]")
OF_OBJECTS = [name for name in FORMATS if name != "diffusers"]
SMALL = Choices(size=32, frames=3, resolution=32)


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the tiny recipe, of Gaussians and of a radiance field; treat them as read-only."""
    recipe = write_recipe(tmp_path_factory.mktemp("export"), tiny_folder)
    nerf = ("--model.generator=NeRF", "--model.generator.samples=8", "--model.generator.blob=30")
    kinds = {"gaussians": ("--model.generator.sh_degree=1",), "nerf": nerf}
    return {name: small_run(recipe, *QUICK, *own, name=name) for name, own in kinds.items()}


def test_all_formats_of_gaussians(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    monkeypatch.setattr("asdkit.run.export._LOOKS", ((10.0, 2),))  # fewer silhouettes, for speed
    files = list(export(runs["gaussians"], [*OF_OBJECTS, "ply"], tmp_path, False, SMALL))
    made = load(runs["gaussians"]).generator.splats()
    assert {file.name for file in files} >= {FORMATS[name] for name in OF_OBJECTS}
    exact = read_splats(tmp_path / "splats.ply")
    assert all(np.array_equal(a, b) for a, b in zip(exact, made, strict=True))
    assert (tmp_path / "splats.sog").read_bytes()[:2] == b"PK"  # tests/formats/test_sog.py looks into it
    for name in ("splats.splat", "splats.spz", "splats.glb"):
        again = read_splats(tmp_path / name)
        nearest = np.linalg.norm(again.means[:, None] - made.means[None], axis=2).min(1)
        assert len(again.means) == len(made.means) and nearest.max() < 1e-3
    page = (tmp_path / "viewer.html").read_text()
    assert "a red duck" in page and f"{len(made.means)} Gaussians" in page.replace(",", "")
    for name in ("mesh.glb", "mesh.obj"):
        mesh = trimesh.load(tmp_path / name, force="mesh")
        half = load(runs["gaussians"]).generator.volume().half
        assert len(mesh.faces) > 50 and np.abs(mesh.vertices).max() <= 1.1 * half
    assert Image.open(tmp_path / "orbit.webp").n_frames == 3
    assert Image.open(tmp_path / "views.png").size == (8 * 32, 4 * 32)
    assert pytest.importorskip("imageio").get_reader(tmp_path / "orbit.mp4").get_data(2).shape == (32, 32, 3)


def test_pictures_are_what_the_run_shows(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, run in runs.items():
        (file,) = export(run, ["png"], tmp_path / name, False, SMALL)
        module, views = load(run), ring(8, 20.0, size=32)
        assert opened(run).distance <= max(3.4, 3.75 * module.generator.volume().half)
        rows = np.asarray(Image.open(file)).reshape(4, 32, 8, 32, 3).transpose(0, 2, 1, 3, 4) / 255
        views = ring(8, 20.0, distance=opened(run).distance, size=32)
        with torch.no_grad():
            render = module.show(views)
        shown = render.image.permute(0, 2, 3, 1).numpy()
        alpha = render.alpha.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(rows[0], shown, atol=1.01 / 255)
        np.testing.assert_allclose(rows[1], np.broadcast_to(alpha, shown.shape), atol=1.01 / 255)
        hit = alpha[..., 0] > 0.5
        assert hit.any() and (rows[2:][:, ~hit] == 0).all()
        near, far = (render.depth.permute(0, 2, 3, 1).numpy()[hit].ravel().argsort()[i] for i in (0, -1))
        assert rows[2][hit][near, 0] > rows[2][hit][far, 0]
        depth, half = render.depth.permute(0, 2, 3, 1).numpy()[hit], module.generator.volume().half
        nearness = (1 + (opened(run).distance - depth) / half) / 2  # 1 at the cube's near side, 0 at its far side
        np.testing.assert_allclose(rows[2][hit], nearness.clip(0, 1).repeat(3, 1), atol=1.01 / 255)
        outwards = views.c2w[:, :3, 3] / views.distance[:, None]  # towards the camera, as normals are on the whole
        facing = ((2 * rows[3] - 1) * outwards[:, None, None].numpy()).sum(-1)
        assert facing[hit].mean() > 0.3


@pytest.mark.parametrize(("up", "axes"), [("y", (1, 2, 0)), ("-y", (1, 2, 0)), ("z", (0, 1, 2))])
def test_up_is_where_it_is_asked_for(runs: dict[str, Path], tmp_path: Path, up: str, axes: tuple) -> None:
    list(export(runs["gaussians"], ["ply", "glb"], tmp_path, False, replace(SMALL, up=up)))
    made, got = load(runs["gaussians"]).generator.splats(), read_splats(tmp_path / "splats.ply")
    signs = np.array([1, -1, -1]) if up == "-y" else np.ones(3)
    np.testing.assert_allclose(got.means, made.means[:, axes] * signs, atol=1e-6)
    np.testing.assert_allclose(read_splats(tmp_path / "splats.glb").means, made.means, atol=1e-5)


def test_films_and_meshes_are_as_asked(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    monkeypatch.setattr(Pretrained, "setup", lambda self: pytest.fail("3D needs no prior"))
    monkeypatch.setattr("asdkit.run.export._LOOKS", ((10.0, 2),))  # fewer silhouettes, for speed
    exported = opened(runs["gaussians"])
    exported.choices = SMALL
    with torch.no_grad():
        expected = load(runs["gaussians"]).show(ring(3, 20.0, distance=exported.distance, size=32)).image
    torch.testing.assert_close(exported.film, expected)
    counts = {}
    for name, choices in {"fine": SMALL, "coarse": replace(SMALL, resolution=16)}.items():
        (file,) = export(runs["nerf"], ["mesh-glb"], tmp_path / name, False, choices)
        counts[name] = len(trimesh.load(file, force="mesh").faces)
    assert 2.5 < counts["fine"] / counts["coarse"] < 6  # triangles go with the square of the resolution
    (file,) = export(runs["nerf"], ["mesh-glb"], tmp_path / "few", False, replace(SMALL, faces=100))
    assert len(trimesh.load(file, force="mesh").faces) <= 100 < counts["fine"]
    pytest.importorskip("xatlas")
    files = list(export(runs["nerf"], ["obj"], tmp_path / "painted", False, replace(SMALL, resolution=16, texture=64)))
    (picture,) = (file for file in files if file.suffix == ".png")
    assert len(files) == 3 and Image.open(picture).size == (64, 64)
    (file,) = export(runs["gaussians"], ["html"], None, False, SMALL)
    assert file == runs["gaussians"] / "export" / "viewer.html"
    scene = json.loads(re.search(r'\{"azimuth".*?"degree": \d', file.read_text())[0] + "}")
    assert scene["background"] == [0.85] * 3 and scene["distance"] == exported.distance


@pytest.fixture
def camera_path(tmp_path: Path) -> Path:
    """Two cameras of nerfstudio's, wider than high: those of a ring, in OpenGL's axes."""
    poses = ring(2, 20.0, 3.0, 50.0, 16).c2w @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    frames = [{"camera_to_world": pose, "fov": 50} for pose in poses.flatten(1).tolist()]
    sizes = {"render_width": 24, "render_height": 16, "fps": 5}
    (tmp_path / "path.json").write_text(json.dumps({"camera_path": frames, **sizes}))
    return tmp_path / "path.json"


def test_films_along_a_camera_path(runs: dict[str, Path], tmp_path: Path, camera_path: Path, capsys) -> None:
    """In export and in predict; the middle of each picture is what the ring's square picture shows."""
    small = replace(SMALL, cameras=str(camera_path))
    (film,) = export(runs["gaussians"], ["webp"], tmp_path, False, small)
    opened_film = Image.open(film)
    opened_film.load()  # which tells how long the first frame is shown
    assert (opened_film.size, opened_film.n_frames, opened_film.info["duration"]) == ((24, 16), 2, 200)
    exported = opened(runs["gaussians"])
    exported.choices = small
    with torch.no_grad():
        square = load(runs["gaussians"]).show(ring(2, 20.0, 3.0, 50.0, 16)).image
    torch.testing.assert_close(exported.film[..., 4:-4], square, atol=1e-5, rtol=0)
    assert main(["predict", str(runs["gaussians"]), f"--data.orbit.cameras={camera_path}"]) == 0
    folder = runs["gaussians"] / "predict"
    assert re.search(f"Path: {folder}/path.mp4", capsys.readouterr().out)
    reader = pytest.importorskip("imageio").get_reader(folder / "path.mp4")
    assert (reader.get_data(1).shape, reader.get_meta_data()["fps"]) == ((16, 24, 3), 5)


def test_files_are_told_one_by_one_and_spz_may_be_older(runs: dict[str, Path], tmp_path: Path) -> None:
    files = export(runs["gaussians"], ["spz", "ply"], tmp_path, False, replace(SMALL, spz_version=3))
    told = [(file.name, sorted(other.name for other in tmp_path.iterdir())) for file in files]
    assert told == [("splats.spz", ["splats.spz"]), ("splats.ply", ["splats.ply", "splats.spz"])]
    assert (tmp_path / "splats.spz").read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("radius", [0.1, 9.0])
def test_an_object_of_any_size_is_seen_whole_and_large(tmp_path: Path, radius: float) -> None:
    """Something faint floats far from it, which does not count."""
    gaussians = Gaussians(count=300, capacity=300, initial=Initial(radius=radius, opacity=0.9))
    with torch.no_grad():
        gaussians.means[0], gaussians.opacity_logits[0] = torch.tensor([0, 1.8 * radius, 0]), -3.0
    write_splats(tmp_path / "large.ply", gaussians.splats())
    exported = opened(tmp_path / "large.ply")
    assert exported.name == "large" and exported.background == 1.0
    exported.choices = SMALL
    seen = exported.render(exported.ring(8, 20.0, 64)).alpha.amax((0, 1)) > 0.5
    reach = max(abs(2 * (place + 0.5) / 64 - 1) for pixel in seen.nonzero().tolist() for place in pixel)
    assert 0.65 < reach < 0.85
    alpha = exported.render(joined([exported.ring(3, e, 32) for e in (-30.0, 60.0)])).alpha
    assert alpha.shape == (6, 1, 32, 32) and alpha.amax() > 0.5
    assert max(alpha[..., 0].max(), alpha[..., -1].max(), alpha[..., 0, :].max(), alpha[..., -1, :].max()) < 0.1


def test_a_file_is_turned_into_another(tmp_path: Path) -> None:
    gaussians = Gaussians(count=30, capacity=30, sh_degree=2)
    gaussians.sh.data.normal_(std=0.2)
    write_splats(tmp_path / "a.GLB", gaussians.splats())
    (file,) = export(tmp_path / "a.GLB", ["ply"], None, False, SMALL)
    assert file == tmp_path / "export" / "splats.ply"
    again, made = read_splats(file), gaussians.splats()
    assert again.sh.shape == made.sh.shape
    np.testing.assert_allclose(again.means, made.means, atol=1e-5)
    np.testing.assert_allclose(again.sh, made.sh, atol=1e-4)


def test_what_can_not_be_written_is_said_before_anything_is(runs: dict[str, Path], tmp_path: Path) -> None:
    def refused(words: str, path: Path, formats: list[str], choices: Choices = SMALL) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            list(export(path, formats, tmp_path / "out", False, choices))
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    refused("no format 'stl'; there are ply", runs["gaussians"], ["ply", "stl"])
    refused("no format ''", runs["gaussians"], [])
    refused("holds Gaussians and .* is made of NeRF", runs["nerf"], ["webp", "ply"])
    refused("html holds Gaussians", runs["nerf"], ["html"])
    refused("ask for 16777216000 pixels", runs["nerf"], ["mp4"], Choices(size=4096, frames=1000))
    refused("There is no .*nowhere", tmp_path / "nowhere", ["ply"])
    refused("--cameras is of films alone", runs["gaussians"], ["ply"], replace(SMALL, cameras="nowhere.json"))
    refused("There is no camera path", runs["gaussians"], ["ply", "webp"], replace(SMALL, cameras="nowhere.json"))
    (tmp_path / "run.ply").mkdir()
    refused("There is no checkpoint .*run.ply", tmp_path / "run.ply", ["ply"])


def test_choices_have_ranges() -> None:
    within = {"size": (16, 4096), "frames": (2, 1000), "resolution": (16, 512), "texture": (0, 4096), "faces": (0, 999)}
    for name, numbers in within.items():
        for number in numbers:
            assert getattr(Choices(**{name: number}), name) == number
    beyond = [(name, number) for name, (low, high) in within.items() for number in (low - 1, high + 1)][:-1]
    for name, value in [*beyond, ("faces", 50), ("texture", 32), ("up", "x"), ("spz_version", 2)]:
        with pytest.raises(ValueError, match=f"{name.replace('_', '-')} must be .*; got {value}"):
            Choices(**{name: value})


@pytest.mark.parametrize("kind", ["Pixels", "Latents"])
def test_images_are_exported_as_pictures(tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    cameras = "asdkit.Cameras, init_args: {views_per_step: 2, size: 16, orbit: {views: 3}}"
    recipe = RECIPE.format(prior=tiny_folder, root=tmp_path / "runs").replace(cameras, "asdkit.Canvas")
    (tmp_path / "small.yaml").write_text(recipe)
    image = [f"--model.generator={kind}", "--model.generator.size=16", "--model.generator.count=2"]
    run = small_run(tmp_path / "small.yaml", *image, *QUICK)
    for word in ("mp4", "ply"):
        with pytest.raises(ValueError, match=f"{word} holds 3D objects and .* is made of {kind}; export png"):
            list(export(run, [word], tmp_path / "out", False, SMALL))
    (file,) = export(run, ["png"], tmp_path / "out", False, SMALL)
    shown = Image.open(run / "contact.png").crop((0, 0, 32, 16))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(shown))


def test_files_are_replaced_if_asked(runs: dict[str, Path], tmp_path: Path, capsys, refused) -> None:
    command = ["export", str(runs["gaussians"]), "--format", "ply, png", "--size=16", "--out"]
    ply, png = tmp_path / "splats.ply", tmp_path / "views.png"
    assert main([*command, str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(ply), str(png)]
    ply.write_text("mine")
    png.unlink()
    assert "splats.ply exists" in refused(*command, tmp_path)
    assert ply.read_text() == "mine" and not png.exists()
    assert "splats.ply is a file; name a folder with --out" in refused(*command, ply)
    assert refused(*command, ply / "below")
    assert main([*command, str(tmp_path), "--force"]) == 0
    assert len(read_splats(ply).means) > 1
    for name in ("mesh.mtl", "mesh.png"):  # what belongs to an OBJ is not replaced either
        (own := tmp_path / "obj" / name).parent.mkdir(exist_ok=True)
        own.write_text("mine")
        with pytest.raises(ValueError, match=f"{name} exists"):
            list(export(runs["gaussians"], ["obj"], own.parent, False, replace(SMALL, texture=64)))
        assert [*own.parent.iterdir()] == [own]
        own.unlink()


def test_options_reach_what_they_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = []
    monkeypatch.setattr("asdkit.run.export.export", lambda *arguments: got.append(arguments) or [])
    options = ["--up=y", "--size=17", "--frames=3", "--resolution=18", "--faces=200", "--texture=64", "--force"]
    options += ["--prompt=a duck", "--cameras=c.json", "--spz-version=3"]
    assert main(["export", str(tmp_path), "--format= ply,, obj ", "--out=y", *options]) == 0
    choices = Choices("y", 17, 3, 18, 200, 64, "a duck", "c.json", 3)
    assert got == [(tmp_path, ["ply", "obj"], Path("y"), True, choices)]


def test_films_without_the_extra_are_one_sentence(runs: dict[str, Path], tmp_path: Path, monkeypatch, refused) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    words = ("export", runs["gaussians"], "--format=mp4", "--out", tmp_path, "--size=16")
    assert 'pip install "imageio' in refused(*words, code=3) and not list(tmp_path.iterdir())
