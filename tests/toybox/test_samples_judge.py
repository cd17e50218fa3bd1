"""What is measured of a generator for many prompts."""

from itertools import product
from pathlib import Path

import pytest
import torch
from support.quiet import quiet_trainer

import asdkit
from asdkit.toybox.captions import parse
from asdkit.toybox.samples_judge import diversity, kid, true_pictures


def test_kid_by_slow_loops() -> None:
    x, y = torch.randn(5, 4), torch.randn(3, 4) + 1

    def mean(first: torch.Tensor, second: torch.Tensor, same: bool) -> float:
        pairs = [(a, b) for a, b in product(range(len(first)), range(len(second))) if not (same and a == b)]
        return sum((float(first[a] @ second[b]) / 4 + 1) ** 3 for a, b in pairs) / len(pairs)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kid(x, y) == pytest.approx(expected, rel=1e-5)


def test_diversity_is_zero_for_one_and_grows_with_the_distance() -> None:
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert diversity(black) == 0
    assert diversity(torch.cat([black, white, white])) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_samples_are_measured_beside_the_teachers(tiny_folder: Path) -> None:
    judge = asdkit.ToyboxSamplesJudge(prompts=2, samples=2, steps=2)
    data = asdkit.Canvas(prompts=asdkit.PromptList(["a red cube", "a red ball", "a red duck"], per_step=2))
    network = asdkit.Network(size=16, count=2)
    module = asdkit.Distillation("a red cube", asdkit.Pretrained(str(tiny_folder)), network, asdkit.SDS())
    quiet_trainer(1, callbacks=[judge]).fit(module, data)
    names = {
        f"{whose}{what}" for whose in ("", "teacher_") for what in ("r_precision", "clip_score", "diversity", "kid")
    }
    assert judge.results.keys() == names
    assert judge.results["diversity"] > 0 and judge.results["teacher_diversity"] > 0
    pictures = true_pictures("a red cube", 2, torch.Generator().manual_seed(0))
    assert parse("a red cube") and pictures.shape == (2, 3, 64, 64) and diversity(pictures) > 0
    with pytest.raises(ValueError, match="'a unicorn' is none"):
        true_pictures("a unicorn", 1, torch.Generator())
