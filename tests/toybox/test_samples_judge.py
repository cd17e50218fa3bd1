"""What is measured of a generator for many prompts."""

from pathlib import Path

import pytest
import torch
from support.quiet import quiet_trainer

import asdkit
from asdkit.toybox.captions import parse
from asdkit.toybox.measures import diversity
from asdkit.toybox.truths import true_pictures


@pytest.mark.slow
def test_samples_are_measured_beside_the_teachers(tiny_folder: Path) -> None:
    judge = asdkit.ToyboxSamplesJudge(prompts=2, samples=2, steps=2)
    data = asdkit.Canvas(prompts=asdkit.PromptList(["a red cube", "a red ball", "a red duck"], per_step=2))
    network = asdkit.Network(size=16, count=2)
    module = asdkit.Distillation("a red cube", asdkit.Pretrained(str(tiny_folder)), network, asdkit.SDS())
    quiet_trainer(1, callbacks=[judge]).fit(module, data)
    names = ("r_precision", "clip_score", "diversity", "kid")
    assert judge.results.keys() == {*names, *(f"teacher_{name}" for name in names)} and judge.errors.keys() == {
        "kid",
        "teacher_kid",
    }
    assert judge.results["diversity"] > 0 and judge.results["teacher_diversity"] > 0
    pictures = true_pictures("a red cube", 2, torch.Generator().manual_seed(0))
    assert parse("a red cube") and pictures.shape == (2, 3, 128, 128) and diversity(pictures) > 0
    with pytest.raises(ValueError, match="'a unicorn' is no thing"):
        true_pictures("a unicorn", 1, torch.Generator())
