"""The autoencoder of a latent diffusion model: images in [0,1] to x0 and back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.priors.families import Model
from asdkit.priors.folder import ModelFolder, one_sentence
from asdkit.priors.locate import component
from asdkit.priors.network_runner import to_float32


def load_autoencoder(files: ModelFolder, dtype: torch.dtype, tiny_vae: str = "") -> Model:
    """A model's own autoencoder, in single precision if it overflows (`force_upcast`), or an `AutoencoderTiny`."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    settings = files.json("vae/config.json")
    if tiny_vae:
        vae = component(tiny_vae).model(AutoencoderTiny, ".", dtype)
        own, tiny = settings.get("latent_channels", 4), vae.config.latent_channels
        if own != tiny:
            raise ValueError(f"tiny_vae has {tiny} channels and the prior's latents {own}; name one of its family.")
    else:
        is_tiny = files.json("model_index.json").get("vae", ["", ""])[1] == "AutoencoderTiny"
        overflows = settings.get("force_upcast", False) and dtype == torch.float16
        vae = files.model(AutoencoderTiny if is_tiny else AutoencoderKL, "vae", torch.float32 if overflows else dtype)
    with one_sentence(tiny_vae or files.path / "vae"):
        _check_latents(vae.config)
    return vae


def checkpoint(vae: Model, checkpointed: Callable[..., Any]) -> None:
    """Compute what lies within its blocks again in the backward pass, instead of keeping it."""
    if type(vae).__name__ != "AutoencoderTiny":
        vae.enable_gradient_checkpointing(checkpointed)
        return
    # This one does not scale the image when it does so itself (as of diffusers 0.42), and so gives another x0.
    layers = vae.encoder.layers
    plain = layers.forward
    layers.forward = lambda x: checkpointed(plain, x) if torch.is_grad_enabled() else plain(x)


def encode(vae: Model, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """x0 = (z - shift) scale of the mean z, with gradient."""
    encoded = vae.encode((images * 2 - 1).to(vae.dtype))
    latents = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
    shift, scale = _shift_and_scale(vae.config, vae.device)
    return (to_float32(latents) - shift) * scale


@torch.no_grad()
def decode(vae: Model, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """Images in [-1,1], or a little beyond."""
    shift, scale = _shift_and_scale(vae.config, vae.device)
    return vae.decode((x0 / scale + shift).to(vae.dtype)).sample


def latent_shape(vae: Model, height: int, width: int) -> tuple[int, int]:
    """Height and width of the x0 of an image of this many pixels."""
    factor = 2 ** (len(vae.config.get("block_out_channels") or vae.config.encoder_block_out_channels) - 1)
    return height // factor, width // factor


def _check_latents(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError unless latents are shifted and scaled by numbers, for each channel or for all."""
    channels = settings["latent_channels"]
    with torch.device("cpu"):  # a model on the meta device has its numbers all the same
        shift, scale = (torch.as_tensor(value).flatten().expand(channels) for value in _shift_and_scale(settings))
    if not (shift.isfinite() & scale.isfinite() & (scale != 0)).all():
        raise ValueError(f"x0 can't be scaled by {scale.tolist()} and moved by {shift.tolist()}")


def _shift_and_scale(settings: Mapping[str, Any], device: Any = None) -> tuple[float | Tensor, float | Tensor]:
    """`shift_factor` and `scaling_factor`, or what `latents_mean` and `latents_std` of each channel make of them."""
    scale, mean, std = float(settings["scaling_factor"]), settings.get("latents_mean"), settings.get("latents_std")
    if mean is None or std is None:
        return float(settings.get("shift_factor") or 0.0), scale
    shifts, deviations = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (mean, std))
    return shifts, scale / deviations
