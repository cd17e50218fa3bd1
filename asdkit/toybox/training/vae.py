"""Training of the toybox's autoencoder, in Stable Diffusion's format."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, mse_loss

from asdkit.core.atomic import write_text
from asdkit.core.bounds import Count, LearningRate, NonNegative, Weight, checked
from asdkit.core.parts import require
from asdkit.core.randomness import generator_for, seeded
from asdkit.core.unregistered import keep_unregistered
from asdkit.scores.equations import laplacian
from asdkit.toybox.measures import psnr
from asdkit.toybox.training.common import NETWORKS, WARMUP, Training, read_autoencoder, save_half, starting_from
from asdkit.toybox.training.renders import Examples

_FACTOR = 8  # edge of the pictures over that of the latents


@checked
class TrainVAE(Training):
    """Trains an AutoencoderTiny of factor 8, e.g. 128x128x3 to 16x16x`latent_channels`, by squared error.

    The latents are held near zero mean and unit variance per channel, and disturbed by a little noise, so that a
    diffusion model can be trained on them as they are. Squared error alone blurs details that the latents don't hold; a
    weak second loss asks for as much fine detail as the picture has there.

    Args:
        output: the folder that receives `vae/` when training ends.
        width: the number of channels of every layer.
        latent_channels: the number of channels of the latents.
        learning_rate: the peak of AdamW's learning rate; a cosine to zero follows.
        crop: the edge in pixels of the random square of each picture that a step sees, a multiple of 8; smaller
            pictures are seen whole.
        latent_noise: the standard deviation of the noise that disturbs the latents.
        latent_weight: the weight of the pull to zero mean and unit variance.
        detail_weight: the weight of the squared difference in local strength of the Laplacian.
        start: the pipeline folder whose `vae/`, of these sizes, training starts from, or `toybox` for the embedded one;
            random weights when empty. At first the latents are pulled to that model's, so that a diffusion model that
            was trained on those can then be trained on.
        start_weight: the weight of that pull in the first step; it falls linearly to zero at a third of the steps.
        decoder_only: whether the encoder stays that of `start`, so that a diffusion model of its latents stays right.
        seed: the seed of the weights, the crops and the noise.
    """

    adamw = {"betas": (0.9, 0.95), "weight_decay": 0.0, "foreach": True}
    _start: Any = None  # a frozen AutoencoderTiny

    def __init__(
        self,
        output: str = "toybox-weights",
        width: Count = 32,
        latent_channels: Count = 8,
        learning_rate: LearningRate = 2e-3,
        crop: Count = 64,
        latent_noise: NonNegative = 0.05,
        latent_weight: Weight = 0.01,
        detail_weight: Weight = 1.0,
        start: str = "",
        start_weight: Weight = 0.1,
        decoder_only: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderTiny

        require(crop % _FACTOR == 0, f"crop is a multiple of {_FACTOR}, not {crop}.")
        blocks = {f"{half}_block_out_channels": (width,) * 4 for half in ("encoder", "decoder")}
        with seeded(seed):
            self.vae = AutoencoderTiny(latent_channels=latent_channels, **blocks, **NETWORKS["vae"])
        self.vae.to(memory_format=torch.channels_last)
        if start:
            with starting_from(start) as folder:
                keep_unregistered(self, "_start", read_autoencoder(folder / "vae"))
                self.vae.load_state_dict(self._start.state_dict())
        if decoder_only:
            require(bool(start), "decoder_only keeps the encoder of a trained autoencoder; name its folder by start.")
            self.vae.encoder.requires_grad_(False)
            self.vae.register_to_config(scaling_factor=self._start.config.scaling_factor)

    def rate(self, step: int) -> float:
        """A cosine to zero."""
        return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.trainer.max_steps)))

    def training_step(self, batch: Examples) -> Tensor:
        settings: Any = self.hparams
        generator = generator_for(settings.seed, self.global_step, "latents", self.global_rank)
        images = random_crops(batch.images, settings.crop, generator) * 2 - 1
        images = images.contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(images).latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        output = self.vae.decode(latents + settings.latent_noise * noise).sample.float()
        error = (output - images).square().mean()
        self.log_dict({"loss": error, "psnr": 10 * torch.log10(4 / error)}, prog_bar=True, batch_size=len(images))
        mean, std = latents.float().mean((0, 2, 3)), latents.float().std((0, 2, 3))
        loss: Tensor = error + settings.latent_weight * (mean.square().mean() + (std - 1).square().mean())
        loss = loss + settings.detail_weight * _detail_difference(output, images)
        return loss + self._pull_to_start(images, latents.float())

    def _pull_to_start(self, images: Tensor, latents: Tensor) -> Tensor | float:
        settings: Any = self.hparams
        weight: float = settings.start_weight * max(0.0, 1 - 3 * self.global_step / self.trainer.max_steps)
        if not settings.start or settings.decoder_only or not weight:
            return 0.0
        self._start.to(self.device)
        return weight * mse_loss(latents, self._start.encode(images).latents.float())  # which is frozen

    def validation_step(self, batch: Examples) -> None:
        reconstruction = self.vae.decode(self.vae.encode(batch.images * 2 - 1).latents).sample
        decibels = psnr((reconstruction + 1) / 2, batch.images).mean()
        self.log("val_psnr", decibels, prog_bar=True, batch_size=len(batch.captions))

    @torch.no_grad()
    def save(self) -> None:
        settings: Any = self.hparams
        if not settings.decoder_only:
            batches = self.trainer.datamodule.val_dataloader()
            latents = torch.cat([self.vae.encode(b.images.to(self.device) * 2 - 1).latents for b in batches])
            self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        folder = Path(settings.output) / "vae"
        save_half(self.vae, folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("block_out_channels")  # diffusers writes it and warns of it when reading
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def random_crops(
    images: Float[Tensor, "B C H W"], size: int, generator: torch.Generator
) -> Float[Tensor, "B C size size"]:
    """A random square of each picture, the whole of smaller ones; its corner lies on a multiple of 8 pixels."""
    room = [max(0, edge - size) // _FACTOR + 1 for edge in images.shape[-2:]]
    top, left = (_FACTOR * torch.randint(n, (len(images),), generator=generator) for n in room)
    places = zip(images, top.tolist(), left.tolist(), strict=True)
    return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in places])


def _detail_difference(output: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Of the mean absolute Laplacian in squares of six pixels, the mean squared difference."""
    own, true = (avg_pool2d(laplacian(x).abs(), 6) for x in (output, images))
    return (own - true).square().mean()
