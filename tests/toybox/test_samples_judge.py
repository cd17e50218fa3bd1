"""What is measured of generators for many prompts."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.quiet import quiet_trainer

import asdkit
from asdkit.toybox import world
from asdkit.toybox.captions import parse, thing_of
from asdkit.toybox.judge import some_of
from asdkit.toybox.measures import diversity
from asdkit.toybox.truths import true_pictures

OTHERS = asdkit.PromptList(["my dog Rex"], per_step=1)  # of another world


@pytest.mark.slow
def test_samples_are_measured_beside_the_teachers(tiny_folder: Path) -> None:
    judge = asdkit.ToyboxSamplesJudge(prompts=2, samples=2, steps=2)
    data = asdkit.Canvas(prompts=asdkit.PromptList(["a red cube", "a red ball", "a red duck"], per_step=2))
    network = asdkit.Network(size=16, count=2)
    module = asdkit.Distillation("a red cube", asdkit.Pretrained(str(tiny_folder)), network, asdkit.SDS())
    quiet_trainer(1, callbacks=[judge]).fit(module, data)
    names = ("r_precision", "clip_score", "diversity", "kid")
    assert judge.results.keys() == {*names, *(f"teacher_{name}" for name in names)}
    assert judge.errors.keys() == {"kid", "teacher_kid"}
    assert judge.results["diversity"] > 0 and judge.results["teacher_diversity"] > 0
    data.prompts = OTHERS
    assert judge.measure(module, data, None, None) == {} and judge.unmeasured.keys() == {"kid"}
    pictures = true_pictures("a red cube", 2, torch.Generator().manual_seed(0))
    assert parse("a red cube") and pictures.shape == (2, 3, 128, 128) and diversity(pictures) > 0
    with pytest.raises(ValueError, match="'a unicorn' is no thing"):
        true_pictures("a unicorn", 1, torch.Generator())


@pytest.mark.slow
def test_objects_of_many_prompts_are_measured_one_by_one(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The field of each prompt, seen by itself, against the world's own renders."""
    held_out = asdkit.PromptList(["a red duck"])
    judge = asdkit.ToyboxObjectsJudge(prompts=2, held_out=held_out)
    prompts = asdkit.PromptList(["a red cube", "a wooden chair", "a red ball"], per_step=2)
    data = asdkit.Cameras(views_per_step=2, size=16, prompts=prompts)
    generator = asdkit.Amortized3D(8, 2, 4, samples=8, blob=30.0)
    module = asdkit.Distillation("a red cube", asdkit.Pretrained(str(tiny_folder)), generator, asdkit.SDS())
    quiet_trainer(1, callbacks=[judge]).fit(module, data)
    views, grey = data.novel_views(), (module.rendering.background,) * 3
    with torch.no_grad():
        made = {text: generator.made(text).render(views, torch.tensor(grey)) for text in (*prompts.texts, "a red duck")}
    truths = {prompt: world.render(thing_of(prompt), views, grey) for prompt in made}
    overlap = {}
    for prompt, seen in made.items():
        pairs = zip(seen.alpha.gt(0.5), truths[prompt].alpha.gt(0.5), strict=True)
        overlap[prompt] = sum(int((a & b).sum()) / int((a | b).sum()) for a, b in pairs) / len(views)
    figures = judge.results
    assert figures["objects_iou"] == pytest.approx((overlap["a red cube"] + overlap["a red ball"]) / 2, abs=1e-5)
    assert figures["held_out_objects_iou"] == pytest.approx(overlap["a red duck"], abs=1e-5)
    squares = (made["a red duck"].image - truths["a red duck"].image).square().flatten(1).mean(1)
    assert figures["held_out_objects_psnr"] == pytest.approx((-10 * squares.log10()).mean().item(), abs=1e-3)
    assert figures["object_ms"] > 0 and {"objects_r_precision", "held_out_objects_clip_score"} <= figures.keys()
    clock = SimpleNamespace(perf_counter=count(step=2).__next__)  # two seconds from one look to the next
    monkeypatch.setattr("asdkit.toybox.objects_judge.time", clock)
    assert judge.measure(module, data, views, made["a red cube"])["object_ms"] == 2000
    data.prompts, others = OTHERS, asdkit.ToyboxObjectsJudge()
    assert others.measure(module, data, views, None) == {} and "none of the prompts" in others.unmeasured["objects_iou"]
    module.generator = asdkit.Gaussians(count=5)
    with pytest.raises(ValueError, match="judges an Amortized3D"):
        judge.measure(module, data, views, made["a red cube"])


def test_prompts_of_some_kinds_and_some_of_those_that_are_known() -> None:
    assert some_of(["a red car", "my dog Rex", "a blue chair", "a red ball"], 2) == ["a red car", "a red ball"]
    learned, others = (asdkit.ToyboxPrompts(kinds=["car", "owl"], held_out=held).texts for held in (False, True))
    assert len(learned) == 18 and len(others) == 4 and not {*learned} & {*others}
    assert all(text.endswith((" car", " owl")) for text in (*learned, *others))
    with pytest.raises(ValueError, match="The toybox has no 'dragon'; kinds are one of airplane, ball, bear"):
        asdkit.ToyboxPrompts(kinds=["car", "dragon"])
