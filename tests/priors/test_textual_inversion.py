"""Textual inversions are words in prompts: the embedding is that of the pipeline which has loaded the file."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import loaded
from support.tiny_families import make
from torch import Tensor

from asdkit.core.errors import PriorUnavailable
from asdkit.scores.conditions import Condition

TEXT = "a <gadget> with a red hat"
RANDOM = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_word_of_a_file(vectors: int, tmp_path: Path) -> None:
    folder, pipeline = make("sd", tmp_path / "model")
    save_file({"<gadget>": RANDOM[:vectors].contiguous()}, tmp_path / "learned.safetensors")
    pipeline.load_textual_inversion(str(tmp_path / "learned.safetensors"))
    expected = pipeline.encode_prompt(TEXT, "cpu", 1, False)[0][0]
    prior = loaded(folder, finetune=str(tmp_path / "learned.safetensors"))
    prior.prepare([Condition(TEXT)])
    assert torch.allclose(prior.prompts.embedded[TEXT]["text"], expected, atol=1e-5)
    plain = loaded(folder)
    plain.prepare([Condition(TEXT)])
    assert not torch.allclose(plain.prompts.embedded[TEXT]["text"], expected, atol=1e-3)
    assert plain.digest != prior.digest


def test_a_file_without_a_name_for_two_encoders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The word is the file's name; a prompt that doesn't say it is told so."""
    folder, _ = make("sdxl", tmp_path / "model")
    save_file({"clip_l": RANDOM[:1].clone(), "clip_g": RANDOM[1:2].clone()}, tmp_path / "gizmo.safetensors")
    prior, plain = loaded(folder, finetune=str(tmp_path / "gizmo.safetensors")), loaded(folder)
    with caplog.at_level(logging.WARNING):
        prior.prepare([Condition("a red gizmo", False)])
        assert not caplog.records
        prior.prepare([Condition("a red duck", False)])
    assert "No prompt says gizmo, the word of the textual inversion gizmo.safetensors" in caplog.text
    plain.prepare([Condition("a red gizmo", False), Condition("a red duck", False)])
    words, others = prior.prompts.embedded, plain.prompts.embedded
    assert torch.allclose(words["a red duck"]["text"], others["a red duck"]["text"], atol=1e-6)
    halves = zip(words["a red gizmo"]["text"].chunk(2, -1), others["a red gizmo"]["text"].chunk(2, -1), strict=True)
    assert not any(torch.allclose(half, other, atol=1e-3) for half, other in halves)  # both encoders know it


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("sd", torch.randn(1, 8)),
        ("sd", torch.full((1, 16), torch.nan)),
        ("pixart", RANDOM[:1].clone()),
        ("sd", torch.zeros(20_000, 16)),
        ("sd", torch.zeros(0, 16)),
    ],
    ids=["another size", "not finite", "T5 takes none", "more than a prompt", "nothing"],
)
def test_one_of_another_model_is_refused(family: str, value: Tensor, tmp_path: Path) -> None:
    folder = make(family, tmp_path / "model")[0]
    save_file({"<gadget>": value}, tmp_path / "learned.safetensors")
    with pytest.raises(PriorUnavailable, match="textual inversion .* can't be added"):
        loaded(folder, finetune=str(tmp_path / "learned.safetensors")).prepare([Condition(TEXT)])
