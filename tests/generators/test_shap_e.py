"""Gaussians that start from Shap-E: diffusers' own pipeline with tiny weights, and meshes that are known."""

import gc
import math
import shutil
import weakref
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.gaussians import save_run
from support.tiny import save_tiny_shap_e
from torch import Tensor

from asdkit import Gaussians, Initial, ShapE
from asdkit.generators.from_checkpoint import generator_of

GRID = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_shap_e(tmp_path_factory.mktemp("tiny") / "shap-e")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marching cubes on a grid of 16 instead of 128."""
    from diffusers.pipelines.shap_e import ShapERenderer

    monkeypatch.setattr(ShapERenderer, "decode_to_mesh", partialmethod(ShapERenderer.decode_to_mesh, grid_size=GRID))


def made(monkeypatch: pytest.MonkeyPatch, vertices: Tensor, faces: Tensor, light: Tensor) -> ShapE:
    """A Shap-E that makes this mesh."""
    mesh = SimpleNamespace(verts=vertices, faces=faces, vertex_channels=dict(zip("RGB", light.unbind(1), strict=True)))

    class Pipeline:
        def set_progress_bar_config(self, **arguments: object) -> None: ...

        def __call__(self, *arguments: object, **named: object) -> SimpleNamespace:
            return SimpleNamespace(images=[mesh])

    monkeypatch.setattr(ShapE, "_pipeline", lambda self: Pipeline())
    return ShapE("a box", "nowhere")


@pytest.mark.parametrize(("rotation_deg", "axes"), [(0.0, [[0, 1], [-1, 0]]), (90.0, [[-1, 0], [0, -1]])])
def test_the_tiny_pipelines_object_is_as_known(folder: Path, rotation_deg: float, axes: list[list[float]]) -> None:
    """A box in Shap-E's axes, whose sRGB is a function of the place there; `axes` has rows of Shap-E's x and y."""
    points, colours = ShapE("a red cube", str(folder), steps=2, rotation_deg=rotation_deg).points(
        3000, torch.Generator()
    )
    assert points.dtype == colours.dtype == torch.float32
    x, y, z = (*(points[:, :2] @ torch.tensor(axes).float().T).unbind(1), points[:, 2])
    shrunk = (GRID - 1) / (GRID + 1)  # diffusers puts the grid with its border into the cube of the grid without it
    for along in (x, y):
        assert float(along.max()) == pytest.approx(-float(along.min()), abs=1e-3) and 0.9 < float(along.max()) < 1
    assert float(z.max()) == pytest.approx(0.3 * shrunk, abs=0.015) and -1 < float(z.min()) < -0.9
    torch.testing.assert_close(colours, torch.sigmoid(2 * torch.stack([x, y, z], dim=1)), atol=0.01, rtol=0)
    inner = [(v > v.min() + 0.12) & (v < v.max() - 0.12) for v in (x, y, z)]
    assert not (inner[0] & inner[1] & inner[2]).any()  # all of them at the surface, whose edges are cut
    sides = [float((inner[i] & inner[j]).float().mean()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sides[1:] == pytest.approx([sides[0] * (1.20 - 0.24) / (1.88 - 0.24)] * 2, rel=0.15)


def test_up_is_up_and_the_front_is_what_diffusers_shows_first() -> None:
    from diffusers.pipelines.shap_e.camera import create_pan_cameras

    cameras = create_pan_cameras(8)
    assert (cameras.y[:, 2] < -0.5).all()  # what is lower in the pictures has a smaller z
    eyes = ShapE("x", "nowhere")._rotated(cameras.origin)
    torch.testing.assert_close(eyes[0, :2] / eyes[0, :2].norm(), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    assert (eyes[:, 2] > 0).all()
    turned = ShapE("x", "nowhere", rotation_deg=30)._rotated(cameras.origin)
    assert math.atan2(turned[0, 1], turned[0, 0]) == pytest.approx(math.radians(30))


def test_diffusers_is_called_as_asked_and_is_gone_afterwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import ShapEPipeline

    call, seen = ShapEPipeline.__call__, []

    def spy(self: ShapEPipeline, *arguments: object, **named: object) -> object:
        seed, parameter = named["generator"].initial_seed(), next(self.prior.parameters())
        seen.append((arguments, named, seed, weakref.ref(self), parameter))
        return call(self, *arguments, **named)

    monkeypatch.setattr(ShapEPipeline, "__call__", spy)
    before = torch.random.get_rng_state()
    first, _ = ShapE("a red cube", str(folder), steps=3, scale=2.5, seed=7).points(10, torch.Generator())
    ((arguments, named, seed, pipeline, parameter),) = seen
    assert arguments == ("a red cube",) and seed == 7 and parameter.dtype == torch.float32
    assert named.items() >= {"num_inference_steps": 3, "guidance_scale": 2.5, "output_type": "mesh"}.items()
    gc.collect()
    assert pipeline() is None
    assert torch.equal(torch.random.get_rng_state(), before)
    again, _ = ShapE("a red cube", str(folder), steps=1).points(10, torch.Generator())
    other, _ = ShapE("a red cube", str(folder), steps=1).points(10, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and not torch.equal(first, other)


BOX = torch.tensor([[x, y, z] for x in (0.0, 4.0) for y in (0.0, 2.0) for z in (0.0, 1.0)])
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
BOX_FACES = torch.tensor([[q[0], q[i], q[i + 1]] for q in QUADS for i in (1, 2)])


def test_gaussians_start_there_fitted_into_the_ball(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start = made(monkeypatch, BOX + 7, BOX_FACES, torch.full((8, 3), 0.2158605))  # sRGB 0.502
    gaussians = Gaussians(start=start, count=4000, capacity=4100, initial=Initial(radius=0.7))
    means, radius = gaussians.means[:4000].detach(), math.hypot(4, 2, 1) / 2
    assert gaussians.num_alive == 4000 and float(means.norm(dim=1).max()) == pytest.approx(0.7)
    half = torch.tensor([1.0, 2.0, 0.5]) * 0.7 / radius  # Shap-E's x is the world's y
    torch.testing.assert_close(means.amax(0), half, rtol=0.02, atol=0)
    torch.testing.assert_close(means.amin(0), -half, rtol=0.02, atol=0)
    colours = 0.5 + 0.28209479 * gaussians.sh[:4000, 0]
    torch.testing.assert_close(colours, torch.full((4000, 3), 0.502), atol=1e-4, rtol=0)
    arguments = {"prompt": "a box", "path": "nowhere", "steps": 64, "scale": 15.0, "rotation_deg": 0.0, "seed": 0}
    assert gaussians.spec["init_args"]["start"] == {"class_path": "asdkit.ShapE", "init_args": arguments}
    path = save_run(tmp_path / "a.ckpt", gaussians)
    monkeypatch.undo()  # Shap-E is nowhere again, and the run does not need it
    assert torch.equal(generator_of(path).means, gaussians.means)


def _without(name: str, key: str) -> Callable[[Path], None]:
    def take_away(folder: Path) -> None:
        (path,) = (folder / name).glob("*.safetensors")
        weights = load_file(path)
        del weights[key]
        save_file(weights, path, metadata={"format": "pt"})

    return take_away


def _torn(folder: Path) -> None:
    (path,) = (folder / "shap_e_renderer").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "shap-e has no model_index.json; give the whole folder"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "shap-e has no tokenizer; give the whole folder"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "shap-e can't be loaded as Shap-E"),
        (_torn, "shap-e can't be loaded as Shap-E"),
        (_without("prior", "time_embedding.linear_1.weight"), "shap-e can't be loaded as Shap-E"),
        (_without("shap_e_renderer", "mesh_decoder.masks"), "Shap-E made nothing of 'a red cube'"),
    ],
)  # fmt: skip
def test_broken_folders_are_told(folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoiled = shutil.copytree(folder, tmp_path / "shap-e")
    spoil(spoiled)
    with pytest.raises(ValueError, match=message) as caught:
        Gaussians(start=ShapE("a red cube", str(spoiled), steps=1))
    assert "\n" not in str(caught.value)


def test_no_prompt_or_a_mesh_without_area_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for vertices in (torch.zeros(8, 3), BOX * math.nan):
        start = made(monkeypatch, vertices, BOX_FACES, torch.zeros(8, 3))
        with pytest.raises(ValueError, match="What Shap-E made of 'a box' has no surface"):
            Gaussians(start=start)
    with pytest.raises(ValueError, match="prompt is empty"):
        ShapE(prompt=" ", path="nowhere")


def test_the_command_line_starts_it(recipe: Path, refused: Callable[..., str]) -> None:
    options = [f"--model.generator.start{option}" for option in ("=ShapE", ".path=x", ".prompt=y")]
    assert "x has no model_index.json" in refused("fit", "--config", recipe, *options)
