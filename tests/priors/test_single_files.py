"""A model in one .safetensors file, in the layout that Stable Diffusion was trained in."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import loaded, save_tiny_pipeline
from torch import Tensor

from asdkit import Pretrained
from asdkit.core.errors import PriorUnavailable
from asdkit.priors.required_files import Choose, chosen_files
from asdkit.scores.prior import Condition

Y, UNET = Condition("a red cube"), "unet/diffusion_pytorch_model.safetensors"
BLOCKS = {  # of the tiny UNet
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
VAE = {
    "encoder.down_blocks.0.downsamplers.0.conv": "encoder.down.0.downsample.conv",
    "decoder.up_blocks.0.upsamplers.0.conv": "decoder.up.1.upsample.conv",
    **{f"encoder.down_blocks.{i}.resnets.0": f"encoder.down.{i}.block.0" for i in (0, 1)},
    **{f"decoder.up_blocks.{i}.resnets.{j}": f"decoder.up.{1 - i}.block.{j}" for i in (0, 1) for j in (0, 1)},
    **{f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for side in ("encoder", "decoder") for i in (0, 1)},
    **{f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1" for side in ("encoder", "decoder")},
    **{f"{side}.conv_norm_out": f"{side}.norm_out" for side in ("encoder", "decoder")},
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _renamed(name: str, blocks: dict[str, str], inner: dict[str, str]) -> str:
    for old, new in blocks.items():
        if name.startswith(f"{old}."):
            rest = name.removeprefix(f"{old}.")
            for short, long in inner.items():
                if rest.startswith(f"{short}."):
                    rest = rest.replace(short, long, 1)
            return f"{new}.{rest}"
    return name


def _original(folder: Path) -> dict[str, Tensor]:
    """The tiny pipeline by Stable Diffusion 1's own names."""
    original = {}
    for name, value in load_file(folder / UNET).items():
        inner = RESNET if ".resnets." in name else {}
        original[f"model.diffusion_model.{_renamed(name, BLOCKS, inner)}"] = value
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        attention = ".attentions." in name
        renamed = _renamed(name, VAE, ATTENTION if attention else {"conv_shortcut": "nin_shortcut"})
        matrix = attention and value.ndim == 2  # these are convolutions of one pixel there
        original[f"first_stage_model.{renamed}"] = value[:, :, None, None] if matrix else value
    for name, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        original[f"cond_stage_model.transformer.{name}"] = value
    return {name: value.contiguous() for name, value in original.items()}


@pytest.fixture(scope="module")
def file(kl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file(_original(kl_folder), path)
    return path


@pytest.fixture(scope="module")
def settings(kl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder without any weights."""
    place = tmp_path_factory.mktemp("settings") / "small"
    return shutil.copytree(kl_folder, place, ignore=shutil.ignore_patterns("*.safetensors"))


def _answers(prior: Pretrained) -> list[Tensor]:
    prior.setup()
    random = torch.Generator().manual_seed(0)
    images, x0, eps = (torch.rand(2, *shape, generator=random) for shape in ((3, 16, 16), (4, 8, 8), (4, 8, 8)))
    with torch.no_grad():
        predicted = prior.draw(x0, torch.tensor([100, 700]), eps).predict(Y)
        return [predicted, prior.encode(images), prior.decode(x0), prior.prompts.embedded[Y.text]["text"]]


def test_a_file_is_its_folder_and_has_its_own_digest(
    kl_folder: Path, file: Path, settings: Path, tmp_path: Path
) -> None:
    expected = _answers(Pretrained(str(kl_folder)))
    answers = _answers(Pretrained(str(file), config=str(settings)))
    assert all(torch.allclose(answer, other, atol=1e-6) for answer, other in zip(answers, expected, strict=True))
    renamed = shutil.copy(file, tmp_path / "renamed.safetensors")
    digest = Pretrained(str(file), config=str(settings)).digest
    assert Pretrained(str(renamed), config=str(settings)).digest == digest
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, renamed)
    assert Pretrained(str(renamed), config=str(settings)).digest != digest


def test_what_a_file_lacks_comes_from_the_folder(kl_folder: Path, file: Path, settings: Path, tmp_path: Path) -> None:
    """And only that: the rest of the folder is another model."""
    other = save_tiny_pipeline(tmp_path / "other", "epsilon", kl=True, camera=False, facts=False, seed=1)
    unet = {name: value for name, value in load_file(file).items() if name.startswith("model.")}
    save_file(unet, tmp_path / "unet.safetensors")
    alone = loaded(tmp_path / "unet.safetensors", config=str(other))
    expected, rest = loaded(kl_folder), loaded(other)
    assert all(torch.equal(value, alone.network.state_dict()[n]) for n, value in expected.network.state_dict().items())
    assert all(torch.equal(value, alone.vae.state_dict()[n]) for n, value in rest.vae.state_dict().items())
    with pytest.raises(PriorUnavailable, match="small's text_encoder has no weights"):
        Pretrained(str(tmp_path / "unet.safetensors"), config=str(settings)).setup()
    copy = loaded(kl_folder / UNET, config=str(other))  # diffusers' own names
    assert all(torch.equal(value, copy.network.state_dict()[n]) for n, value in expected.network.state_dict().items())


@pytest.mark.parametrize(
    ("start", "part"), [("model.", "unet"), ("first_stage_model.", "vae"), ("cond_stage_model.", "text_encoder")]
)
def test_a_missing_tensor_is_not_made_up(file: Path, settings: Path, tmp_path: Path, start: str, part: str) -> None:
    tensors = load_file(file)
    del tensors[max(name for name in tensors if name.startswith(start) and "position" not in name)]
    save_file(tensors, tmp_path / "torn.safetensors")
    prior = Pretrained(str(tmp_path / "torn.safetensors"), config=str(settings))
    with pytest.raises(PriorUnavailable, match=rf"torn.safetensors's {part} can't be loaded \(.*\); copy"):
        prior.setup()
        prior.prepare([Y])


def test_settings_come_from_the_hub(file: Path, kl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def snapshot(repository: str, revision: str, choose: Choose) -> Path:
        chosen.extend(chosen_files(kl_folder, choose))
        assert (repository, revision) == ("stable-diffusion-v1-5/stable-diffusion-v1-5", "")
        return kl_folder

    monkeypatch.setattr("asdkit.priors.hub.snapshot", snapshot)
    loaded(file)
    assert {"unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"} <= set(chosen)
    assert not [name for name in chosen if name.endswith(".safetensors")]


def test_files_that_are_no_models(file: Path, tmp_path: Path) -> None:
    def message(name: str, tensors: dict[str, Tensor] | bytes) -> str:
        place = tmp_path / name
        place.write_bytes(tensors) if isinstance(tensors, bytes) else save_file(tensors, place)
        with pytest.raises(PriorUnavailable) as caught:
            Pretrained(str(place)).setup()
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    one = torch.zeros(1024, 1024)
    assert "opens no pickles" in message("model.ckpt", b"PK")
    assert "is torn, or" in message("torn.safetensors", file.read_bytes()[:-1])
    assert "or no safetensors file" in message("text.safetensors", b"Dear diary,\n" * 9)
    assert "prior.finetune" in message("lora.safetensors", {"unet.a.lora_A.weight": one})
    assert "prior.config the model" in message("any.safetensors", {"a": one})
    refiner = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"
    assert "prior.config the model" in message("xl_refiner.safetensors", {refiner: one})
    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    assert "sd21-base (noise" in message("v2.safetensors", {key: one})
