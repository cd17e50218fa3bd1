"""Edits of true pictures: the canvas, what changed outside of the silhouettes, and distances to the true target."""

import math

import pytest
import torch

from asdkit import DDS, Distillation, FiniteSetPrior, Pixels, ToyboxCanvas, ToyboxEditJudge
from asdkit.generators.base import Render
from asdkit.toybox.given import change_outside, seen


def test_the_change_outside_counts_what_is_beyond_the_silhouettes_edge() -> None:
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[0, :, 4:8, 4:8], alpha[1, :, 6:10, 4:8] = 1, 0.5
    source, image = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    image[..., 2:12, 2:10] = 1  # the union and two pixels around it
    assert change_outside(image, source, alpha) == 0
    image[..., 0, 0] = 0.5
    assert change_outside(image, source, alpha) == pytest.approx(0.5 / (256 - 80))


def test_an_edit_is_measured_by_the_true_target() -> None:
    """The source is as far from the target as the two truths are; a result that is the target has no error."""
    canvas = ToyboxCanvas("a yellow duck", 90.0)
    source, target = canvas.source, seen("a red duck", 90.0).image
    module = Distillation("a red duck", FiniteSetPrior(), Pixels(count=1), DDS(), source="a yellow duck")
    render = Render(target, target[:, :1], target[:, :1])
    figures = ToyboxEditJudge(90.0).measure(module, canvas, None, render)
    assert figures["outside"] < 1e-3 and figures["psnr_after"] > 80
    assert figures["psnr_before"] == pytest.approx(-10 * math.log10((source - target).square().mean()), abs=1e-3)


def test_a_canvas_of_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="'a corgi' is no thing of the toybox"):
        ToyboxCanvas("a corgi")
