"""Training of the toybox's autoencoder, in Stable Diffusion's format."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from asdkit.core.atomic import write_text
from asdkit.core.bounds import Count, LearningRate, NonNegative, Weight, checked
from asdkit.core.randomness import generator_for
from asdkit.toybox import captions
from asdkit.toybox.measures import laplacian, psnr, sharpness
from asdkit.toybox.training.common import cosine, save_half
from asdkit.toybox.training.renders import Examples


@checked
class TrainVAE(pl.LightningModule):
    """An AutoencoderTiny, 128x128x3 to 16x16x`latent_channels`, trained by squared error and by that of its edges.

    The latents are held near zero mean and unit variance per channel, and disturbed by a little noise, so that a
    diffusion model can be trained on them as they are.

    Args:
        output: folder that receives `vae/` when training ends.
        width: channels of the encoder's layers.
        decoder_width: channels of the decoder's layers.
        latent_channels: channels of the latents.
        learning_rate: of AdamW, at its peak; a cosine to zero follows.
        edge_weight: weight of the mean absolute error of differences between neighbouring pixels, for flat surfaces.
        detail_weight: weight of the mean absolute error of the local amount of detail, for sharpness: where the squared
            error alone is least for a blur, because the place of an edge is uncertain, this one asks for an edge.
        latent_noise: standard deviation of the disturbance.
        latent_weight: weight of the pull to zero mean and unit variance.
        seed: of the weights and of the noise.
    """

    def __init__(
        self,
        output: str = "toybox-weights",
        width: Count = 32,
        decoder_width: Count = 48,
        latent_channels: Count = 16,
        learning_rate: LearningRate = 3e-3,
        edge_weight: Weight = 0.05,
        detail_weight: Weight = 0.15,
        latent_noise: NonNegative = 0.05,
        latent_weight: Weight = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderTiny

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.vae = AutoencoderTiny(
                latent_channels=latent_channels,
                encoder_block_out_channels=(width,) * 4,
                decoder_block_out_channels=(decoder_width,) * 4,
                num_encoder_blocks=(0, 1, 2, 4),
                num_decoder_blocks=(4, 3, 1, 0),
            ).to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=self.hparams.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": cosine(optimizer, self.trainer.max_steps)}

    def training_step(self, batch: Examples) -> Tensor:
        images = (batch.x0 * 2 - 1).contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(images).latents
        generator = generator_for(self.hparams.seed, self.global_step, "latents", self.global_rank)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        output = self.vae.decode(latents + self.hparams.latent_noise * noise).sample.float()
        error = (output - images).square().mean()
        self.log_dict({"loss": error, "psnr": 10 * torch.log10(4 / error)}, prog_bar=True, batch_size=len(images))
        edges = (_edges(output) - _edges(images)).abs().mean()
        blur = (detail(output) - detail(images)).abs().mean()
        standard = _distance_from_standard(latents.float())
        sharp = self.hparams.edge_weight * edges + self.hparams.detail_weight * blur
        return error + sharp + self.hparams.latent_weight * standard

    def validation_step(self, batch: Examples) -> None:
        images = (batch.x0 * 2 - 1).contiguous(memory_format=torch.channels_last)
        output = (self.vae.decode(self.vae.encode(images).latents).sample.float() + 1).div(2).clamp(0, 1)
        plain = [captions.parse(prompt).material == "" for prompt in batch.prompts]
        for name, rows in (("plain", torch.tensor(plain)), ("textured", ~torch.tensor(plain))):
            if rows.any():
                values = {f"val_psnr_{name}": psnr(output[rows], batch.x0[rows]).mean()}
                values[f"val_sharpness_{name}"] = sharpness(output[rows]).mean() / sharpness(batch.x0[rows]).mean()
                self.log_dict(values, prog_bar=True, batch_size=int(rows.sum()))

    def on_train_end(self) -> None:
        if not self.trainer.is_global_zero:
            return
        with torch.no_grad():
            batches = self.trainer.datamodule.val_dataloader()
            latents = torch.cat([self.vae.encode(b.x0.to(self.device) * 2 - 1).latents for b in batches])
        self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        folder = Path(self.hparams.output) / "vae"
        save_half(self.vae, folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("block_out_channels")  # diffusers writes it and warns of it when reading
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _edges(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " N"]:
    """The differences between neighbouring pixels, downwards and to the right."""
    return torch.cat([images.diff(dim=2).flatten(), images.diff(dim=3).flatten()])


def detail(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
    """Root mean square, in overlapping windows of 8 pixels, of what a pixel differs from its four neighbours' mean."""
    return (avg_pool2d(laplacian(images).square(), 8, 4) + 1e-5).sqrt()


def _distance_from_standard(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return mean.square().mean() + (std - 1).square().mean()
