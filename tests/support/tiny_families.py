"""A tiny random pipeline of every family, made of diffusers' own classes, in diffusers' own folder layout."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from support.tiny import UNCHECKED, clip, clip_tokenizer, ddim_scheduler, kl_vae, unet

WORDS = [
    "a", "red", "duck", "cube", "ball", "with", "hat", "front", "side", "back", "overhead", "left", "right", "view",
    ",", "ugly", "blurry", "DSLR", "photo", "of", "the",
]  # fmt: skip


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((f"▁{word}", -2.0) for word in WORDS)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)


def _t5(width: int) -> Any:
    size = {"vocab_size": len(_t5_tokenizer()), "d_model": width, "d_kv": 4, "d_ff": 16}
    config = transformers.T5Config(**size, num_layers=1, num_heads=2, dropout_rate=0.0)
    return transformers.T5EncoderModel(config).eval()


def sd(prediction: str = "epsilon", **further: Any) -> Any:
    parts = {"vae": kl_vae(), "text_encoder": clip(16), "tokenizer": clip_tokenizer(), "unet": unet(16)}
    return diffusers.StableDiffusionPipeline(**parts, scheduler=ddim_scheduler(prediction, **further), **UNCHECKED)


def lcm() -> Any:
    """It is told the guidance scale that it was distilled for."""
    pipeline = sd()
    pipeline.unet = unet(16, time_cond_proj_dim=16)
    return pipeline


def sdxl() -> Any:
    network = unet(
        32, addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=16 + 6 * 4, use_linear_projection=True,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=kl_vae(scale=0.13025), text_encoder=clip(16), text_encoder_2=clip(16, projected=True), unet=network,
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), scheduler=ddim_scheduler(),
    )  # fmt: skip


def sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=16,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(scale=1.5305, shift=0.0609), text_encoder=clip(16, projected=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(16, projected=True), tokenizer_2=clip_tokenizer(), text_encoder_3=_t5(32),
        tokenizer_3=_t5_tokenizer(),
    )  # fmt: skip


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=kl_vae(scale=0.3611, shift=0.1159), text_encoder=clip(16), tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32), tokenizer_2=_t5_tokenizer(),
    )  # fmt: skip


def pixart(sample_size: int = 8, heads: int = 2) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=heads,
        in_channels=4, out_channels=8, cross_attention_dim=8 * heads, caption_channels=32, attention_bias=True,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", num_embeds_ada_norm=1000,
        norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return diffusers.PixArtAlphaPipeline(_t5_tokenizer(), _t5(32), kl_vae(), transformer, scheduler)


def deepfloyd() -> Any:
    network = unet(
        32, channels=3, out_channels=6, sample_size=16, addition_embed_type="text", addition_embed_type_num_heads=2,
        encoder_hid_dim=32, encoder_hid_dim_type="text_proj", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), resnet_time_scale_shift="scale_shift",
        time_embedding_type="positional", cross_attention_norm="group_norm", act_fn="gelu",
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=True)
    parts = {"tokenizer": _t5_tokenizer(), "text_encoder": _t5(32), "unet": network, "scheduler": scheduler}
    return diffusers.IFPipeline(**parts, watermarker=None, **UNCHECKED)


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd": sd, "sd_v": partial(sd, "v_prediction"), "sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart,
    "deepfloyd": deepfloyd,
}  # fmt: skip
VARIANTS = {
    "sd_zero_snr": partial(sd, "v_prediction", rescale_betas_zero_snr=True),
    "lcm": lcm,
    "pixart_1024": partial(pixart, 128, 3),  # it is told the size of the image
}


def make(name: str, folder: Path, seed: int = 0) -> tuple[Path, Any]:
    """Save the tiny pipeline of a family; returns its folder and the pipeline itself.

    Layers that start as zero (of transformers' adaptive norms) are random, or nothing would depend on anything.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = (PIPELINES | VARIANTS)[name]()
        network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
        for parameter in network.parameters():
            if parameter.std() == 0 and parameter.dim() > 1 or not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    network.eval()
    pipeline.save_pretrained(folder)
    return folder, pipeline
