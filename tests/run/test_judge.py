"""The toybox's judge gives the truth full marks, and all else the marks it deserves; and how much a run moves."""

import math
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from asdkit import SDS, Cameras, Canvas, Distillation, FiniteSetPrior, Pixels, Rendering, StabilityJudge, ToyboxJudge
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Batch, Views, ring
from asdkit.run.judge import Judge, correlation, structure
from asdkit.toybox import judge as judging
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.judge import azimuths_right


class Truthful:
    """A module that shows the true object, turned by some angle."""

    def __init__(self, prompt: str, turned: float = 0.0, error: float = 0.0) -> None:
        self.prompt, self.rendering, self.device = prompt, Rendering(), "cpu"
        self.turned, self.error, self.prior = turned, error, FiniteSetPrior()

    def show(self, views: Views) -> Render:
        turned = ring(len(views), 20.0, 3.4, size=views.width, offset_deg=self.turned) if self.turned else views
        image, *rest = world.render(parse(self.prompt), turned, (0.85,) * 3)
        return Render(image + self.error * torch.where(image < 0.5, 1, -1), *rest)


def measure(module: Truthful, cameras: Cameras) -> dict[str, float]:
    views = cameras.novel_views()
    return ToyboxJudge().measure(module, cameras, views, module.show(views))


@pytest.fixture(autouse=True)
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyboxJudge, "precision", lambda judge, prompt, images: {})
    monkeypatch.setattr(ToyboxJudge, "distance", lambda judge, images, truths: {})


def test_the_truth_has_full_marks_and_turned_round_no_azimuth_right() -> None:
    results = measure(Truthful("a yellow duck"), Cameras(size=32))
    assert results["psnr"] > 60 and results["iou"] == 1 and results["azimuth"] == 1
    assert measure(Truthful("a yellow duck", turned=180.0), Cameras(size=32))["azimuth"] == 0
    assert results["mottle"] == 1 and results["spectrum"] == results["palette_distance"] == 0
    assert results["spectrum_decoded"] == 0 and results["decoded_sharpness"] == results["sharpness"]
    assert results["saturation"] == results["true_saturation"] > 0
    assert {"psnr", "iou"} <= set(measure(Truthful("a red ball"), Cameras(size=32))) - {"azimuth"}  # it has no front


def test_a_material_has_no_psnr_and_another_instance_is_as_good_as_the_truth() -> None:
    judge, cameras = ToyboxJudge(), Cameras(size=64)
    views, module = cameras.novel_views(), Truthful("a red and white striped car")
    thing = parse(module.prompt)
    other = world.render(thing, views, (0.85,) * 3, instance=123)
    module.show = lambda views: Render(*world.render(thing, views, (0.85,) * 3, instance=123))
    results = judge.measure(module, cameras, views, Render(*other))
    assert not {"psnr", "mottle"} & set(results) and results["iou"] == results["azimuth"] == 1
    assert judge.unmeasured["psnr"].startswith("a red and white striped car has many right answers")
    assert results["sharpness"] == pytest.approx(results["true_sharpness"], rel=0.2)
    assert results["texture_power"] == pytest.approx(results["true_texture_power"], rel=0.3)
    flat = torch.stack([world.render(thing, views, (0.85,) * 3, 1, i).image for i in range(6)]).mean(0)
    smooth = ToyboxJudge().measure(module, cameras, views, Render(flat, *other[1:]))
    assert smooth["texture_power"] < 0.85 * results["texture_power"]
    assert smooth["palette_distance"] > 2 * results["palette_distance"]


@pytest.mark.parametrize("error", [0.2, 0.01])
def test_psnr_is_of_the_mean_squared_error(error: float) -> None:
    results = measure(Truthful("a red ball", error=error), Cameras(size=32))
    assert results["psnr"] == pytest.approx(-20 * math.log10(error), abs=1e-3)


def test_psnr_at_64_pixels_counts_what_is_alike_in_a_neighbourhood_and_not_what_alternates() -> None:
    truth, thing = torch.full((1, 3, 128, 128), 0.5), parse("a red ball")
    board = 0.1 - 0.2 * ((torch.arange(128)[:, None] + torch.arange(128)) % 2)
    even, fine = (ToyboxJudge().nearness(thing, truth + error, truth) for error in (0.1, board))
    assert even["psnr"] == pytest.approx(20, abs=1e-3) and even["psnr_64"] == pytest.approx(20, abs=1e-3)
    assert fine["psnr"] == pytest.approx(20, abs=1e-3) and fine["psnr_64"] > 40


class Brightness(Judge):
    judges = Canvas

    def measure(self, module: Distillation, data: Canvas, views: None, render: Render) -> dict[str, float]:
        return {"brightness": render.image.mean().item()}


def test_every_validation_is_judged_by_its_own_pictures() -> None:
    trainer = create_autospec(pl.Trainer, instance=True, global_step=1, datamodule=Canvas())
    trainer.state = SimpleNamespace(fn="fit")
    module, judge = create_autospec(Distillation, instance=True), Brightness()
    for level in (0.25, 0.75):
        render = Render(*(torch.full((1, k, 2, 2), level) for k in (3, 1, 1)))
        judge.on_validation_batch_end(trainer, module, render, Batch(None))
        judge.on_validation_epoch_end(trainer, module)
        assert judge.results == {"brightness": level}


def test_precision_is_measured_by_the_clip_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that prefers the true prompt for half of the pictures."""

    class Half:
        def __init__(self, folder: Path) -> None:
            assert folder == judging.EMBEDDED

        def cosines(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            assert len(prompts) == len(set(prompts)) == 200 and prompts[0] == "a yellow duck"
            assert images.shape[-1] == 32, "the CLIP takes pictures of any size"
            scores = torch.zeros(len(images), 200)
            scores[::2, 0] = 0.5
            scores[1::2, 7] = 0.5
            return scores

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    monkeypatch.undo()  # of no_clip
    monkeypatch.setattr(judging, "TinyCLIP", Half)
    figures = measure(Truthful("the yellow duck"), Cameras(size=32))
    assert figures["r_precision"] == 0.5 and figures["clip_score"] == pytest.approx(0.25)


def test_azimuths_count_within_45_degrees_round_the_circle() -> None:
    candidates = torch.eye(24)[:, :, None, None]
    seen = [0, 6, 6, 12, 12, 12, 21, 0]  # 0, 45, 0, 45, 0, 45, 45 and 45 degrees off
    assert azimuths_right(candidates[seen], candidates).tolist() == [1] * 8
    assert azimuths_right(candidates[[4, 23, 12]], candidates).tolist() == [0, 0, 0]


def judged(pictures: dict[int, Tensor], steps: int, interrupted_at: int = 0) -> dict[str, float]:
    """The figures of a run that shows these pictures, each from an iteration on."""
    judge, module = StabilityJudge(), Distillation("y", FiniteSetPrior(), Pixels(count=1), SDS())
    trainer = create_autospec(pl.Trainer, instance=True, max_steps=steps, datamodule=Canvas())
    render = Render(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    for step in range(1, steps + 1):
        render = render._replace(image=pictures.get(step, render.image))
        module.show = lambda views, render=render: render
        trainer.global_step = step
        judge.on_train_batch_end(trainer, module)
        if step == interrupted_at:
            state, judge = judge.state_dict(), StabilityJudge()
            judge.load_state_dict(state)
    return judge.measure(module, trainer.datamodule, None, render)


def test_colours_move_and_structure_stays() -> None:
    """From 40 % of the iterations on, the picture is tinted redder by a tenth, three times."""
    picture = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64) * 0.5
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    tinted = {step: picture + 0.1 * (step - 4) / 2 * red for step in (4, 6, 8, 10)}
    for interrupted_at in (0, 5, 8):
        figures = judged({1: 1 - picture, **tinted}, 10, interrupted_at)
        assert figures["movement"] == pytest.approx(0.1 / 3, abs=1e-6)
        assert figures["structure"] == pytest.approx(0, abs=1e-6)


def looks(judge: StabilityJudge, iterations: range) -> list[int]:
    """The iterations at which a judge looks, of a run that ends with the last of these."""
    module, seen = Distillation("y", FiniteSetPrior(), Pixels(count=1), SDS()), []
    trainer = create_autospec(pl.Trainer, instance=True, max_steps=iterations[-1], datamodule=Canvas())
    module.show = lambda views: seen.append(trainer.global_step) or Render(*torch.zeros(3, 1, 3, 64, 64))
    for trainer.global_step in iterations:
        judge.on_train_batch_end(trainer, module)
    return seen


def test_each_fifth_is_looked_at_once() -> None:
    """At its first iteration; a run that goes on beyond its end looks anew, for its fifths are others now."""
    assert looks(StabilityJudge(), range(1, 8)) == [2, 3, 5, 6, 7]
    judge = StabilityJudge()
    for iterations, kept in ((range(1, 6), [1, 2, 3, 4, 5]), (range(6, 11), [3, 4, 5])):
        looks(judge, iterations)
        assert sorted(judge._pictures) == kept


def test_another_object_is_another_structure() -> None:
    """Negative pictures: the correlation is -1, once in three steps of a fifth."""
    picture = torch.rand(1, 3, 64, 64)
    figures = judged({1: picture, 9: 1 - picture}, 10)
    assert figures["structure"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["movement"] == pytest.approx((1 - 2 * picture).abs().mean().item() / 3, abs=1e-5)


def test_correlation_is_pearsons() -> None:
    a, b = torch.rand(3, 20), torch.rand(3, 20)
    expected = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]
    assert torch.allclose(correlation(a, b).float(), torch.stack(expected), atol=1e-6)
    assert correlation(torch.ones(1, 4), torch.rand(1, 4)).item() == 0
    assert torch.allclose(structure(torch.ones(2, 3, 40, 40)), torch.ones(2, 256))
