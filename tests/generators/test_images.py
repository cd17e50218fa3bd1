"""Images as generators, the canvas as data, and editing from the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.quiet import quiet_trainer
from support.tiny import loaded

from asdkit import DDS, Canvas, Distillation, GaussianPrior, Latents, Pixels
from asdkit.formats.pictures import read_picture
from asdkit.rendering.cameras import Batch


@pytest.fixture
def prior() -> GaussianPrior:
    return GaussianPrior({"y": [0.9, 0.1, 0.2], "z": [0.1, 0.7, 0.2]}, null_mean=0.5, spread=0.2)


def picture(path: Path, size: tuple[int, int] = (20, 20), colour: object = (200, 100, 50)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_pixels_show_what_they_hold_and_clamp(prior: GaussianPrior) -> None:
    pixels = Pixels(count=2, size=8)
    pixels.setup(prior)
    assert torch.equal(pixels.render(None).image, torch.full((2, 3, 8, 8), 0.5))
    pixels.pixels.data.fill_(1.5)
    x0, render = pixels.encoded(prior, Batch())
    assert x0.max() == 1 and torch.equal(render.alpha, torch.ones(2, 1, 8, 8))
    (-x0).sum().backward()  # would raise the pixels further: no gradient
    assert pixels.pixels.grad.abs().max() == 0
    pixels.encoded(prior, Batch())[0].sum().backward()
    assert torch.equal(pixels.pixels.grad, torch.ones(2, 3, 8, 8))


@pytest.mark.parametrize("init", ["grey", "noise", "saturated"])
def test_starts_depend_on_their_seed_alone(prior: GaussianPrior, init: str) -> None:
    def start(seed: int) -> torch.Tensor:
        pixels = Pixels(init, count=3, size=16, init_seed=seed)
        pixels.setup(prior)
        return pixels.pixels.detach()

    assert torch.equal(start(0), start(0))
    assert torch.equal(start(0), start(1)) == (init == "grey")
    assert start(0).min() >= 0 and start(0).max() <= 1
    if init == "saturated":
        assert start(0).unique().tolist() == [0, 1]


def test_a_start_from_a_picture_and_from_the_source(prior: GaussianPrior, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    from_file, from_source = (Pixels(init, count=2, size=16) for init in (str(path), "source"))
    from_file.setup(prior)
    from_source.setup(prior, Canvas(str(path), size=16).source)
    expected = (torch.tensor([200, 100, 50]) / 255).reshape(1, 3, 1, 1).expand(2, 3, 16, 16)
    assert torch.allclose(from_file.pixels, expected, atol=1e-6)
    assert torch.equal(from_source.pixels, from_file.pixels)
    with pytest.raises(ValueError, match="give --data.image FILE"):
        Pixels("source").setup(prior)
    with pytest.raises(ValueError, match="no picture nope.png"):
        Pixels("nope.png").setup(prior)


@pytest.mark.slow
def test_latents_are_x0_itself(tiny_folder: Path) -> None:
    prior = loaded(tiny_folder)
    latents = Latents(count=3, size=16)
    latents.setup(prior)
    x0, render = latents.encoded(prior, Batch())
    assert x0 is latents.latents and render is None and x0.shape == (3, *prior.latent_shape(16, 16))
    assert abs(x0.std().item() - 1) < 0.2
    assert torch.equal(latents.render(None).image, prior.decode(x0))
    grey = Latents("grey", count=1, size=16)
    grey.setup(prior)
    assert torch.allclose(grey.latents, prior.encode(torch.full((1, 3, 16, 16), 0.5)))


def test_a_checkpoint_wins_over_the_start(tiny_folder: Path) -> None:
    prior = loaded(tiny_folder)
    for kind, init in ((Latents, "normal"), (Pixels, "noise")):
        saved, restored = (kind(init, count=2, size=16, init_seed=seed) for seed in (4, 0))
        saved.setup(prior)
        restored.load_state_dict(saved.state_dict())
        restored.setup(prior)
        torch.testing.assert_close(restored.state_dict(), saved.state_dict(), rtol=0, atol=0)


def test_of_a_picture_the_middle_square_is_taken(tmp_path: Path) -> None:
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    Image.fromarray(stripes).save(tmp_path / "w.png")
    assert read_picture(tmp_path / "w.png", size=10).min() == 1
    with pytest.raises(ValueError, match="needs 8 at least"):
        Canvas(str(picture(tmp_path / "tiny.png", (4, 30))))


@pytest.mark.slow
def test_x0_moves_against_the_residual(prior: GaussianPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDS from the source: x0 - x0_source ends at lambda (mu_y - mu_z)."""
    encoded: list[int] = []
    monkeypatch.setattr(prior, "encode", lambda images: encoded.append(len(images)) or images)
    canvas = Canvas(str(picture(tmp_path / "a.png", (8, 8), colour=(60, 120, 90))), size=8)
    pixels = Pixels("source", count=2, size=8, lr=0.02)
    model = Distillation("y", prior, pixels, DDS(0.4), weighting="uniform", source="z")
    quiet_trainer(150).fit(model, canvas)
    shift = 0.4 * torch.tensor([0.8, -0.6, 0.0]).reshape(1, 3, 1, 1)
    assert torch.allclose(pixels.pixels.detach() - canvas.source, shift.expand(2, 3, 8, 8), atol=0.02)
    assert encoded.count(1) == 1


@pytest.mark.slow
def test_what_editing_lacks(tiny_folder: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    small = f"--model.prior.path={tiny_folder}", f"--run.root={tmp_path}", "--model.generator.size=16", "--data.size=16"
    source, target = "--model.source=a cube", "--model.target=a red cube"
    for arguments, words in (
        ((), "prompt is empty"),
        ((target,), "give --model.source"),
        ((source, target), "give --data.image FILE"),
        ((source, target, "--data.image=nope.png"), "There is no nope.png"),
    ):
        assert words in refused("fit", "--config", "edit2d", *small, *arguments)
