"""A random model in Stable Diffusion's folder format, small enough to save and load in a second."""

import json
from pathlib import Path

import torch

from asdkit.camera import CameraEmbedding
from asdkit.prompts import EIGHT_SECTORS


def save_tiny_pipeline(
    folder: Path,
    prediction: str = "v_prediction",
    kl: bool = False,
    scaling_factor: float = 1.0,
    camera: bool = True,
    facts: bool = True,
    seed: int = 0,
) -> Path:
    """Write the folder; its camera network is random, not zero, so that cameras matter.

    Args:
        folder: where to.
        prediction: the scheduler's prediction type.
        kl: an `AutoencoderKL` in the place of the `AutoencoderTiny`.
        scaling_factor: of the autoencoder.
        camera: write `camera/`.
        facts: write `asdkit.json`.
        seed: of the weights.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    from asdkit.toybox.text import MAX_TOKENS, build_tokenizer, save_text_encoder, save_tokenizer

    folder = Path(folder)
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
        )
        if kl:
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
                up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
                block_out_channels=(4, 4),
                latent_channels=4,
                norm_num_groups=2,
                scaling_factor=scaling_factor,
            )
        else:
            vae = AutoencoderTiny(
                encoder_block_out_channels=(4, 4),
                decoder_block_out_channels=(4, 4),
                num_encoder_blocks=(1, 1),
                num_decoder_blocks=(1, 1),
                latent_channels=4,
                scaling_factor=scaling_factor,
            )
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoder = CLIPTextModel(config)
        embedding = CameraEmbedding(unet.time_embedding.linear_2.out_features, hidden=128)
        torch.nn.init.normal_(embedding.out.weight, std=0.3)
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    save_text_encoder(encoder, folder / "text_encoder")
    save_tokenizer(tokenizer, folder / "tokenizer")
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    if camera:
        (folder / "camera").mkdir()
        save_file(embedding.state_dict(), folder / "camera" / "model.safetensors")
    if facts:
        words = {"view_words": EIGHT_SECTORS.sectors, "overhead_word": EIGHT_SECTORS.overhead}
        known = {"overhead_above_deg": EIGHT_SECTORS.overhead_above_deg, "words": ["a", "red", "cube", "front", "view"]}
        (folder / "asdkit.json").write_text(json.dumps(words | known))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL" if kl else "AutoencoderTiny"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
