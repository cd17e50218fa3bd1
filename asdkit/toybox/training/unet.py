"""Training of the toybox's text-to-image model in Stable Diffusion's format: text encoder, UNet, camera embedding."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel

from asdkit.core.bounds import Count, LearningRate, Share, checked
from asdkit.core.randomness import generator_for, seeded
from asdkit.rendering.cameras import Views
from asdkit.rendering.view_words import EIGHT_SECTORS
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.schedules import scaled_linear
from asdkit.toybox.captions import vocabulary
from asdkit.toybox.training import common
from asdkit.toybox.training.renders import Examples

_SCHEDULER = common.NETWORKS["scheduler"]
Weights = dict[str, Tensor]


class Denoiser(nn.Module):
    """The networks that are trained together. The UNet attends to the text at its coarsest level."""

    def __init__(self, channels: tuple[int, ...], latent_channels: int, text_width: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor

        self.tokenizer = common.build_tokenizer()
        plain = len(channels) - 1  # levels, before the one with attention
        down, up = (*["DownBlock2D"] * plain, "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", *["UpBlock2D"] * plain)
        blocks = {"block_out_channels": channels, "down_block_types": down, "up_block_types": up}
        sizes = {"in_channels": latent_channels, "out_channels": latent_channels, "cross_attention_dim": text_width}
        self.unet = UNet2DConditionModel(**blocks, **sizes, **common.NETWORKS["unet"])
        # On a CPU and sequences this short, plain products are 14 % faster to train than the fused attention.
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**common.text_settings(self.tokenizer, text_width)))
        self.camera = CameraEmbedding(self.unet.time_embedding.linear_2.out_features)
        self._camera_offset: Tensor | None = None
        self.unet.time_embedding.register_forward_hook(self._add_camera)

    def _add_camera(self, module: nn.Module, args: tuple[Any, ...], embedding: Tensor) -> Tensor:
        return embedding + self._camera_offset

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, views: Views, has_camera: Tensor) -> Tensor:
        """The network's output [B,C,h,w]; `has_camera` [B] tells which rows know their camera."""
        self._camera_offset = self.camera(views) * has_camera[:, None]
        return self.unet(x_t, t, self.text_encoder(tokens).last_hidden_state).sample


@checked
class TrainUNet(common.Training):
    """Trains a UNet2DConditionModel on the toybox's latents, by v-prediction, with text and camera conditions.

    Args:
        weights: the folder with `vae/` that receives `unet/`, `text_encoder/`, `tokenizer/`, `scheduler/`, `camera/`.
        channels: the numbers of channels of the UNet's levels, at 16, 8 and 4 pixels.
        text_width: the width of the text encoder.
        learning_rate: AdamW's learning rate, which is held, then brought to zero linearly over the last quarter of the
            steps.
        ema_decay: the decay of the average of the weights, which is saved.
        drop_text: the share of examples without text and camera, for classifier-free guidance.
        drop_camera: the share of the other examples that get no camera, so that text alone suffices.
        start: the pipeline folder whose `unet/`, `text_encoder/` and `camera/` training starts from, or `toybox` for
            the embedded one; random weights when empty. Their sizes must be those given here, but words and positions
            may have been added since.
        seed: the seed of the weights, the noise and the drops.
    """

    adamw = {"betas": (0.9, 0.99), "weight_decay": 0.01, "foreach": True}

    def __init__(
        self,
        weights: str = "toybox-weights",
        channels: Sequence[Count] = (32, 96, 192),
        text_width: Count = 128,
        learning_rate: LearningRate = 1e-3,
        ema_decay: Share = 0.9995,
        drop_text: Share = 0.1,
        drop_camera: Share = 0.3,
        start: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        latent_channels = common.read_autoencoder(Path(weights) / "vae").config.latent_channels
        with seeded(seed):
            self.net = Denoiser(tuple(channels), latent_channels, text_width)
        if start:
            with common.starting_from(start) as folder:
                load_pipeline(self.net, folder)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(ema_decay)).requires_grad_(False)
        self.schedule = scaled_linear(1000, _SCHEDULER["beta_start"], _SCHEDULER["beta_end"], "v_prediction")

    def setup(self, stage: str) -> None:
        if not self.trainer.datamodule.vae:
            raise ValueError("The text-to-image model learns from latents; name the autoencoder's folder by data.vae.")

    def training_step(self, batch: Examples) -> Tensor:
        generator = generator_for(self.hparams.seed, self.global_step, "diffusion", self.global_rank)
        loss = self._loss(self.net, batch, generator)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.captions))
        return loss

    def validation_step(self, batch: Examples, batch_idx: int) -> None:
        loss = self._loss(self.average.module, batch, generator_for(self.hparams.seed, batch_idx, "validation"))
        self.log("val_loss", loss, prog_bar=True, batch_size=len(batch.captions))

    def _loss(self, net: nn.Module, batch: Examples, generator: torch.Generator) -> Tensor:
        x0, count = batch.images, len(batch.images)
        strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        t = (strata * len(self.schedule)).long().to(self.device)
        eps = torch.randn(x0.shape, generator=generator).to(self.device)
        drop_text, drop_camera = torch.rand(2, count, generator=generator)
        has_text = drop_text >= self.hparams.drop_text
        captions = [c if keep else "" for c, keep in zip(batch.captions, has_text.tolist(), strict=True)]
        tokens = net.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        has_camera = (has_text & (drop_camera >= self.hparams.drop_camera)).float().to(self.device)
        output = net(self.schedule.add_noise(x0, t, eps).float(), t, tokens.to(self.device), batch.views, has_camera)
        return (output.float() - self.schedule.target(x0, t, eps)).square().mean()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average at once, so that a checkpoint written at the end of the step holds this step's average."""
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.net)

    def save(self) -> None:
        save_pipeline(self.average.module, Path(self.hparams.weights))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The weights so far, which a run that is stopped leaves, too."""
        self.on_train_end()


def load_pipeline(net: Denoiser, folder: Path) -> None:
    """Read what `save_pipeline` wrote; words and positions that the folder's text encoder lacks keep their values here.

    An OSError, KeyError or RuntimeError if a file is missing, or of other sizes.
    """
    for name, module in {"unet": net.unet, "text_encoder": net.text_encoder, "camera": net.camera}.items():
        mine = {key.removeprefix("text_model."): key for key in module.state_dict()}
        files = sorted((folder / name).glob("*.safetensors"))  # without any, every weight is missing
        tensors = {key: value for file in files for key, value in load_file(file).items()}
        weights = {mine.get(k.removeprefix("text_model."), k): value for k, value in tensors.items()}
        if name == "text_encoder":
            words = json.loads((folder / "tokenizer" / "vocab.json").read_text())
            _grow_text(weights, module.state_dict(), words, net.tokenizer.get_vocab())
        module.load_state_dict(weights)


def _grow_text(weights: Weights, mine: Weights, words: dict[str, int], my_words: dict[str, int]) -> None:
    """Give the embeddings in `weights`, whose rows are `words`, the rows of `mine`: those of new words stay mine."""
    (tokens,) = (key for key in mine if key.endswith("token_embedding.weight"))
    (positions,) = (key for key in mine if key.endswith("position_embedding.weight"))
    old_tokens, old_positions = weights[tokens], weights[positions]
    if old_tokens.shape[1] != mine[tokens].shape[1]:
        return  # another width, which is refused when the rest is read
    known = [(words[word], row) for word, row in my_words.items() if word in words]
    theirs, rows = torch.tensor(known).unbind(1)
    weights[tokens] = mine[tokens].index_copy(0, rows, old_tokens[theirs].to(mine[tokens].dtype))
    count = min(len(old_positions), len(mine[positions]))
    weights[positions] = torch.cat([old_positions[:count].to(mine[positions].dtype), mine[positions][count:]])


def save_pipeline(net: Denoiser, folder: Path) -> None:
    """Write the networks beside `vae/` as a Stable Diffusion pipeline folder that transformers 4 and 5 both read."""
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline

    common.save_half(net.unet, folder / "unet")
    common.save_text_encoder(net.text_encoder, folder / "text_encoder")
    common.save_tokenizer(net.tokenizer, folder / "tokenizer")
    scheduler = DDIMScheduler(**_SCHEDULER)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "camera").mkdir(exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in net.camera.state_dict().items()}
    save_file(weights, folder / "camera" / "model.safetensors")
    pipeline = StableDiffusionPipeline(
        AutoencoderTiny.from_pretrained(folder / "vae"), net.text_encoder, net.tokenizer, net.unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_config(folder)  # model_index.json
    words, related = vocabulary(), json.loads((Path(__file__).parents[1] / "related_words.json").read_text())
    facts: dict[str, Any] = {"view_words": EIGHT_SECTORS.sectors, "overhead_word": EIGHT_SECTORS.overhead}
    facts |= {"overhead_above_deg": EIGHT_SECTORS.overhead_above_deg, "words": words}
    facts["related"] = {word: others for word, others in related.items() if word in words}
    (folder / "asdkit.json").write_text(json.dumps(facts, indent=2) + "\n")
