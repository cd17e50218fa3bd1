"""Training of the toybox's autoencoder, in Stable Diffusion's format."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.atomic import write_text
from asdkit.core.bounds import Count, LearningRate, NonNegative, Weight, checked
from asdkit.core.randomness import generator_for
from asdkit.toybox.training.common import cosine, psnr, save_half
from asdkit.toybox.training.renders import Examples


@checked
class TrainVAE(pl.LightningModule):
    """An AutoencoderTiny, 64x64x3 to 16x16x`latent_channels`, trained by squared error.

    The latents are held near zero mean and unit variance per channel, and disturbed by a little noise, so that a
    diffusion model can be trained on them as they are.

    Args:
        output: folder that receives `vae/` when training ends.
        width: channels of every layer.
        latent_channels: channels of the latents.
        learning_rate: of AdamW, at its peak; a cosine to zero follows.
        latent_noise: standard deviation of the disturbance.
        latent_weight: weight of the pull to zero mean and unit variance.
        seed: of the weights and of the noise.
    """

    def __init__(
        self,
        output: str = "toybox-weights",
        width: Count = 32,
        latent_channels: Count = 8,
        learning_rate: LearningRate = 3e-3,
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
                encoder_block_out_channels=(width,) * 3,
                decoder_block_out_channels=(width,) * 3,
                num_encoder_blocks=(0, 1, 2),
                num_decoder_blocks=(2, 1, 1),
                upsample_fn="bilinear",
            ).to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=self.hparams.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": cosine(optimizer, self.trainer.max_steps)}

    def training_step(self, batch: Examples) -> Tensor:
        images = (batch.images * 2 - 1).contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(images).latents
        generator = generator_for(self.hparams.seed, self.global_step, "latents", self.global_rank)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        output = self.vae.decode(latents + self.hparams.latent_noise * noise).sample
        error = (output.float() - images).square().mean()
        self.log_dict({"loss": error, "psnr": 10 * torch.log10(4 / error)}, prog_bar=True, batch_size=len(images))
        return error + self.hparams.latent_weight * _distance_from_standard(latents.float())

    def validation_step(self, batch: Examples) -> None:
        reconstruction = self.vae.decode(self.vae.encode(batch.images * 2 - 1).latents).sample
        self.log(
            "val_psnr",
            psnr((reconstruction + 1) / 2, batch.images).mean(),
            prog_bar=True,
            batch_size=len(batch.captions),
        )

    def on_train_end(self) -> None:
        if not self.trainer.is_global_zero:
            return
        with torch.no_grad():
            batches = self.trainer.datamodule.val_dataloader()
            latents = torch.cat([self.vae.encode(b.images.to(self.device) * 2 - 1).latents for b in batches])
        self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        folder = Path(self.hparams.output) / "vae"
        save_half(self.vae, folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("block_out_channels")  # diffusers writes it and warns of it when reading
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _distance_from_standard(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return mean.square().mean() + (std - 1).square().mean()
