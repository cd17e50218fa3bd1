"""Named architectures with random weights (`random:sd21`), which take the time and memory of the real models."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from asdkit.priors.families import Embedded
from asdkit.priors.folder import ModelFolder

RANDOM = "random:"
_NOISE = 1_048_573  # a prime, so that no two rows of a matrix get the same numbers
_FILLS = {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"}


class Architecture(NamedTuple):
    """What the configuration files of a model say, as far as they differ from diffusers' defaults.

    Args:
        pipeline: diffusers' name of its pipeline.
        network: settings of the network that denoises.
        vae: settings of the autoencoder, its class among them; empty for models of pixels.
        scheduler: settings of the noise schedule.
        embeds: shape of each part of an embedded prompt.
    """

    pipeline: str
    network: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    embeds: dict[str, tuple[int, ...]]


_KL = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_KL_XL = _KL | {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 1024}
_KL_16 = _KL | {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": True,
    "sample_size": 1024,
}
_KL_SD3 = _KL_16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609}
_LINEAR = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SHIFTED = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_SD3_EMBEDS = {"text": (333, 4096), "pooled": (2048,)}

ARCHITECTURES = {
    "sd15": Architecture(
        "StableDiffusionPipeline",
        {"sample_size": 64, "cross_attention_dim": 768},
        _KL,
        _LINEAR | {"prediction_type": "epsilon"},
        {"text": (77, 768)},
    ),
    "sd21": Architecture(
        "StableDiffusionPipeline",
        _SD21 | {"sample_size": 96},
        _KL | {"sample_size": 768},
        _LINEAR | {"prediction_type": "v_prediction"},
        {"text": (77, 1024)},
    ),
    "sdxl": Architecture(
        "StableDiffusionXLPipeline",
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        _KL_XL,
        _LINEAR | {"prediction_type": "epsilon"},
        {"text": (77, 2048), "pooled": (1280,)},
    ),
    "sd3": Architecture("StableDiffusion3Pipeline", _SD3, _KL_SD3, _SHIFTED, _SD3_EMBEDS),
    "sd35": Architecture(  # medium
        "StableDiffusion3Pipeline",
        _SD3 | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        _KL_SD3,
        _SHIFTED,
        _SD3_EMBEDS,
    ),
    "flux": Architecture(  # dev
        "FluxPipeline",
        {"guidance_embeds": True},
        _KL_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        _SHIFTED | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        {"text": (512, 4096), "pooled": (768,)},
    ),
    "pixart": Architecture(  # sigma, 512 pixels
        "PixArtSigmaPipeline",
        {"sample_size": 64, "caption_channels": 4096, "interpolation_scale": 1, "use_additional_conditions": False},
        _KL_XL,
        {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"},
        {"text": (300, 4096), "mask": (300,)},
    ),
    "if": Architecture(  # the first stage, XL
        "IFPipeline",
        {
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 6,
            "block_out_channels": (704, 1408, 2112, 2816),
            "layers_per_block": 3,
            "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            "attention_head_dim": 64,
            "cross_attention_dim": 2816,
            "encoder_hid_dim": 4096,
            "addition_embed_type": "text",
            "cross_attention_norm": "group_norm",
            "resnet_time_scale_shift": "scale_shift",
            "act_fn": "gelu",
        },
        {},
        {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"},
        {"text": (77, 4096)},
    ),
    "toybox": Architecture(  # what asdkit ships
        "StableDiffusionPipeline",
        {
            "sample_size": 16,
            "in_channels": 8,
            "out_channels": 8,
            "block_out_channels": (32, 96, 192),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            "attention_head_dim": 32,
            "cross_attention_dim": 128,
            "norm_num_groups": 8,
        },
        {
            "_class_name": "AutoencoderTiny",
            "latent_channels": 8,
            "encoder_block_out_channels": (32, 32, 32),
            "decoder_block_out_channels": (32, 32, 32),
            "num_encoder_blocks": (0, 1, 2),
            "num_decoder_blocks": (2, 1, 1),
            "upsample_fn": "bilinear",
            "scaling_factor": 0.9841,
        },
        _LINEAR | {"prediction_type": "v_prediction"},
        {"text": (24, 128)},
    ),
}


class RandomModel(ModelFolder):
    """Stands for a folder: a named architecture, whose weights and embedded prompts are random and always the same.

    Args:
        name: of the architecture.

    Raises:
        ValueError: there is no such architecture.
    """

    def __init__(self, name: str) -> None:
        if name not in ARCHITECTURES:
            raise ValueError(f"There is no architecture {name!r}; random: is followed by {', '.join(ARCHITECTURES)}.")
        self.path, self.variant, self.names = Path(f"{RANDOM}{name}"), "", []
        self.known = ARCHITECTURES[name]

    def has(self, name: str) -> bool:
        return False

    def json(self, name: str) -> dict[str, Any]:
        known, part = self.known, name.partition("/")[0]
        index = {"_class_name": known.pipeline, "vae": ["diffusers", known.vae.get("_class_name")]}
        return {"model_index.json": index, "vae": known.vae, "scheduler": known.scheduler}[part]

    def digest(self) -> str:
        return str(self.path)

    def model(self, model_class: type, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A component whose layers keep the size of what goes through them, so that deep networks stay finite."""
        with _unfilled(dtype):
            model = model_class.from_config(self.known.vae if part == "vae" else self.known.network)
        model.requires_grad_(False).eval()
        noise = torch.randn(_NOISE, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.ndim < 2:
                parameter.fill_(float(name.endswith("weight")))
                continue
            values = (noise.roll(-index) / parameter[0].numel() ** 0.5).to(parameter)
            for some in parameter.view(-1).split(_NOISE):
                some.copy_(values[: len(some)])
        return model

    def embedded(self, text: str) -> Embedded:
        """Normal numbers of a prompt's true shapes, and a mask of ones; the same text has the same ones."""
        random = torch.Generator("cpu").manual_seed(zlib.crc32(text.encode()))
        shapes = self.known.embeds.items()
        return {
            name: torch.ones(shape, device="cpu")
            if name == "mask"
            else torch.randn(shape, generator=random, device="cpu")
            for name, shape in shapes
        }


class _NoFilling(TorchFunctionMode):
    """Random initial values are left out: for real sizes they take minutes."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(function, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@contextmanager
def _unfilled(dtype: torch.dtype) -> Iterator[None]:
    """Modules are made in this precision, and with whatever was in the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _NoFilling():
            yield
    finally:
        torch.set_default_dtype(before)
