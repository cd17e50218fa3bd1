"""Small random models in diffusers' folder formats, which are saved and loaded in a second, and their components."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.shap_e import ShapERenderer
from safetensors.torch import save_file
from torch import Tensor

from asdkit import CFGOptions, Field, PerpNeg, Pretrained, Prior
from asdkit.rendering.view_words import EIGHT_SECTORS
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.prior import Condition
from asdkit.toybox.training.common import build_tokenizer, save_text_encoder, save_tokenizer

TEXT = "a red cube"  # of words that the tiny model knows
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def loaded(folder: Path | str, *conditions: Condition, **settings: Any) -> Pretrained:
    """The model of a folder as a prior that is set up, and has embedded what these conditions say."""
    prior = Pretrained(str(folder), **settings)
    prior.setup()
    prior.prepare(conditions)
    return prior


def assert_same(one: Pretrained, other: Pretrained) -> None:
    """Both have the same weights to the bit, and embed what they have been prepared for alike."""
    for own, its in ((one.state_dict(), other.state_dict()), (embedded(one), embedded(other))):
        assert own.keys() == its.keys() and all(torch.equal(value, its[name]) for name, value in own.items())


def embedded(prior: Pretrained) -> dict[str, Tensor]:
    return {text: rows["text"] for text, rows in prior.prompts.embedded.items()}


def ready(field: Field, prior: Prior, perp_neg: PerpNeg | None = None, source: str = TEXT) -> Field:
    """The field bound to the prompt, and to words for a source."""
    field.bind(TEXT, source, CFGOptions(perp_neg))
    field.setup(prior)
    return field


clip_tokenizer = build_tokenizer


def _words(tokenizer: transformers.CLIPTokenizer) -> dict[str, int]:
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {"vocab_size": len(tokenizer), **tokens}


def clip(width: int, projected: bool = False, layers: int = 2, inner: int | None = None) -> Any:
    """A text encoder."""
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=inner or 2 * width, num_hidden_layers=layers, projection_dim=width,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, **_words(tokenizer),
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def save_clip(
    folder: Path, size: int = 32, patch: int = 16, vision: int = 16, text: int = 16, layers: int = 1, heads: int = 2
) -> Path:
    """Write a random CLIP as transformers does, which knows the toy world's words."""
    tokenizer = clip_tokenizer()
    of_text, of_vision = (
        {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": many}
        for width, many in ((text, heads), (vision, heads * vision // text))
    )
    of_text |= _words(tokenizer)
    of_vision |= {"image_size": size, "patch_size": patch}
    config = transformers.CLIPConfig(text_config=of_text, vision_config=of_vision, projection_dim=text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
    with torch.no_grad():  # what the class token is without the picture would outweigh it
        model.vision_model.embeddings.class_embedding.zero_()
        model.vision_model.embeddings.position_embedding.weight[0].zero_()
    model.save_pretrained(folder)
    shape = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    transformers.CLIPImageProcessorPil(**shape).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def kl_vae(channels: int = 4, scale: float = 0.18215, shift: float | None = None, blocks: int = 4) -> Any:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    return diffusers.AutoencoderKL(
        **kinds, block_out_channels=(4,) * blocks, latent_channels=channels, norm_num_groups=2, layers_per_block=1,
        scaling_factor=scale, shift_factor=shift,
    )  # fmt: skip


def tiny_vae(channels: int = 4, scale: float = 1.0) -> Any:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=channels, scaling_factor=scale,
    )  # fmt: skip


def unet(text_width: int, channels: int = 4, **further: Any) -> Any:
    settings: dict[str, Any] = {
        "sample_size": 8, "in_channels": channels, "out_channels": channels, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "block_out_channels": (8, 16),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": text_width,
        "attention_head_dim": 8, "norm_num_groups": 4,
    }  # fmt: skip
    return diffusers.UNet2DConditionModel(**(settings | further))


def ddim_scheduler(prediction: str = "epsilon", **further: Any) -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, **further,
    )  # fmt: skip


def save_tiny_pipeline(
    folder: Path, prediction: str = "v_prediction", kl: bool = False, scaling_factor: float = 1.0, camera: bool = True,
    facts: bool = True, seed: int = 0,
) -> Path:  # fmt: skip
    """Write the folder; its camera network is random, not zero, so that cameras matter.

    `kl` gives it an `AutoencoderKL` in the place of an `AutoencoderTiny`; `camera` and `facts` write `camera/` and
    `asdkit.json`.
    """

    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = unet(16)
        vae = kl_vae(scale=scaling_factor, blocks=2) if kl else tiny_vae(scale=scaling_factor)
        encoder = clip(16, layers=1)
        embedding = CameraEmbedding(network.time_embedding.linear_2.out_features, hidden=128)
        torch.nn.init.normal_(embedding.out.weight, std=0.3)
    parts = {"unet": network, "vae": vae, "scheduler": ddim_scheduler(prediction)}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    save_text_encoder(encoder, folder / "text_encoder")
    save_tokenizer(clip_tokenizer(), folder / "tokenizer")
    words = {"text_encoder": encoder, "tokenizer": clip_tokenizer()}
    diffusers.StableDiffusionPipeline(**parts, **words, **UNCHECKED).save_config(folder)
    if camera:
        (folder / "camera").mkdir()
        save_file(embedding.state_dict(), folder / "camera" / "model.safetensors")
    if facts:
        words = {"view_words": EIGHT_SECTORS.sectors, "overhead_word": EIGHT_SECTORS.overhead}
        known = {"overhead_above_deg": EIGHT_SECTORS.overhead_above_deg, "words": ["a", "red", "cube", "front", "view"]}
        (folder / "asdkit.json").write_text(json.dumps(words | known))
    return folder


def save_tiny_shap_e(folder: Path) -> Path:
    """Write a Shap-E whose every object is the part z < 0.3 of its cube; its sRGB is sigmoid(2 x, 2 y, 2 z)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=4, num_layers=1, embedding_dim=8, num_embeddings=4,
            additional_embeddings=0, embedding_proj_dim=8, time_embed_dim=16, clip_embed_dim=16,
            time_embed_act_fn="gelu", norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
        )  # fmt: skip
        nothing = {"param_names": ("nerstf.none",), "param_shapes": ((1, 1),)}  # what latents say is left out
        renderer = ShapERenderer(**nothing, d_latent=8, d_hidden=3, n_hidden_layers=1, insert_direction_at=None)
        text_encoder = clip(8, projected=True, layers=1, inner=8)
    hidden, out = renderer.mlp.mlp
    with torch.no_grad():
        for layer in (hidden, out):
            layer.weight.zero_()
            layer.bias.zero_()
        hidden.weight[:, :3], hidden.bias[:] = torch.eye(3), 30.0  # so far up, the activation is the identity
        out.weight[0, 2], out.bias[0] = -8.0, 242.4  # signed distance: tanh(8 (0.3 - z))
        out.weight[3:6], out.bias[3:6] = 2 * torch.eye(3), -60.0  # colours
    renderer.mesh_decoder.cases[:], renderer.mesh_decoder.masks[:] = _marching_cubes()
    scheduler = diffusers.HeunDiscreteScheduler(beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True)
    pipeline = diffusers.ShapEPipeline(prior, text_encoder, clip_tokenizer(), scheduler, renderer)
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
