"""Small models in the folder formats of Stable Diffusion and Shap-E, which are saved and loaded in a second."""

import json
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.conditions import EIGHT_SECTORS


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

    from asdkit.toybox.tokenizer import MAX_TOKENS, build_tokenizer, save_text_encoder, save_tokenizer

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


def save_tiny_shap_e(folder: Path) -> Path:
    """Write a Shap-E whose every object is the part z < 0.3 of its cube; its sRGB is sigmoid(2 x, 2 y, 2 z)."""
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
    from diffusers.pipelines.shap_e import ShapERenderer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from asdkit.toybox.tokenizer import MAX_TOKENS, build_tokenizer

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=4,
            num_layers=1,
            embedding_dim=8,
            num_embeddings=4,
            additional_embeddings=0,
            embedding_proj_dim=8,
            time_embed_dim=16,
            clip_embed_dim=16,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
        )
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=8,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        renderer = ShapERenderer(
            param_names=("nerstf.none",),  # what latents say is left out
            param_shapes=((1, 1),),
            d_latent=8,
            d_hidden=3,
            n_hidden_layers=1,
            insert_direction_at=None,
        )
        text_encoder = CLIPTextModelWithProjection(config)
    hidden, out = renderer.mlp.mlp
    with torch.no_grad():
        for layer in (hidden, out):
            layer.weight.zero_()
            layer.bias.zero_()
        hidden.weight[:, :3], hidden.bias[:] = torch.eye(3), 30.0  # so far up, the activation is the identity
        out.weight[0, 2], out.bias[0] = -8.0, 242.4  # signed distance: tanh(8 (0.3 - z))
        out.weight[3:6], out.bias[3:6] = 2 * torch.eye(3), -60.0  # colours
    renderer.mesh_decoder.cases[:], renderer.mesh_decoder.masks[:] = _marching_cubes()
    scheduler = HeunDiscreteScheduler(beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True)
    pipeline = ShapEPipeline(prior, text_encoder, tokenizer, scheduler, renderer)
    pipeline.save_pretrained(folder)
    return folder


def _marching_cubes() -> tuple[Tensor, Tensor]:
    """Shap-E's table, for cubes that a plane cuts: the polygon of cut edges as a fan. A corner is bit x + 2y + 4z."""
    corners = torch.tensor(list(product((0, 1), repeat=3))).flip(1)  # x first
    edges = [(a, a + step) for step in (1, 2, 4) for a in range(8) if not a & step]
    cases, masks = torch.zeros(256, 5, 3, dtype=torch.long), torch.zeros(256, 5, dtype=torch.bool)
    for case in range(1, 255):
        inside = torch.tensor([case >> corner & 1 for corner in range(8)], dtype=torch.bool)
        cut = [index for index, (a, b) in enumerate(edges) if inside[a] != inside[b]]
        out = corners[~inside].float().mean(0) - corners[inside].float().mean(0)
        if len(cut) > 6 or not out.any():
            continue  # no plane
        middles = torch.stack([corners[list(edges[index])].float().mean(0) for index in cut])
        across = torch.linalg.cross(out, torch.tensor([0.31, 0.53, 0.79]))
        offset = middles - middles.mean(0)
        order = torch.atan2(offset @ torch.linalg.cross(out, across) / out.norm(), offset @ across).argsort().tolist()
        for triangle in range(len(cut) - 2):
            cases[case, triangle] = torch.tensor([cut[order[i]] for i in (0, triangle + 1, triangle + 2)])
            masks[case, triangle] = True
    return cases, masks
