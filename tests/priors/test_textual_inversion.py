"""Textual inversions are words in prompts: the embedding is that of the pipeline which has loaded the file."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import loaded
from support.tiny_families import make

from asdkit.core.errors import PriorUnavailable
from asdkit.scores.prior import Condition

TEXT = "a <gadget> with a red hat"
RANDOM = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_word_of_a_file(vectors: int, tmp_path: Path) -> None:
    folder, pipeline = make("sd", tmp_path / "model")
    save_file({"<gadget>": RANDOM[:vectors].contiguous()}, tmp_path / "learned.safetensors")
    pipeline.load_textual_inversion(str(tmp_path / "learned.safetensors"))
    expected = pipeline.encode_prompt(TEXT, "cpu", 1, False)[0][0]
    prior = loaded(folder, Condition(TEXT), finetune=str(tmp_path / "learned.safetensors"))
    assert torch.allclose(prior.prompts.embedded[TEXT]["text"], expected, atol=1e-5)
    plain = loaded(folder, Condition(TEXT))
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


ONE = RANDOM[:1].clone()
BAD: dict[str, tuple[str, dict[str, torch.Tensor] | bytes, str]] = {
    "torn": ("sd", b"hello" * 9, "learned.safetensors is torn"),
    "another size": ("sd", {"<gadget>": torch.randn(1, 8)}, "can't be added"),
    "not finite": ("sd", {"<gadget>": torch.full((1, 16), torch.nan)}, "it is not finite"),
    "nothing": ("sd", {"<gadget>": torch.zeros(0, 16)}, "it has 0 vectors"),
    "more than a prompt": ("sd", {"<gadget>": torch.zeros(20_000, 16)}, "it has 20000 vectors"),
    "two words": ("sd", {"<gadget>": ONE, "<hat>": ONE + 1}, "it holds several words, <gadget>, <hat>"),
    "an encoder too many": ("sd", {"clip_l": ONE, "clip_g": ONE + 1}, "this model has no text_encoder_2"),
    "T5 takes none": ("pixart", {"<gadget>": ONE}, "can't be added"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_of_another_model_is_refused(case: str, tmp_path: Path) -> None:
    family, words, expected = BAD[case]
    folder = make(family, tmp_path / "model")[0]
    file = tmp_path / "learned.safetensors"
    file.write_bytes(words) if isinstance(words, bytes) else save_file(words, file)
    with pytest.raises(PriorUnavailable, match=expected):
        loaded(folder, finetune=str(tmp_path / "learned.safetensors")).prepare([Condition(TEXT)])


def test_a_file_of_another_name_is_another_word(tmp_path: Path) -> None:
    """What the first file's word was embedded as is not taken from the disk for the second's."""
    folder, _ = make("sd", tmp_path / "model")
    save_file({"emb_params": ONE}, tmp_path / "gizmo.safetensors")
    (tmp_path / "gadget.safetensors").write_bytes((tmp_path / "gizmo.safetensors").read_bytes())
    said = Condition("a red gizmo", False)
    priors = [loaded(folder, finetune=str(tmp_path / f"{name}.safetensors")) for name in ("gizmo", "gadget")]
    for prior in (*priors, plain := loaded(folder)):
        prior.prepare([said])
    first, second, expected = (prior.prompts.embedded[said.text]["text"] for prior in (*priors, plain))
    assert torch.equal(second, expected) and not torch.allclose(first, expected, atol=1e-3)
