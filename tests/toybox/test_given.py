"""What runs are given of a thing, and what they make of it: cutouts, spoilt objects, and their judges."""

import copy
import math
from pathlib import Path

import pytest
import torch

import asdkit
from asdkit.formats.pictures import read_cutout
from asdkit.toybox import given, world
from asdkit.toybox.captions import parse
from asdkit.toybox.given import seen


def run_of(prompt: str, count: int) -> asdkit.Distillation:
    return asdkit.Distillation(prompt, asdkit.FiniteSetPrior(), asdkit.Gaussians(count=count), asdkit.SDS())


def test_a_cutout_before_the_background_is_the_truth(tmp_path: Path) -> None:
    given.cutout("a yellow duck", 40.0, tmp_path / "duck.png")
    colours, alpha = read_cutout(tmp_path / "duck.png").split([3, 1])
    image = colours + 0.85 * (1 - alpha)
    assert alpha.min() == 0 and (image - seen("a yellow duck", 40.0).image[0]).abs().max() < 0.01


def test_views_far_from_the_given_one_and_what_was_given_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSNR by hand, of the novel views whose direction is 45 degrees away, and of all."""
    monkeypatch.setattr(given, "_FITTED", 2)
    given.spoilt("a yellow duck", 0.0, tmp_path / "duck.ply")
    module, data = run_of("a yellow duck", 50), asdkit.Cameras()
    novel, grey = data.novel_views(), module.rendering.background
    truth = world.render(parse("a yellow duck"), novel, (grey,) * 3).image
    with torch.no_grad():
        render = module.show(novel)
        start = asdkit.Gaussians(str(tmp_path / "duck.ply")).render(novel, torch.full((3,), grey)).image
    decibels, before = (-10 * (image - truth).square().flatten(1).mean(1).log10() for image in (render.image, start))
    eye = [math.cos(0.35) * math.cos(0.7), math.cos(0.35) * math.sin(0.7), math.sin(0.35)]  # 40 and 20 degrees, nearly
    angles = (novel.c2w[:, :3, 3] / novel.distance[:, None] @ torch.tensor(eye)).acos().rad2deg()
    assert (angles - 45).abs().min() > 1
    away = asdkit.ToyboxAwayJudge(40.0).measure(module, data, novel, render)
    assert away["psnr_away"] == pytest.approx(decibels[angles > 45].mean().item(), abs=1e-4) and away["psnr_given"] < 30
    gain = asdkit.ToyboxGainJudge(str(tmp_path / "duck.ply")).measure(module, data, novel, render)
    assert gain["psnr_before"] == pytest.approx(before.mean().item(), abs=1e-2)
    assert gain["gain"] == pytest.approx((decibels.mean() - before.mean()).item(), abs=1e-2)
    with pytest.raises(ValueError, match="start"):
        asdkit.ToyboxGainJudge()


def test_a_ceiling_is_above_what_the_run_has_made_and_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in Lightning's inference mode; the PSNR before is by hand."""
    monkeypatch.setattr(given, "_FITTED", 60)
    monkeypatch.setattr(given, "_BATCHES", 3)
    module, data = run_of("a red ball", 300), asdkit.Cameras(size=32)
    before, novel = copy.deepcopy(module.generator.state_dict()), data.novel_views()
    truth = world.render(parse("a red ball"), novel, (module.rendering.background,) * 3).image
    with torch.inference_mode():
        render = module.show(novel)
        own = -10 * (render.image - truth).square().flatten(1).mean(1).log10().mean().item()
        assert asdkit.ToyboxCeilingJudge().measure(module, data, novel, render)["ceiling"] > own + 3
    assert all(torch.equal(value, before[name]) for name, value in module.generator.state_dict().items())
    for prompt in ("a wooden chair", "a corgi"):
        judge, module.prompt = asdkit.ToyboxCeilingJudge(), prompt
        assert not judge.measure(module, data, novel, render)
        assert "no single true picture" in judge.unmeasured["ceiling"]
