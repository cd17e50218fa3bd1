"""Prompts for single views, and embedded prompts that are remembered on disk."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.four_views import Loop, cameras, drawn
from support.tiny import TEXT, loaded, ready
from torch import Tensor
from transformers import CLIPTextModel

from asdkit import ASD, CFG, SDS, Discriminator, Distillation, GaussianPrior, Latents, LoRA, Pretrained, Prompt
from asdkit.commands.main import main
from asdkit.priors.prompt_embedder import blended, cache_file
from asdkit.rendering.view_words import DREAMFUSION, EIGHT_SECTORS
from asdkit.scores.prior import NULL, Condition

Y = Condition(TEXT)


def test_whole_prompts_take_the_place_of_the_views_words() -> None:
    named = {"front": "a face", "side": "an ear", "overhead": "a crown"}
    assert DREAMFUSION.prompts("a head", named) == ["a face", "an ear", "a head, back view", "an ear", "a crown"]
    eight = EIGHT_SECTORS.prompts("a head", {**named, "right side": "the other ear", "back left": "hair"})
    assert eight[0] == "a face" and eight[1] == "a head, front left view" and eight[3] == "hair"
    assert (eight[2], eight[6], eight[-1]) == ("an ear", "the other ear", "a crown")
    assert DREAMFUSION.names == ("front", "side", "back", "overhead")
    assert EIGHT_SECTORS.names[:3] == ("front", "front left", "left side") and EIGHT_SECTORS.names[-1] == "side"


def test_they_are_of_one_prompt_and_reach_every_method_and_its_discriminator(four_folder: Path) -> None:
    prior, other = loaded(four_folder), Pretrained(str(four_folder))
    prior.take_prompt(TEXT, {"side": "a blue ball"})
    loop, x, near = Loop(four_folder, prior), drawn(prior, cameras(0.0, 90.0, 30.0)), {"atol": 1e-5, "rtol": 1e-5}
    texts = [f"{TEXT}, front view", "a blue ball", f"{TEXT}, front view"]
    expected = torch.stack([loop.eps(x, b, text) for b, text in enumerate(texts)])
    torch.testing.assert_close(x.predict(Y), expected, **near)
    for phi in (Discriminator(LoRA(), text=TEXT), Discriminator(LoRA(prior=other), text=TEXT)):
        phi.setup(prior)
        torch.testing.assert_close(phi(x).detach(), expected, **near)
    words = 2 / 3 * loop.embedding(texts[0]) + 1 / 3 * loop.embedding("a blue ball")
    torch.testing.assert_close(x.predict(Condition(TEXT, words="blended"))[2], loop.eps(x, 2, words), **near)
    torch.testing.assert_close(x.predict(Condition("a cube"))[1], loop.eps(x, 1, "a cube, side view"), **near)
    torch.testing.assert_close(x.predict(Condition(TEXT, False))[1], loop.eps(x, 1, TEXT), **near)
    field = ready(ASD(), loaded(four_folder))
    assert field.second.field.condition() == Y and Prompt(TEXT).conditions() == CFG(TEXT).prompt.conditions() == [Y]


def test_a_run_says_them_and_an_unknown_direction_is_one_sentence(four_folder: Path) -> None:
    arguments = {"prior": Pretrained(str(four_folder)), "generator": Latents(), "guidance": SDS()}
    run = Distillation(TEXT, **arguments, view_prompts={"back": "a blue ball"})
    run.setup()
    assert run.prior.view_prompts == {TEXT: {"back": "a blue ball"}} and "a blue ball" in run.prior.prompts.embedded
    with pytest.raises(ValueError, match="'behind' of view_prompts"):
        Distillation(TEXT, **arguments, view_prompts={"behind": "a"}).setup()
    prior = loaded(four_folder)
    with pytest.raises(ValueError, match="direction 'top' of view_prompts; it knows front, side, back, overhead.$"):
        prior.take_prompt(TEXT, {"front": "a", "top": "b"})
    with pytest.raises(ValueError, match="direction 'front' of view_prompts; it knows none.$"):
        GaussianPrior({"y": 1.0}).take_prompt("y", {"front": "a"})


def test_from_the_command_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    import yaml

    overlay = tmp_path / "views.yaml"
    overlay.write_text("model: {init_args: {view_prompts: {front: a face, left side: an ear}}}")
    options = ["--model.cfg.perp_neg=PerpNeg", "--model.cfg.perp_neg.f_fs=[1, 2, 3]"]
    assert main(["fit", "--config", "gs3d", "--config", str(overlay), *options, "--print_config"]) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert model["view_prompts"] == {"front": "a face", "left side": "an ear"}
    assert model["cfg"]["perp_neg"]["class_path"] == "asdkit.PerpNeg"
    weights = model["cfg"]["perp_neg"]["init_args"]
    assert list(weights["f_fs"]) == [1, 2, 3] and list(weights["f_fsb"]) == [1, 0.5, 0.967]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test."""
    monkeypatch.setenv("ASDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows with every text encoder that is loaded."""
    calls: list[int] = []
    load = CLIPTextModel.from_pretrained.__func__

    def counted(cls: type, *args: object, **kwargs: object) -> object:
        calls.append(1)
        return load(cls, *args, **kwargs)

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", classmethod(counted))
    return calls


def embedded(folder: Path, *conditions: Condition, dtype: str = "float32") -> dict[str, Tensor]:
    prior = loaded(folder, *conditions, dtype=dtype)
    assert prior.condition_shape == (24, 16)
    return {text: rows["text"] for text, rows in prior.prompts.embedded.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[text], second[text]) for text in first)


def test_a_second_run_loads_no_text_encoder(tiny_folder: Path, cache: Path, loads: list[int]) -> None:
    first = embedded(tiny_folder, Y, NULL)
    assert len(loads) == 1 and len(list(cache.iterdir())) == len(first) == 11
    assert all(path.suffix == ".safetensors" and not path.name.startswith(".") for path in cache.iterdir())
    assert same(embedded(tiny_folder, Y, NULL), first) and len(loads) == 1
    more = embedded(tiny_folder, Y, Condition("a cube", False))
    assert len(loads) == 2 and torch.equal(more[TEXT], first[TEXT]) and len(list(cache.iterdir())) == 12


def test_a_file_is_named_by_all_that_an_embedding_depends_on(
    tiny_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")

    def names() -> set[str]:
        """The files that this prompt gets, of which there were none before."""
        embedded(folder, Condition("a", False))
        files = {file.name for file in cache.iterdir()}
        shutil.rmtree(cache)
        return files

    first = names()
    assert len(first) == 1
    assert cache_file("m", "a") != cache_file("m", "b") and cache_file("m", "a") != cache_file("n", "a")
    seen = set(first)
    for name in ("model_index.json", "tokenizer/vocab.json", "text_encoder/config.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        seen |= names()
    weights = folder / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    seen |= names()
    for target, other in (("version_of", lambda name: "9"), ("__version__", "9")):
        with monkeypatch.context() as patch:
            patch.setattr(f"asdkit.priors.prompt_embedder.{target}", other)
            seen |= names()
    assert len(seen) == 7 and names() not in (first, set())


def test_a_lora_and_a_variant_have_embeddings_of_their_own(tiny_folder: Path, cache: Path, tmp_path: Path) -> None:
    """The LoRA's text encoder is another one; prompts that were embedded without it are not taken for its own."""
    from safetensors.torch import save_file

    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_"
    names = {f"{layer}A.weight": torch.randn(2, 16), f"{layer}B.weight": torch.randn(16, 2)}
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_"
    names |= {f"{layer}A.weight": torch.ones(2, 16), f"{layer}B.weight": torch.ones(16, 2)}
    save_file(names, tmp_path / "lora.safetensors")
    plain = embedded(tiny_folder, Y)
    for _ in range(2):
        prior = loaded(tiny_folder, Y, finetune=str(tmp_path / "lora.safetensors"))
        assert not torch.allclose(prior.prompts.embedded[TEXT]["text"], plain[TEXT], atol=1e-3)
    assert same(embedded(tiny_folder, Y), plain)


def test_dtypes_are_apart_and_predictions_the_same_from_either(tiny_folder: Path, cache: Path) -> None:
    full, half = embedded(tiny_folder, Y), embedded(tiny_folder, Y, dtype="bfloat16")
    assert not same(full, half) and same(embedded(tiny_folder, Y, dtype="bfloat16"), half)
    assert half[TEXT].dtype == torch.float32
    loop, prior = Loop(tiny_folder, loaded(tiny_folder)), loaded(tiny_folder)
    x = drawn(prior, None)
    torch.testing.assert_close(x.predict(Y)[1], loop.eps(x, 1, TEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("harm", ["torn", "empty", "a folder"])
def test_a_file_that_is_not_right_is_made_again(
    tiny_folder: Path, cache: Path, loads: list[int], caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    conditions = [Condition("a", False), Condition("b", False)]
    first = embedded(tiny_folder, *conditions)
    file = sorted(cache.iterdir())[0]
    content = file.read_bytes()
    file.unlink()
    file.mkdir() if harm == "a folder" else file.write_bytes(content[:-5] if harm == "torn" else b"")
    with caplog.at_level(logging.WARNING):
        assert same(embedded(tiny_folder, *conditions), first) and len(loads) == 2
    warnings = [record.getMessage() for record in caplog.records if record.name == "asdkit.priors.prompt_embedder"]
    assert [f"{file} holds no embedding" in warning for warning in warnings] == [True] * (harm != "a folder")
    assert file.read_bytes() == content
    assert same(embedded(tiny_folder, *conditions), first) and len(loads) == 2


def test_where_nothing_can_be_written(tiny_folder: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = embedded(tiny_folder, Y)
    shutil.rmtree(cache.parent)
    cache.parent.write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        assert same(embedded(tiny_folder, Y), expected)
    assert "can't be kept in" in caplog.text


def test_it_lies_in_the_home_folder(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASDKIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    prior = loaded("toybox", Y)
    assert len(prior.prompts.embedded) == 10 and list(tmp_path.iterdir()) == []
    assert cache_file("m", "a").parent == tmp_path / ".cache" / "asdkit" / "prompts"


def test_blended_masks_have_what_either_marks() -> None:
    masks = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 0, 1, 0]])
    assert blended(*masks, torch.tensor([0.5])).tolist() == [[1, 1, 1, 0]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_text_encoders_work_on_the_gpu_and_leave_it(tiny_folder: Path, cache: Path) -> None:
    before = torch.cuda.memory_allocated()
    prior = loaded(tiny_folder, Y)
    assert torch.cuda.max_memory_allocated() > before == torch.cuda.memory_allocated()
    loop = Loop(tiny_folder, prior)
    torch.testing.assert_close(prior.prompts.embedded[TEXT]["text"], loop.embedding(TEXT)[0], atol=1e-4, rtol=1e-4)
