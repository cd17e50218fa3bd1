"""Posed pictures: their cameras, which are near to which, what the generator loses by, checkpoints and ranks."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.quiet import quiet_trainer
from support.recipe import small_run
from support.resuming import assert_same, fit, last
from torch import Tensor
from torch.utils.data import DataLoader

import asdkit
from asdkit.commands.main import main
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Batch, Posed, Views, orbit, ring
from asdkit.toybox import world
from asdkit.toybox.captions import parse

PLAIN = torch.full((3,), 0.85)


def true(views: Views, grey: float = 0.85) -> Render:
    return world.render(parse("a yellow duck"), views, (grey,) * 3)


def save_truth(path: Path, views: Views) -> None:
    """A true picture with transparency; only opaque pixels' colours are exact."""
    truth = true(views, 0.0)
    colours = truth.image[0] / truth.alpha[0].clamp(min=1e-6)
    rgba = torch.cat([colours.clamp(0, 1), truth.alpha[0]]).permute(1, 2, 0)
    Image.fromarray((rgba * 255).round().byte().numpy(), "RGBA").save(path)


def at(azimuth_deg: list[float], elevation_deg: float = 0.0, size: int = 16) -> Views:
    azimuth = torch.tensor(azimuth_deg).deg2rad()
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    return orbit(azimuth, elevation, torch.full_like(azimuth, 3.4), math.radians(40), size, size)


def write_folder(scene: Path, views: Views, truth_from: Views | None = None) -> Path:
    """What nerfstudio would write of these cameras: OpenGL's axes are OpenCV's with y and z turned round.

    The pictures are the truth from these cameras, or from others that stand there for it.
    """
    (scene / "shots").mkdir(parents=True)
    opengl = views.c2w.double() * torch.tensor([1, -1, -1, 1])
    frames = [{"file_path": f"shots/{i}.png", "transform_matrix": c2w.tolist()} for i, c2w in enumerate(opengl)]
    for i in range(len(views)):
        save_truth(scene / "shots" / f"{i}.png", (truth_from or views)[i : i + 1])
    lens = {"fl_x": float(views.K[0, 0, 0]), "w": views.width, "h": views.height}
    (scene / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return scene


def test_a_reference_is_seen_by_the_recipes_camera(tmp_path: Path) -> None:
    """The truth from there is the picture; distance and fov of its own take the place of the recipe's."""
    views, picture = at([75.0], 35.0, size=32), partial(asdkit.ReferenceView, str(tmp_path / "a.png"))
    save_truth(tmp_path / "a.png", views)
    references = asdkit.Cameras(size=32, references=picture(75.0, 35.0)).references
    assert all(torch.allclose(v, getattr(references.views, k), atol=1e-6) for k, v in views.tensors.items())
    near, truth = references.near(views, None, PLAIN), true(views)
    assert (near.image - truth.image).abs().max() < 0.02 and (near.alpha - truth.alpha).abs().max() < 0.003
    own = asdkit.Cameras(size=32, references=picture(distance=2.0, fov_deg=90.0)).references.views
    assert own.distance.tolist() == [2.0] and own.K[0, 1, 1].item() == pytest.approx(16.0)
    far = asdkit.Cameras(references=picture(), distance=asdkit.Distance(4.0, 6.0), fov_deg=60.0).references.views
    assert far.distance.tolist() == [5.0] and far.K[0, 1, 1].item() == pytest.approx(64 / math.tan(math.radians(30)))


def test_each_camera_has_the_nearest_picture(tmp_path: Path) -> None:
    """Angles at the origin by spherical trigonometry; a picture with a mask stands before the step's backdrop."""
    folder = write_folder(tmp_path / "scene", at([0.0, 90.0], size=20))
    Image.new("RGB", (20, 20), (255, 0, 0)).save(folder / "shots" / "0.png")
    Image.new("RGBA", (20, 20), (0, 0, 255, 51)).save(folder / "shots" / "1.png")
    references = asdkit.Cameras(size=20, references=asdkit.PosedFolder(str(folder), centre=False, scale=1.0)).references
    near = references.near(at([80.0, 350.0, 100.0], 20.0, size=10), torch.zeros(3), PLAIN, step=3)
    assert near.nearest.tolist() == [1, 0, 1]
    expected = [math.degrees(math.acos(math.cos(math.radians(20)) * math.cos(math.radians(10))))] * 3
    assert near.angle_deg.tolist() == pytest.approx(expected, abs=1e-3)
    assert near.image.shape == (2, 3, 10, 10) and near.views.height == 10
    assert near.image[0, :, 0, 0].tolist() == [1, 0, 0] and near.behind[0].tolist() == PLAIN.tolist()
    assert near.image[1, :, 0, 0].tolist() == pytest.approx([0, 0, 0.2]) and near.behind[1].tolist() == [0, 0, 0]
    assert near.views.K[0, 0, 0].item() == pytest.approx(5 / math.tan(math.radians(20)))
    one = references.near(at([80.0], size=20), None, PLAIN)
    assert len(one.image) == 1 and one.image[0, 2, 0, 0].item() == pytest.approx(0.2 + 0.8 * 0.85)


def test_a_camera_of_nerfstudio_by_hand(tmp_path: Path) -> None:
    """At (0, -4, 0), looking along +y: azimuth -90 degrees; with the front there, it is azimuth 0, at (4, 0, 0)."""
    opengl = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
    Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / "a.png")
    frames = [{"file_path": "a.png", "transform_matrix": opengl}]
    facts = {"fl_x": 50, "fl_y": 60, "cx": 22, "cy": 9, "w": 80, "h": 40, "frames": frames}  # twice the picture's size
    (tmp_path / "transforms.json").write_text(json.dumps(facts))
    views = asdkit.PosedFolder(str(tmp_path), centre=False, scale=1.0).read(10, 3.4, 40.0).views
    assert views.c2w[0].tolist() == [[1, 0, 0, 0], [0, 0, 1, -4], [0, -1, 0, 0], [0, 0, 0, 1]]
    assert views.azimuth.tolist() == pytest.approx([-math.pi / 2]) and views.distance.tolist() == [4.0]
    # Halved: 25, 30, 11, 4.5; the square of 20 begins at column 10; halved again to 10 pixels.
    assert torch.allclose(views.K[0], torch.tensor([[12.5, 0, 0.5], [0, 15, 2.25], [0, 0, 1]]))
    turned = asdkit.PosedFolder(str(tmp_path), -90.0, centre=False, scale=0.5).read(10, 3.4, 40.0).views
    expected = [[0, 0, -1, 2], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]  # right +y, down -z, forward -x
    assert torch.allclose(turned.c2w[0], torch.tensor(expected).float(), atol=1e-6)
    assert torch.allclose(turned.c2w, orbit(*torch.tensor([[0.0], [0.0], [2.0]]), 0.7, 10, 10).c2w, atol=1e-6)


def test_photographs_from_one_point_are_refused(tmp_path: Path) -> None:
    """Their axes meet where they stand, whether that is the origin or, but for rounding, another point."""
    for name, place in (("origin", [0.0, 0.0, 0.0]), ("tripod", [3.1, -20.7, 5.3])):
        views = ring(5, 25.0, size=8)
        views.c2w[:, :3, 3] = torch.tensor(place)
        folder = write_folder(tmp_path / name, views, truth_from=ring(5, 25.0, size=8))
        with pytest.raises(ValueError, match="stand where they look; set --data.references.centre=false"):
            asdkit.PosedFolder(str(folder)).read(8, 3.4, 40.0)
    with pytest.raises(ValueError, match="stand where they look; move them away from the file's origin"):
        asdkit.PosedFolder(str(tmp_path / "origin"), centre=False).read(8, 3.4, 40.0)


@pytest.mark.parametrize(("units", "place"), [(7.0, [3.0, -20.0, 5.0]), (0.3, [5e5, 5.1e6, 300.0])])
def test_a_folder_in_other_units_and_at_another_place_is_brought_to_the_origin(
    units: float, place: list[float], tmp_path: Path
) -> None:
    """The cameras look at one point, from one distance: centre and scale give back those of the recipe. The place may
    also be one of a map, in metres, which is millions of times as far away as the object is large.
    """
    views = ring(5, 25.0, size=24)
    moved = Views(**{**vars(views), "c2w": views.c2w.double()})
    moved.c2w[:, :3, 3] = moved.c2w[:, :3, 3] * units + torch.tensor(place).double()
    read = asdkit.PosedFolder(str(write_folder(tmp_path / "scene", moved, truth_from=views))).read(24, 3.4, 40.0)
    for name, values in views.tensors.items():
        got = getattr(read.views, name)
        difference = got - values
        difference = torch.remainder(difference + 1, 2 * math.pi) - 1 if name == "azimuth" else difference
        assert difference.abs().max() < 1e-4, name
    near = read.near(views, None, PLAIN)
    assert near.nearest.tolist() == [0, 1, 2, 3, 4] and (near.image - true(views).image).abs().max() < 0.02


def gradients(posed: Posed | None, **rendering: Any) -> tuple[dict[str, Tensor], asdkit.Gaussians]:
    """Those of one iteration, which Adam's first means are a tenth of, and the generator as it was."""
    torch.manual_seed(0)
    generator, start = (asdkit.Gaussians(count=60, capacity=60) for _ in range(2))
    prior, how = asdkit.GaussianPrior({"y": [0.9, 0.1, 0.2]}, 0.5, 0.2), asdkit.Rendering(**rendering)
    model = asdkit.Distillation("y", prior, generator, asdkit.SDS(3.0), rendering=how)
    quiet_trainer(1).fit(model, DataLoader([Batch(ring(4, size=16), references=posed)], batch_size=None))
    moments = model.trainer.optimizers[0].state
    return {name: 10 * moments[values]["exp_avg"] for name, values in generator.named_parameters()}, start


def test_the_generator_learns_by_the_guidance_and_by_the_pictures() -> None:
    """What the pictures add to the gradient is that of the slow loop, by autograd on another generator; in parts, too.

    Each camera of the step counts once, by its nearest picture; opacity where there is a mask, which the first lacks.
    """
    image, alpha = torch.rand(3, 3, 16, 16), torch.rand(3, 1, 16, 16)
    alpha[0], nearest = 1, torch.tensor([0, 1, 2, 0])
    posed = Posed(ring(3, size=16), image, alpha, torch.full((3, 3), 0.7), nearest, nearest * 1.0, (500.0, 50.0))
    whole, start = gradients(posed)
    without, _ = gradients(None)
    render = start.render(posed.views, posed.behind)
    loss = 0.0
    for picture in nearest.tolist():
        loss = loss + 500 * (render.image[picture] - image[picture]).square().mean() / 4
        if picture:
            loss = loss + 50 * (render.alpha[picture] - alpha[picture]).square().mean() / 4
    assert posed.difference(render.image, render.alpha).item() == pytest.approx(loss.item(), rel=1e-5)
    added = torch.autograd.grad(loss, list(start.parameters()), allow_unused=True)
    for (name, _), gradient in zip(start.named_parameters(), added, strict=True):
        scale = float(gradient.abs().max())
        assert torch.allclose(whole[name] - without[name], gradient, atol=2e-3 * scale + 1e-7), name
    for how in ({"chunk": 1}, {"chunk": 2, "rerender": True}):
        parts, _ = gradients(posed, **how)
        for name, values in whole.items():
            assert torch.allclose(parts[name], values, rtol=1e-3, atol=1e-4 * float(values.abs().max()) + 1e-7), name


def test_resuming_is_exact_and_needs_no_picture(recipe: Path) -> None:
    folder = write_folder(recipe.parent / "scene", ring(3, size=16))
    options = ("--data.references=PosedFolder", f"--data.references.path={folder}", "--trainer.max_steps=3")
    options += ("--model.guidance.real_samples=NearestReference", "--model.guidance.real_samples.within_deg=45")
    quick = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]")
    straight = small_run(recipe, *options, *quick, "--checkpoints.every=1", "--checkpoints.keep_all=true")
    shutil.rmtree(folder)
    expected, moved = last(straight), straight.rename(recipe.parent / "moved")
    fit(moved, "--ckpt_path", moved / "checkpoints" / "step-000001.ckpt")
    for part in ("state_dict", "optimizer_states"):
        assert_same(last(moved)[part], expected[part])
    assert main(["test", str(moved)]) == 0


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("ReferenceView", "file=", "There is no picture to start from; give one by --data.references.file FILE"),
        ("ReferenceView", "file=nowhere.png", "There is no nowhere.png; name a picture"),
        ("PosedFolder", "path=", "give one by --data.references.path FOLDER"),
        ("PosedFolder", "path=no", "name a folder with a transforms.json"),
    ],
)
def test_what_is_missing_is_a_sentence(
    recipe: Path, refused: Callable[..., str], kind: str, given: str, said: str
) -> None:
    options = (f"--data.references={kind}", f"--data.references.{given}")
    assert said in refused("fit", "--config", recipe, *options)
    assert not (recipe.parent / "runs").exists()
