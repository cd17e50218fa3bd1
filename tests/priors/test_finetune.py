"""A user's LoRA in the frozen prior: W + scale (alpha / rank) B A, and nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from support.four_views import Loop
from support.tiny import loaded
from support.tiny_families import make
from torch import Tensor, nn
from transformers import CLIPTextModel

from asdkit import Pretrained
from asdkit.core.errors import PriorUnavailable
from asdkit.priors.finetune import finetune_file
from asdkit.scores.prior import Condition

Y = Condition("a red cube")
LAYERS = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
]
TEXT_LAYERS = [f"encoder.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")]
RANK = 3
ALPHAS = (1.5, 2.0, 0.5, 4.0, 1.0, 3.0)


@pytest.fixture(scope="module")
def base(kl_folder: Path) -> Pretrained:
    return loaded(kl_folder, Y)


@pytest.fixture(scope="module")
def text_encoder(kl_folder: Path) -> nn.Module:
    return CLIPTextModel.from_pretrained(kl_folder / "text_encoder", dtype=torch.float32)


def _factors(module: nn.Module, seed: int = 0) -> tuple[Tensor, Tensor]:
    """B and A."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = module.weight.shape
    return torch.randn(rows, RANK, generator=random) / 4, torch.randn(RANK, columns, generator=random) / 4


def _diffusers(base: Pretrained) -> dict[str, Tensor]:
    return _lora("unet", base.network, LAYERS)


def _lora(part: str, network: nn.Module, layers: list[str], above: str = "") -> dict[str, Tensor]:
    pairs = {f"{part}.{above}{name}": _factors(network.get_submodule(name)) for name in layers}
    return {f"{name}.lora_{end}.weight": pair[k] for name, pair in pairs.items() for k, end in enumerate("BA")}


@pytest.fixture
def bare(base: Pretrained) -> nn.Module:
    """A copy of the network as diffusers made it."""
    unet = copy.deepcopy(base.network)
    unet.time_embedding._forward_hooks.clear()
    return unet


def _expected(base: Pretrained, *factors: float) -> dict[str, Tensor]:
    weights = {name: value.clone() for name, value in base.network.state_dict().items()}
    for name, factor in zip(LAYERS, factors * 3, strict=False):
        up, down = _factors(base.network.get_submodule(name))
        weights[f"{name}.weight"] += factor * up @ down
    return weights


def _same(prior: Pretrained, weights: dict[str, Tensor]) -> None:
    fused = prior.network.state_dict()
    assert fused.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.allclose(fused[name], value, atol=1e-6), name
    assert not any(parameter.requires_grad for parameter in prior.network.parameters())


@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0])
def test_diffusers_layout(kl_folder: Path, base: Pretrained, tmp_path: Path, scale: float) -> None:
    save_file(_diffusers(base), tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 99, "r": 3}')  # of a file that peft wrote there
    _same(loaded(kl_folder, finetune=str(tmp_path), finetune_scale=scale), _expected(base, scale))


PATTERN = {"alpha_pattern": {"to_out.0": 7, "mid_block.*to_k": 5, "to_q.none|to": 9}}


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, PATTERN])
def test_the_alpha_of_diffusers_own_files(
    kl_folder: Path, base: Pretrained, bare: nn.Module, tmp_path: Path, settings: dict
) -> None:
    """As its training scripts and `save_lora_adapter` write them; the strength of each layer is peft's own."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LAYERS, **settings)
    bare.add_adapter(config)
    modules = [bare.get_submodule(name) for name in LAYERS]
    for layer in modules:
        layer.lora_B.default.weight.data, layer.lora_A.default.weight.data = _factors(layer)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(bare))
    metadata = json.loads(json.dumps(config.to_dict(), default=sorted))
    StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=metadata)
    bare.save_lora_adapter(tmp_path / "alone")
    strengths = [layer.scaling["default"] for layer in modules]
    assert len(set(strengths)) == (3 if "alpha_pattern" in settings else 1)
    for file in (tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "alone"):
        _same(loaded(kl_folder, finetune=str(file)), _expected(base, *strengths))


def test_kohyas_layout(kl_folder: Path, base: Pretrained, text_encoder: nn.Module, tmp_path: Path) -> None:
    tensors = {}
    modules = {f"lora_unet_{name}": base.network.get_submodule(name) for name in LAYERS}
    modules |= {f"lora_te_text_model_{name}": text_encoder.get_submodule(name) for name in TEXT_LAYERS}
    for number, (name, module) in enumerate(modules.items()):
        name = name.replace(".", "_")
        tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"] = _factors(module)
        tensors[f"{name}.alpha"] = torch.tensor(ALPHAS[number])
    save_file(tensors, tmp_path / "kohya.safetensors")
    prior = loaded(kl_folder, finetune=str(tmp_path / "kohya.safetensors"), finetune_scale=0.5)
    factors = [0.5 * alpha / RANK for alpha in ALPHAS]
    _same(prior, _expected(base, *factors[:3]))
    _check_text(prior, base, text_encoder, *factors[3:])


def test_kohyas_layout_of_flux(tmp_path: Path) -> None:
    """Its reader in diffusers multiplies by alpha / rank itself, which must not be done twice."""
    folder, pipeline = make("flux", tmp_path / "flux")
    layer, name = "transformer_blocks.0.attn.to_out.0", "lora_unet_double_blocks_0_img_attn_proj"
    up, down = _factors(pipeline.transformer.get_submodule(layer))
    factors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.5)}
    save_file(factors, tmp_path / "kohya.safetensors")
    weights = {key: value.clone() for key, value in pipeline.transformer.state_dict().items()}
    weights[f"{layer}.weight"] += 1.5 / RANK * up @ down
    _same(loaded(folder, finetune=str(tmp_path / "kohya.safetensors")), weights)


def _check_text(prior: Pretrained, base: Pretrained, text_encoder: nn.Module, *factors: float) -> None:
    """Prompts are embedded by an encoder with changed matrices."""
    loop = Loop(prior.folder, prior)
    for name, factor in zip(TEXT_LAYERS, factors * 3, strict=False):
        up, down = _factors(text_encoder.get_submodule(name))
        loop.encoder.get_submodule(name).weight.data += factor * up @ down
    prior.prepare([Y])
    expected = loop.embedding(Y.text)[0]
    assert torch.allclose(prior.prompts.embedded[Y.text]["text"], expected, atol=1e-5)
    assert (expected - base.prompts.embedded[Y.text]["text"]).abs().max() > 1e-3


def test_a_lora_of_a_text_encoder(kl_folder: Path, base: Pretrained, text_encoder: nn.Module, tmp_path: Path) -> None:
    save_file(_lora("text_encoder", text_encoder, TEXT_LAYERS, "text_model."), tmp_path / "text.safetensors")
    prior = loaded(kl_folder, finetune=str(tmp_path), finetune_scale=2.0)
    _same(prior, _expected(base, 0.0))
    _check_text(prior, base, text_encoder, 2.0)


def test_the_digest_tells_loras_and_scales_apart(kl_folder: Path, base: Pretrained, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(_diffusers(base), file)
    digests = [Pretrained(str(kl_folder), finetune=str(file), finetune_scale=scale).digest for scale in (1.0, 1.0, 0.5)]
    assert digests[0] == digests[1] != digests[2] and base.digest not in digests
    save_file({name: 2 * value for name, value in _diffusers(base).items()}, file)
    assert Pretrained(str(kl_folder), finetune=str(file)).digest not in digests


def _pair(layer: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.lora_A.weight": (RANK, columns), f"{layer}.lora_B.weight": (rows, RANK)}


GOOD = _pair(f"unet.{LAYERS[0]}", 16, 16)
OFT = {"lora_unet_conv_in.oft_blocks": (2, 4, 4), "lora_unet_conv_in.alpha": ()}
BAD = {
    "another model's layer": (GOOD | _pair("unet.nowhere.to_q", 8, 8), "`nowhere`"),
    "another shape": (_pair(f"unet.{LAYERS[0]}", 8, 32), "has a weight of shape (16, 16)"),
    "half of it": ({f"unet.{LAYERS[0]}.lora_A.weight": (RANK, 16)}, "has lora_A: no whole LoRA"),
    "a product of 10 GB": (_pair(f"unet.{LAYERS[0]}", 50_000, 50_000), "has a weight of shape (16, 16)"),
    "an encoder too many": (GOOD | _pair("text_encoder_2.a", 8, 8), "a text_encoder_2"),
    "bundled embedding": (GOOD | {"bundle_emb.duck.x": (2, 16)}, "an embedding, bundle_"),
    "no LoRA": ({"unet.conv_in.weight": (4, 4)}, "names unet.conv_in.weight, which is no part"),
    "a whole difference": ({"lora_unet_conv_in.diff": (8, 4, 3, 3)}, "names lora_unet_conv_in.diff"),
    "OFT": (OFT, "names lora_unet_conv_in.oft_bl"),
    "an alpha alone": (GOOD | {"lora_unet_conv_in.alpha": ()}, "has an alpha alone"),
    "another network": (_pair("transformer.a", 8, 8), "none of its 2 tensors is for the unet"),
    "another DoRA": (GOOD | {f"unet.{LAYERS[0]}.lora_magnitude_vector": (8,)}, "the DoRA 8 lengths"),
}


def _refused(folder: Path, finetune: Path, tensors: dict[str, Tensor], expected: str, **metadata: Any) -> None:
    said = {name: json.dumps(facts) for name, facts in metadata.items()}
    save_file(tensors, finetune / "bad.safetensors", metadata=said)
    with pytest.raises(PriorUnavailable) as caught:
        loaded(folder, finetune=str(finetune))
    message = str(caught.value)
    assert expected in message and "\n" not in message and "bad.safetensors" in message


@pytest.mark.parametrize("case", BAD)
def test_loras_that_do_not_fit_are_refused(kl_folder: Path, tmp_path: Path, case: str) -> None:
    shapes, expected = BAD[case]
    _refused(kl_folder, tmp_path, {name: torch.ones(shape) for name, shape in shapes.items()}, expected)


@pytest.mark.parametrize("end", [".to_k.lora_B.weight", ".lora_B.weight", ".lora_A.weight", ".alpha"])
def test_factors_that_are_no_numbers_or_nothing(kl_folder: Path, base: Pretrained, tmp_path: Path, end: str) -> None:
    tensors = _diffusers(base) | {f"unet.{name}.alpha": torch.tensor(1.0) for name in LAYERS}
    value, expected = (torch.nan, "is not finite") if "to_k" in end else (0.0, "changes nothing")
    changed = {name: torch.full_like(tensor, value) for name, tensor in tensors.items() if name.endswith(end)}
    _refused(kl_folder, tmp_path, tensors | changed, expected)


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "(a|a)*b", ".*.*.*.*z", "x" * 300 + ".*"])
def test_an_endless_alpha_pattern_is_refused(kl_folder: Path, base: Pretrained, tmp_path: Path, pattern: str) -> None:
    settings = {"unet.lora_alpha": 1, "unet.alpha_pattern": {pattern: 2}}
    expected = "alpha_pattern holds more than names of layers"
    _refused(kl_folder, tmp_path, _diffusers(base), expected, lora_adapter_metadata=settings)


OF_PEFT = {
    "LoRA": (LoraConfig, {"lora_alpha": 5, "alpha_pattern": {"to_q": 7}}),
    "DoRA": (LoraConfig, {"lora_alpha": 5, "use_dora": True}),
    "LoHa": (LoHaConfig, {"alpha": 5}),
    "LoKr": (LoKrConfig, {"alpha": 5, "decompose_both": True}),
    "LoHa of Tucker": (LoHaConfig, {"alpha": 5, "use_effective_conv2d": True}),
    "LoKr of Tucker": (LoKrConfig, {"alpha": 5, "use_effective_conv2d": True, "r": 1}),
    "LoKr, whole": (LoKrConfig, {"alpha": 5, "rank_pattern": {"to_k": 7}, "r": 100}),
}


@pytest.mark.parametrize("name", OF_PEFT)
def test_pefts_own_folders(name: str, kl_folder: Path, bare: nn.Module, tmp_path: Path) -> None:
    """The weights are those that peft itself merges, its settings being in adapter_config.json."""
    kind, settings = OF_PEFT[name]
    model = get_peft_model(bare, kind(target_modules=[*LAYERS, "conv_in"], **{"r": RANK} | settings))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    _same(loaded(kl_folder, finetune=str(tmp_path)), model.merge_and_unload().state_dict())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "it started from pissa_niter_4, which changes the model's own"),
        ({"init_lora_weights": "olora"}, "it started from olora"),
        ({"peft_type": "IA3"}, "it is peft's IA3"),
        ({"use_dora": True}, "lacks the lengths of its DoRA"),
        ({"kasa_config": {"beta": 1}}, "its kasa_config changes more"),
        ({"rank_pattern": {"(a|a)*b": 2}, "r": 0}, "rank_pattern holds more than names"),
    ],
)
def test_what_peft_says_beyond_it_is_refused(settings: dict, expected: str, kl_folder: Path, tmp_path: Path) -> None:
    whole = {f"{LAYERS[0]}.lokr_w1": torch.ones(4, 4), f"{LAYERS[0]}.lokr_w2": torch.ones(4, 4)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    _refused(kl_folder, tmp_path, {f"base_model.model.{name}": value for name, value in whole.items()}, expected)


def test_lengths_of_columns(kl_folder: Path, base: Pretrained, tmp_path: Path) -> None:
    """LyCORIS's DoRA without wd_on_output: a row of lengths, one for each input."""
    layer = base.network.get_submodule(LAYERS[0])
    (up, down), lengths = _factors(layer), torch.rand(1, 16, generator=torch.Generator().manual_seed(5))
    name = f"lora_unet_{LAYERS[0].replace('.', '_')}"
    factors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.dora_scale": lengths}
    save_file(factors, tmp_path / "dora.safetensors")
    columns = (layer.weight + up @ down).T
    expected = torch.stack([n * column / column.norm() for n, column in zip(lengths[0], columns, strict=True)]).T
    fused = loaded(kl_folder, finetune=str(tmp_path / "dora.safetensors")).network.get_submodule(LAYERS[0]).weight
    assert torch.allclose(fused, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_files_of_small_numbers(kl_folder: Path, base: Pretrained, tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({name: value.to(dtype) for name, value in _diffusers(base).items()}, tmp_path / "small.safetensors")
    weights = _expected(base, 0.0)
    for name in LAYERS:
        up, down = (factor.to(dtype).float() for factor in _factors(base.network.get_submodule(name)))
        weights[f"{name}.weight"] += up @ down
    _same(loaded(kl_folder, finetune=str(tmp_path)), weights)


def test_kohyas_loha_lokr_and_dora(kl_folder: Path, base: Pretrained, text_encoder: nn.Module, tmp_path: Path) -> None:
    """A product of two LoRAs, a Kronecker product by numpy, and rows of a given length."""
    random = torch.Generator().manual_seed(3)
    names = [f"lora_unet_{name.replace('.', '_')}" for name in LAYERS]
    weights = {name: value.clone() for name, value in base.network.state_dict().items()}
    loha = {f"{names[0]}.hada_w{i}_{end}": torch.randn(shape, generator=random)
            for i in (1, 2) for end, shape in (("a", (16, RANK)), ("b", (RANK, 16)))}  # fmt: skip
    first, second = (loha[f"{names[0]}.hada_w{i}_a"] @ loha[f"{names[0]}.hada_w{i}_b"] for i in (1, 2))
    weights[f"{LAYERS[0]}.weight"] += 1.5 / RANK * first * second
    lokr = {f"{names[1]}.lokr_w1": torch.randn(4, 4, generator=random),
            f"{names[1]}.lokr_w2": torch.randn(4, 4, generator=random)}  # fmt: skip
    kron = np.kron(*(value.numpy() for value in lokr.values()))
    weights[f"{LAYERS[1]}.weight"] += torch.from_numpy(kron)
    up, down = _factors(base.network.get_submodule(LAYERS[2]))
    lengths = torch.rand(16, 1, generator=random)
    dora = {f"{names[2]}.lora_up.weight": up, f"{names[2]}.lora_down.weight": down, f"{names[2]}.dora_scale": lengths}
    changed = weights[f"{LAYERS[2]}.weight"] + 6.0 / RANK * up @ down
    rows = [n * row / row.norm() for n, row in zip(lengths, changed, strict=True)]
    weights[f"{LAYERS[2]}.weight"] = torch.stack(rows)
    alphas = {f"{name}.alpha": torch.tensor(alpha) for name, alpha in zip(names, (1.5, 9.0, 6.0), strict=True)}
    save_file({**loha, **lokr, **dora, **alphas}, tmp_path / "lycoris.safetensors")
    _same(loaded(kl_folder, finetune=str(tmp_path)), weights)


@pytest.mark.parametrize("tucker", [False, True])
def test_a_lora_for_a_convolution(tucker: bool, kl_folder: Path, base: Pretrained, tmp_path: Path) -> None:
    """One convolution after the other: down and up, or down, LoCon's core and up."""
    random = torch.Generator().manual_seed(0)
    inner = {"mid": (RANK, RANK, 3, 3), "down": (RANK, 4, 1, 1)} if tucker else {"down": (RANK, 4, 3, 3)}
    shapes = {"up": (8, RANK, 1, 1), **inner}
    kernels = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    factors = {f"lora_unet_conv_in.lora_{name}.weight": kernel for name, kernel in kernels.items()}
    save_file(factors | {"lora_unet_conv_in.alpha": torch.tensor(2.0 * RANK)}, tmp_path / "conv.safetensors")
    changed, plain = loaded(kl_folder, finetune=str(tmp_path)).network.conv_in, base.network.conv_in
    images = convolved = torch.randn(2, 4, 8, 8, generator=random)
    for kernel in reversed(kernels.values()):
        convolved = nn.functional.conv2d(convolved, kernel, padding=kernel.shape[-1] // 2)
    assert torch.allclose(changed(images), plain(images) + 2 * convolved, atol=1e-4)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "deepfloyd"])
def test_every_family(tmp_path: Path, family: str) -> None:
    path, pipeline = make(family, tmp_path / "model")
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    network = getattr(pipeline, part)
    name, layer = next((name, layer) for name, layer in network.named_modules() if name.endswith("to_q"))
    weight, (up, down) = layer.weight, _factors(layer)
    save_file(_lora(part, network, [name]), tmp_path / "l.safetensors")
    fused = loaded(path, finetune=str(tmp_path / "l.safetensors"), finetune_scale=0.5).network.state_dict()
    assert torch.allclose(fused.pop(f"{name}.weight"), weight + 0.5 * up @ down, atol=1e-5)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in fused.items())


def test_pixart_takes_none(tmp_path: Path) -> None:
    folder, file = make("pixart", tmp_path / "model")[0], tmp_path / "l.safetensors"
    save_file({"transformer.a.lora_A.weight": torch.ones(1, 1)}, file)
    with pytest.raises(PriorUnavailable, match="reads no LoRAs for a PixArt"):
        loaded(folder, finetune=str(file))


def test_the_file_of_a_lora(tmp_path: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(PriorUnavailable) as caught:
            finetune_file(name)
        return str(caught.value)

    assert "There is no " in message(str(tmp_path / "none"))
    assert "holds no .safetensors file" in message(str(tmp_path))
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "c.safetensors").touch()
    assert "holds no .safetensors file" in message(str(tmp_path))
    (tmp_path / "a.safetensors").touch()
    assert finetune_file(str(tmp_path)) == finetune_file(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"
    (tmp_path / "b.safetensors").touch()
    assert "holds a.safetensors, b.safetensors" in message(str(tmp_path))
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert finetune_file(str(tmp_path)).name == "pytorch_lora_weights.safetensors"
    (tmp_path / "a.bin").touch()
    assert "opens no pickles" in message(str(tmp_path / "a.bin"))
