"""A model's folder that names what is not its own, or asks for more than it holds: exit 4, a sentence, in seconds."""

import codecs
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import assert_same, loaded, save_tiny_pipeline, tiny_vae, unet
from support.tiny_families import make

from asdkit.core.errors import PriorUnavailable
from asdkit.priors.locate import locate
from asdkit.scores.prior import Condition

Y = Condition("a red cube")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import UNet2DConditionModel

    folder = save_tiny_pipeline(tmp_path_factory.mktemp("whole") / "model")
    network = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    network.save_pretrained(folder / "unet", max_shard_size="30KB")
    return folder


def _set(name: str, **settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | settings))

    return change


def _indexed(value: str, folder: Path) -> None:
    file = next(folder.glob("unet/*.index.json"))
    index = json.loads(file.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = value
    file.write_text(json.dumps(index))


def _pipe(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def _device(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").symlink_to("/dev/zero")


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def _harmed(part: str, harm: str, folder: Path) -> None:
    """A tensor that is missing must not be drawn at random."""
    file = next(folder.glob(f"{part}/*.safetensors"))
    data, weights = file.read_bytes(), load_file(file)
    if harm == "one tensor less":
        weights.pop(max(weights))
        save_file(weights, file, metadata={"format": "pt"})
    else:
        file.write_bytes(data[: len(data) // 2 if harm == "torn" else 0])


def _new(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("{}")


def _network(settings: dict[str, Any], folder: Path) -> None:
    """One that takes something other than x0 and words."""
    shutil.rmtree(folder / "unet")
    unet(16, **settings).save_pretrained(folder / "unet")


VAE = "vae/diffusion_pytorch_model.safetensors"
HOSTILE = {
    "a pickle in an index": (partial(_indexed, "pytorch_model.bin"), "pytorch_model.bin, which is no safetensors file"),
    "a path in an index": (partial(_indexed, f"../{VAE}"), "which is no safetensors file of its"),
    "an adapter": (_new("text_encoder/adapter_config.json"), "has an adapter beside its text_encoder"),
    "endless layers": (_set("text_encoder/config.json", num_hidden_layers=10**6), "num_hidden_layers 1000000, more"),
    "blocks without end": (_set("unet/config.json", layers_per_block=[1, 10**6]), "layers_per_block 1000000, more"),
    "words without end": (_set("text_encoder/config.json", vocab_size=10**12), "vocab_size 1000000000000, more"),
    "steps without end": (_set("scheduler/scheduler_config.json", num_train_timesteps=10**12), "asdkit takes 1 to"),
    "tokens without end": (_set("tokenizer/tokenizer_config.json", model_max_length=10**12), "1000000000000 tokens"),
    "no number of tokens": (_set("tokenizer/tokenizer_config.json", model_max_length=-1), "'s text can't be loaded ("),
    "no size": (_set("unet/config.json", sample_size="x"), "can't be loaded ("),
    "no noise levels": (_set("scheduler/scheduler_config.json", beta_start=float("nan")), "are not 1000 numbers"),
    "a noise level": (_set("scheduler/scheduler_config.json", trained_betas=[[0.1]]), "are not 1000 numbers"),
    "x0 that is nothing": (_set("vae/config.json", scaling_factor=0), "x0 can't be scaled by [0.0, 0.0, 0.0, 0.0]"),
    "x0 without a number": (_set("vae/config.json", scaling_factor="x"), "vae can't be loaded (could not convert"),
    "view words of nothing": (_new("asdkit.json"), "can't be loaded ('view_words')"),
    "extra words without end": (_set("tokenizer/tokenizer_config.json", extra_ids=10**9), "more than its weights"),
    "no number": (_set("unet/config.json", norm_eps=math.nan), "norm_eps nan, more"),
    "latents of other channels": (_set("vae/config.json", latents_mean=[1, 2], latents_std=[1, 1]), "can't be loaded"),
    "another autoencoder": (_set("vae/config.json", _class_name="AutoencoderDC"), "is a AutoencoderDC; asdkit reads"),
    "no network": (_set("model_index.json", unet=[None, None]), "model_index.json names no unet"),
    "no vocabulary": (_without("tokenizer/vocab.json"), "has no vocabulary in its tokenizer"),
    "half a vocabulary": (_without("tokenizer/merges.txt"), "has no vocabulary in its tokenizer"),
    "no words": (_set("model_index.json", text_encoder=[None, None]), "names no text_encoder; copy"),
    "a config that is a pipe": (partial(_pipe, "unet/config.json"), "is no file, but a device or a pipe"),
    "a vocabulary that is a pipe": (partial(_pipe, "tokenizer/special.json"), "is no file, but a device or a pipe"),
    "a config that is a device": (_device, "is no file, but a device or a pipe"),
    "torn JSON": (lambda folder: (folder / "unet/config.json").write_text('{"a": '), "config.json is not valid JSON"),
}
IMAGE = {"encoder_hid_dim": 16, "encoder_hid_dim_type": "image_proj"}
OTHER_NETWORKS: list[tuple[dict[str, Any], str]] = [
    ({"in_channels": 9}, "takes 9 channels and gives 4, where x0 has 4: it is made for inpainting"),
    ({"out_channels": 3}, "takes 4 channels and gives 3, where x0 has 4"),
    ({"class_embed_type": "timestep"}, "has class_embed_type 'timestep', an input that no StableDiffusion has"),
    ({"num_class_embeds": 10}, "has num_class_embeds 10, an input"),
    ({"addition_embed_type": "image", "encoder_hid_dim": 16}, "has addition_embed_type 'image', an input"),
    (IMAGE, "has encoder_hid_dim_type 'image_proj', an input"),
    ({"cross_attention_dim": 32}, "give {'text': 16} numbers, and the network takes {'text': 32}"),
]
HOSTILE |= {str(settings): (partial(_network, settings), expected) for settings, expected in OTHER_NETWORKS}
PARTS = ("unet", "vae", "text_encoder", "scheduler", "tokenizer", "model_index.json", "camera")
HOSTILE |= {f"no {part}": (_without(part), part) for part in PARTS[:-1]}
HARMED = itertools.product((*PARTS[:3], PARTS[-1]), ("torn", "empty", "one tensor less"))
HOSTILE |= {f"{part}, {harm}": (partial(_harmed, part, harm), part) for part, harm in HARMED}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_the_models_own_is_refused(case: str, whole: Path, tmp_path: Path) -> None:
    change, expected = HOSTILE[case]
    folder = shutil.copytree(whole, tmp_path / "model")
    change(folder)
    begun = time.monotonic()
    with pytest.raises(PriorUnavailable) as caught:
        loaded(folder).prepare([Y])
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - begun < 200


def test_weights_without_a_place_are_told(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    loaded(folder)
    assert not caplog.records
    _set("unet/config.json", transformer_layers_per_block=0)(folder)
    loaded(folder)
    assert "unet holds" in caplog.text and "tensors that its config.json has no place for" in caplog.text


def test_no_folder_no_name_and_an_endless_tiny_autoencoder(whole: Path, tmp_path: Path) -> None:
    tiny_vae().save_pretrained(tmp_path)
    _set("config.json", num_encoder_blocks=[10**6, 1])(tmp_path)
    with pytest.raises(PriorUnavailable, match="config.json has num_encoder_blocks"):
        loaded(whole, tiny_vae=str(tmp_path))
    with pytest.raises(PriorUnavailable, match="There is no .*none; name a folder"):
        loaded(tmp_path / "none")
    with pytest.raises(ValueError, match="path is empty"):
        loaded("")


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_code_that_a_config_names_is_not_looked_for(part: str, whole: Path, tmp_path: Path) -> None:
    """A kernel of the hub, a class of the folder's own, a quantisation: nothing of the kind is read."""
    folder = shutil.copytree(whole, tmp_path / "model")
    names = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    _set(f"{part}/config.json", **names, auto_map={"AutoModel": "code.Model"}, quantization_config={"a": 1})(folder)
    (folder / part / "code.py").write_text("raise SystemExit")
    assert_same(loaded(folder, Y), loaded(whole, Y))


def test_a_byte_order_mark_in_every_json(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    for file in folder.rglob("*.json"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    prior, expected = loaded(folder, Y), loaded(whole, Y)
    assert_same(prior, expected)
    assert torch.equal(prior.schedule.alphas, expected.schedule.alphas)


def test_the_old_names_of_pieces_of_a_variant(whole: Path, tmp_path: Path) -> None:
    """`model-00001-of-00002.fp16.safetensors`, as diffusers wrote it before 0.32."""
    folder = shutil.copytree(whole, tmp_path / "model")
    for file in folder.glob("unet/*-of-*.safetensors"):
        save_file({name: 2 * value for name, value in load_file(file).items()},
                  file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})  # fmt: skip
    index = next(folder.glob("unet/*.index.json"))
    old = index.read_text().replace('.safetensors"', '.fp16.safetensors"')
    index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json").write_text(old)
    doubled, plain = loaded(folder, variant="fp16").network, loaded(folder).network
    assert torch.equal(doubled.conv_in.weight, 2 * plain.conv_in.weight)


@pytest.mark.parametrize("family", ["sd", "deepfloyd"])
def test_a_sample_size_of_height_and_width(family: str, tmp_path: Path) -> None:
    folder = make(family, tmp_path / "model")[0]
    _set("unet/config.json", sample_size=[16, 24])(folder)
    prior = loaded(folder)
    x0 = prior.encode(torch.rand(1, 3, 32, 48))
    assert x0.shape[-2:] == ((16, 24) if family == "deepfloyd" else (4, 6))
    assert locate(str(folder)).json("unet/config.json")["sample_size"] == [16, 24]
