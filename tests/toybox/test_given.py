"""What runs are given of a thing, and what they make of it: cutouts, spoilt objects, edits, and their judges."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import asdkit
from asdkit.formats.pictures import read_cutout
from asdkit.generators.base import Render
from asdkit.toybox import given, world
from asdkit.toybox.captions import parse
from asdkit.toybox.given import change_outside, seen


def run_of(prompt: str, count: int) -> asdkit.Distillation:
    return asdkit.Distillation(prompt, asdkit.FiniteSetPrior(), asdkit.Gaussians(count=count), asdkit.SDS())


def decibels(images: Tensor, truths: Tensor) -> Tensor:
    """PSNR by hand, of each image."""
    return -10 * (images - truths).square().flatten(1).mean(1).log10()


def test_a_cutout_before_the_background_is_the_truth(tmp_path: Path) -> None:
    given.cutout("a yellow duck", 40.0, tmp_path / "duck.png")
    colours, alpha = read_cutout(tmp_path / "duck.png").split([3, 1])
    image = colours + 0.85 * (1 - alpha)
    assert alpha.min() == 0 and (image - seen("a yellow duck", 40.0).image[0]).abs().max() < 0.01


def test_views_far_from_the_given_one_and_what_was_given_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the novel views whose direction is 45 degrees away, and of all."""
    monkeypatch.setattr(given, "_FITTED", 2)
    given.spoilt("a yellow duck", 0.0, tmp_path / "duck.ply")
    module, data = run_of("a yellow duck", 50), asdkit.Cameras()
    novel, grey = data.novel_views(), module.rendering.background
    truth = world.render(parse("a yellow duck"), novel, (grey,) * 3).image
    with torch.no_grad():
        render = module.show(novel)
        start = asdkit.Gaussians(str(tmp_path / "duck.ply")).render(novel, torch.full((3,), grey)).image
    after, before = decibels(render.image, truth), decibels(start, truth).mean().item()
    eye = [math.cos(0.35) * math.cos(0.7), math.cos(0.35) * math.sin(0.7), math.sin(0.35)]  # 40 and 20 degrees, nearly
    angles = (novel.c2w[:, :3, 3] / novel.distance[:, None] @ torch.tensor(eye)).acos().rad2deg()
    assert (angles - 45).abs().min() > 1
    away = asdkit.ToyboxAwayJudge(40.0).measure(module, data, novel, render)
    assert away["psnr_away"] == pytest.approx(after[angles > 45].mean().item(), abs=1e-4) and away["psnr_given"] < 30
    gain = asdkit.ToyboxGainJudge(str(tmp_path / "duck.ply")).measure(module, data, novel, render)
    assert gain["psnr_before"] == pytest.approx(before, abs=1e-2)
    assert gain["gain"] == pytest.approx(after.mean().item() - before, abs=1e-2)
    with pytest.raises(ValueError, match="start"):
        asdkit.ToyboxGainJudge()


def test_a_ceiling_is_above_what_the_run_has_made_and_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in Lightning's inference mode."""
    monkeypatch.setattr(given, "_FITTED", 60)
    monkeypatch.setattr(given, "_BATCHES", 3)
    module, data = run_of("a red ball", 300), asdkit.Cameras(size=32)
    before, novel = copy.deepcopy(module.generator.state_dict()), data.novel_views()
    truth = world.render(parse("a red ball"), novel, (module.rendering.background,) * 3).image
    with torch.inference_mode():
        render = module.show(novel)
        ceiling = asdkit.ToyboxCeilingJudge().measure(module, data, novel, render)["ceiling"]
    assert ceiling > decibels(render.image, truth).mean() + 3
    assert all(torch.equal(value, before[name]) for name, value in module.generator.state_dict().items())
    for prompt in ("a wooden chair", "a corgi"):
        judge, module.prompt = asdkit.ToyboxCeilingJudge(), prompt
        assert not judge.measure(module, data, novel, render)
        assert "no single true picture" in judge.unmeasured["ceiling"]


def test_the_change_outside_counts_what_is_beyond_the_silhouettes_edge() -> None:
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[0, :, 4:8, 4:8], alpha[1, :, 6:10, 4:8] = 1, 0.5
    source, image = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    image[..., 2:12, 2:10] = 1  # the union and two pixels around it
    assert change_outside(image, source, alpha) == 0
    image[..., 0, 0] = 0.5
    assert change_outside(image, source, alpha) == pytest.approx(0.5 / (256 - 80))


def test_an_edit_is_measured_by_the_true_target() -> None:
    """The source is as far from it as the two truths are; a result that is the target has no error."""
    canvas = asdkit.ToyboxCanvas("a yellow duck", 90.0)
    source, target = canvas.source, seen("a red duck", 90.0).image
    module, render = run_of("a red duck", 5), Render(target, target[:, :1], target[:, :1])
    module.source = "a yellow duck"
    figures = asdkit.ToyboxEditJudge(90.0).measure(module, canvas, None, render)
    assert figures["outside"] < 1e-3 and figures["psnr_after"] > 80
    assert figures["psnr_before"] == pytest.approx(decibels(source, target).item(), abs=1e-3)
    with pytest.raises(ValueError, match="'a corgi' is no thing of the toybox"):
        asdkit.ToyboxCanvas("a corgi")
