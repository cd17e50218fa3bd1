"""Prompts over a text encoder's limit keep their words for the view, in every family, and say what is left out."""

import logging
from pathlib import Path

import pytest
import torch
from support.tiny import loaded, save_tiny_pipeline
from support.tiny_families import PIPELINES, make

from asdkit.rendering.cameras import ring
from asdkit.scores.cfg_options import PerpNeg
from asdkit.scores.fields import Null, PerpNegPrompt
from asdkit.scores.prior import Condition

LONG = "a red duck with the hat of a blurry ball " * 60 + "of a cube"


@pytest.mark.parametrize("name", PIPELINES)
def test_directions_stay_different(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prior = loaded(make(name, tmp_path / name)[0])
    with caplog.at_level(logging.WARNING):
        prior.prepare([Condition(LONG)])
    views = [prior.prompts.embedded[text]["text"] for text in prior.view_words.prompts(LONG)]
    for first, second in ((0, 1), (0, 2), (1, 2), (2, 4)):
        assert not torch.allclose(views[first], views[second], atol=1e-4)
    said = [record.getMessage() for record in caplog.records if "tokens that are read" in record.getMessage()]
    assert said and all("left out is" in message for message in said)
    assert len(said) <= 3  # once for each text encoder, not for each direction
    caplog.clear()
    again = loaded(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        again.prepare([Condition(LONG)])
    assert "left out is" in caplog.text  # also where short prompts come from the disk


def test_what_is_left_is_the_longest_that_fits(tmp_path: Path) -> None:
    """By a slow loop over the words, and the text encoder itself."""
    folder, pipeline = make("sd", tmp_path / "sd")
    prior = loaded(folder, Condition(LONG), Condition("a red duck", False), Condition(LONG, view_dependent=False))
    for ending, text in ((", back view", f"{LONG}, back view"), ("", LONG)):
        words = LONG.split()[:100]
        while len(pipeline.tokenizer(" ".join(words) + ending).input_ids) > pipeline.tokenizer.model_max_length:
            words.pop()
        expected = pipeline.encode_prompt(" ".join(words) + ending, "cpu", 1, False)[0][0]
        assert torch.allclose(prior.prompts.embedded[text]["text"], expected, atol=1e-5)


def test_perp_neg_of_a_long_prompt_is_not_nothing(tmp_path: Path) -> None:
    prior = loaded(save_tiny_pipeline(tmp_path / "tiny", camera=False))
    plain, negative = (PerpNegPrompt(PerpNeg(*[(a, 0.5, a)] * 4), Null()) for a in (0.0, 1.0))
    views = ring(3)
    for field in (plain, negative):
        field.bind(LONG)
        field.setup(prior)
    x = prior.draw(torch.randn(3, 4, 8, 8), torch.tensor([500] * 3), torch.randn(3, 4, 8, 8), views)
    assert not torch.allclose(plain(x), negative(x), atol=1e-5)
