"""Posed pictures: their cameras, which are near to which, what the generator loses by, checkpoints and ranks."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support.forked import Forked
from support.quiet import quiet_trainer
from support.resuming import assert_resuming_is_exact, fit, last
from torch import Tensor
from torch.utils.data import DataLoader

from asdkit import (
    SDS,
    Cameras,
    Distance,
    Distillation,
    GaussianPrior,
    Gaussians,
    PosedFolder,
    PromptList,
    Ramp,
    Reconstruction,
    ReferenceView,
    Rendering,
)
from asdkit.commands.main import main
from asdkit.rendering.cameras import Batch, Posed, Views, orbit, ring
from asdkit.toybox import world
from asdkit.toybox.captions import parse

PLAIN = torch.full((3,), 0.85)


def save_truth(path: Path, views: Views, prompt: str = "a yellow duck") -> None:
    """A true picture with transparency; only opaque pixels' colours are exact."""
    truth = world.render(parse(prompt), views, (0.0, 0.0, 0.0))
    colours = truth.image[0] / truth.alpha[0].clamp(min=1e-6)
    rgba = torch.cat([colours.clamp(0, 1), truth.alpha[0]]).permute(1, 2, 0)
    Image.fromarray((rgba * 255).round().byte().numpy(), "RGBA").save(path)


def save_colour(path: Path, colour: tuple[int, ...], size: tuple[int, int] = (16, 16)) -> str:
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)
    return str(path)


def at(azimuth_deg: list[float], elevation_deg: float = 0.0, size: int = 16) -> Views:
    azimuth = torch.tensor(azimuth_deg).deg2rad()
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    return orbit(azimuth, elevation, torch.full_like(azimuth, 3.4), math.radians(40), size, size)


def test_a_reference_is_seen_by_the_recipes_camera(tmp_path: Path) -> None:
    """The truth from there is the picture; distance and fov of its own take the place of the recipe's."""
    views = at([75.0], 35.0, size=32)
    save_truth(tmp_path / "a.png", views)
    cameras = Cameras(size=32, references=ReferenceView(str(tmp_path / "a.png"), 75.0, 35.0))
    references = cameras.references
    assert all(torch.allclose(v, getattr(references.views, k), atol=1e-6) for k, v in views.tensors.items())
    near = references.near(views, None, PLAIN)
    truth = world.render(parse("a yellow duck"), views, (0.85,) * 3)
    assert (near.image - truth.image).abs().max() < 0.02 and (near.alpha - truth.alpha).abs().max() < 0.003
    own = Cameras(
        references=ReferenceView(str(tmp_path / "a.png"), distance=2.0, fov_deg=90.0), size=32
    ).references.views
    assert own.distance.tolist() == [2.0] and own.K[0, 1, 1].item() == pytest.approx(16.0)
    far = Cameras(references=ReferenceView(str(tmp_path / "a.png")), distance=Distance(4.0, 6.0), fov_deg=60.0)
    assert far.references.views.distance.tolist() == [5.0]
    assert far.references.views.K[0, 1, 1].item() == pytest.approx(64 / math.tan(math.radians(30)))


def test_each_camera_has_the_nearest_picture(tmp_path: Path) -> None:
    """Angles at the origin by spherical trigonometry; a picture with a mask stands before the step's backdrop."""
    folder = write_folder(tmp_path, at([0.0, 90.0], size=20), [(255, 0, 0), (0, 0, 255, 51)])
    references = Cameras(size=20, references=PosedFolder(str(folder), centre=False, scale=1.0)).references
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


def write_folder(
    folder: Path, views: Views, colours: list[tuple[int, ...]] | None = None, truth_from: Views | None = None
) -> Path:
    """What nerfstudio would write of these cameras: OpenGL's axes are OpenCV's with y and z turned round.

    The pictures are plain, or the truth from these cameras, or from others that stand there for it.
    """
    scene = folder / "scene"
    (scene / "shots").mkdir(parents=True)
    frames = []
    for i, c2w in enumerate(views.c2w.double()):
        matrix = c2w.clone()
        matrix[:3, 1:3] = -matrix[:3, 1:3]
        frames.append({"file_path": f"shots/{i}.png", "transform_matrix": matrix.tolist()})
        if colours:
            save_colour(scene / "shots" / f"{i}.png", colours[i], (views.width, views.height))
        else:
            save_truth(scene / "shots" / f"{i}.png", (truth_from or views)[i : i + 1])
    lens = {"fl_x": float(views.K[0, 0, 0]), "w": views.width, "h": views.height}
    (scene / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return scene


def test_a_camera_of_nerfstudio_by_hand(tmp_path: Path) -> None:
    """At (0, -4, 0), looking along +y: azimuth -90 degrees; with the front there, it is azimuth 0, at (4, 0, 0)."""
    opengl = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
    save_colour(tmp_path / "a.png", (9, 9, 9), (40, 20))
    frames = [{"file_path": "a.png", "transform_matrix": opengl}]
    facts = {"fl_x": 50, "fl_y": 60, "cx": 22, "cy": 9, "w": 80, "h": 40, "frames": frames}  # twice the picture's size
    (tmp_path / "transforms.json").write_text(json.dumps(facts))
    views = PosedFolder(str(tmp_path), centre=False, scale=1.0).read(10, 3.4, 40.0).views
    assert views.c2w[0].tolist() == [[1, 0, 0, 0], [0, 0, 1, -4], [0, -1, 0, 0], [0, 0, 0, 1]]
    assert views.azimuth.tolist() == pytest.approx([-math.pi / 2]) and views.distance.tolist() == [4.0]
    # Halved: 25, 30, 11, 4.5; the square of 20 begins at column 10; halved again to 10 pixels.
    assert torch.allclose(views.K[0], torch.tensor([[12.5, 0, 0.5], [0, 15, 2.25], [0, 0, 1]]))
    turned = PosedFolder(str(tmp_path), -90.0, centre=False, scale=0.5).read(10, 3.4, 40.0).views
    expected = [[0, 0, -1, 2], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]  # right +y, down -z, forward -x
    assert torch.allclose(turned.c2w[0], torch.tensor(expected).float(), atol=1e-6)
    assert torch.allclose(turned.c2w, orbit(*torch.tensor([[0.0], [0.0], [2.0]]), 0.7, 10, 10).c2w, atol=1e-6)


def test_a_folder_in_other_units_and_at_another_place_is_brought_to_the_origin(tmp_path: Path) -> None:
    """The cameras look at one point, from one distance: centre and scale give back those of the recipe."""
    views = ring(5, 25.0, size=24)
    moved = Views(**{**vars(views), "c2w": views.c2w.clone()})
    moved.c2w[:, :3, 3] = moved.c2w[:, :3, 3] * 7.0 + torch.tensor([3.0, -20.0, 5.0])
    read = PosedFolder(str(write_folder(tmp_path, moved, truth_from=views))).read(24, 3.4, 40.0)
    for name, values in views.tensors.items():
        got = getattr(read.views, name)
        difference = got - values
        difference = torch.remainder(difference + 1, 2 * math.pi) - 1 if name == "azimuth" else difference
        assert difference.abs().max() < 1e-4, name
    near = read.near(views, None, PLAIN)
    truth = world.render(parse("a yellow duck"), views, (0.85,) * 3).image
    assert near.nearest.tolist() == [0, 1, 2, 3, 4] and (near.image - truth).abs().max() < 0.02


def some_posed(count: int, rows: int, size: int = 16) -> Posed:
    """Pictures of noise; the first of two or more has no mask."""
    draws = torch.Generator().manual_seed(1)
    image, alpha = torch.rand(count, 3, size, size, generator=draws), torch.rand(count, 1, size, size, generator=draws)
    alpha[0] = 1
    nearest = torch.arange(rows) % count
    return Posed(
        ring(count, size=size), image, alpha, torch.full((count, 3), 0.7), nearest, nearest * 1.0, (500.0, 50.0)
    )


def test_the_difference_is_the_slow_loop() -> None:
    """Each camera of the step counts once, by its nearest picture; opacity where there is a mask."""
    posed = some_posed(2, 3)
    image, alpha = torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    expected = 0.0
    for picture in (0, 1, 0):
        expected += 500 * ((image[picture] - posed.image[picture]) ** 2).mean().item() / 3
        if picture:
            expected += 50 * ((alpha[picture] - posed.alpha[picture]) ** 2).mean().item() / 3
    assert posed.difference(image, alpha).item() == pytest.approx(expected, rel=1e-5)


def gradients(posed: Posed | None, **rendering: Any) -> tuple[dict[str, Tensor], Gaussians]:
    """Those of one iteration, which Adam's first means are a tenth of, and the generator as it was."""
    torch.manual_seed(0)
    generator, start = (Gaussians(count=60, capacity=60) for _ in range(2))
    how = {"rendering": Rendering(**rendering)}
    model = Distillation("y", GaussianPrior({"y": [0.9, 0.1, 0.2]}, 0.5, 0.2), generator, SDS(3.0), **how)
    quiet_trainer(1).fit(model, DataLoader([Batch(ring(4, size=16), references=posed)], batch_size=None))
    moments = model.trainer.optimizers[0].state
    return {name: 10 * moments[values]["exp_avg"] for name, values in generator.named_parameters()}, start


def test_the_generator_learns_by_the_guidance_and_by_the_pictures() -> None:
    """What they add to its gradient is that of the formula, by autograd on a generator of its own; in parts, too."""
    posed = some_posed(3, 4)
    whole, start = gradients(posed)
    without, _ = gradients(None)
    render = start.render(posed.views, posed.behind)
    loss = 0.0
    for picture in (0, 1, 2, 0):
        loss = loss + 500 * (render.image[picture] - posed.image[picture]).square().mean() / 4
        if picture:
            loss = loss + 50 * (render.alpha[picture] - posed.alpha[picture]).square().mean() / 4
    added = torch.autograd.grad(loss, list(start.parameters()), allow_unused=True)
    for (name, _), gradient in zip(start.named_parameters(), added, strict=True):
        scale = float(gradient.abs().max())
        assert torch.allclose(whole[name] - without[name], gradient, atol=2e-3 * scale + 1e-7), name
    for how in ({"chunk": 1}, {"chunk": 2, "rerender": True}):
        parts, _ = gradients(posed, **how)
        for name, values in whole.items():
            assert torch.allclose(parts[name], values, rtol=1e-3, atol=1e-4 * float(values.abs().max()) + 1e-7), name


def test_steps_have_pictures_before_their_own_backdrop(tmp_path: Path) -> None:
    """Weights may move; those of a checkpoint are the same, without the file."""
    file = save_colour(tmp_path / "a.png", (255, 0, 0, 0))
    weights = Reconstruction(Ramp(10.0, 20.0, 10), 3.0)
    cameras = Cameras(size=16, references=ReferenceView(file, reconstruction=weights))
    prior, how = GaussianPrior({"y": 1.0}), {"rendering": Rendering(random_background=0.5), "seed": 3}
    module = Distillation("y", prior, Gaussians(count=5, capacity=5), SDS(), **how)
    restored = Cameras(size=16)
    restored.load_state_dict(cameras.state_dict())
    for data in (cameras, restored):
        data.trainer = module.trainer = SimpleNamespace(lightning_module=module, global_step=4, global_rank=0)
        greys = set()
        for step, batch in zip(range(4, 9), data.train_dataloader(), strict=False):
            assert tuple(batch.references.weights) == (10.0 + step, 3.0)
            assert torch.equal(batch.references.image[0, :, 3, 3], module.backdrop(step))
            greys.add(float(batch.references.behind[0, 0]))
        assert len(greys) > 1
    with pytest.raises(ValueError, match="data.references show one object, and data.prompts name several"):
        Cameras(references=ReferenceView(file), prompts=PromptList(["a"]))


QUICK = (
    "--snapshots.every=0",
    "--report.size=16",
    "--trainer.callbacks=[]",
    "--model.guidance.real_samples=NearestReference",
)


def options_for(recipe: Path) -> tuple[object, ...]:
    """A picture from 20 degrees for the recipe; half of the cameras are near it."""
    save_truth(recipe.parent / "duck.png", at([20.0], 20.0), "a red duck")
    own = ("--model.guidance.real_samples.within_deg=80", "--data.references=ReferenceView")
    return (*QUICK, *own, f"--data.references.file={recipe.parent / 'duck.png'}", "--data.references.azimuth_deg=20")


def test_resuming_is_exact_and_needs_no_picture(recipe: Path) -> None:
    options = options_for(recipe)
    straight = assert_resuming_is_exact(recipe, *options, half=1, steps=3)
    plain = (*QUICK[:3], "--run.name=plain", "--trainer.max_steps=3")
    fit("--config", recipe, *plain)
    runs, moved = recipe.parent / "runs" / "small", recipe.parent / "moved"
    assert not torch.equal(straight["state_dict"]["generator.sh"], last(runs / "plain")["state_dict"]["generator.sh"])
    (recipe.parent / "duck.png").unlink()
    (runs / "straight").rename(moved)
    fit(moved, "--ckpt_path", moved / "checkpoints" / "step-000001.ckpt")
    again = last(moved)["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in straight["state_dict"].items())


DUMP = """
import pytorch_lightning as pl
import torch

class Dump(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.save(pl_module.state_dict() | {"near": batch.references.angle_deg}, f"rank{trainer.global_rank}.pt")
"""


def test_two_ranks_make_one_object(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has cameras of its own near to the picture, and both hold the same numbers."""
    (recipe.parent / "dump.py").write_text(DUMP)
    monkeypatch.chdir(recipe.parent)
    monkeypatch.syspath_prepend(recipe.parent)
    two = ("--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.callbacks+=dump.Dump", "--trust=dump")
    arguments = ["fit", "--config", str(recipe), *map(str, options_for(recipe)), *two, "--trainer.max_steps=3"]
    child = Forked(lambda: main(arguments), recipe.parent / "log", {"OMP_NUM_THREADS": "1"})
    assert child.wait() == 0, child.text()
    one, other = (torch.load(recipe.parent / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one.pop("near"), other.pop("near"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--data.references.file="], 2, "There is no picture to start from; give one by --data.references.file FILE"),
        (["--data.references.file=nowhere.png"], 2, "There is no nowhere.png; name a picture"),
        (["--data.references=PosedFolder", "--data.references.path="], 2, "give one by --data.references.path FOLDER"),
        (["--data.references=PosedFolder", "--data.references.path=no"], 2, "name a folder with a transforms.json"),
    ],
)
def test_what_is_missing_is_a_sentence(
    recipe: Path, capsys: pytest.CaptureFixture, options: list[str], code: int, said: str
) -> None:
    given = [] if "PosedFolder" in options[0] else ["--data.references=ReferenceView"]
    assert main(["fit", "--config", str(recipe), *QUICK, *given, *options]) == code
    assert said in capsys.readouterr().err and not (recipe.parent / "runs").exists()


def test_a_folder_is_read_by_a_recipe(recipe: Path) -> None:
    folder = write_folder(recipe.parent, ring(3, size=16))
    options = ("--data.references=PosedFolder", f"--data.references.path={folder}", "--trainer.max_steps=2")
    fit("--config", recipe, *QUICK, *options, "--run.name=folder")
    shutil.rmtree(folder)
    assert main(["test", str(recipe.parent / "runs" / "small" / "folder")]) == 0
