"""Measures of pictures and of sets of them, as pure functions; sharpness and saturation are in `scores.equations`."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.scores.equations import laplacian

_COARSE, _FINE, _FINEST = 1, 6, 32  # cycles per picture: below 6 is the outline, from 6 to 32 the texture
_SMOOTH, _NEIGHBOURHOOD = 0.1, 5  # what may lie between brightest and darkest, and pixels a side
_ROUNDING = (2.5 / math.pi / 12) ** 0.5 / 255  # mean |laplacian| of what rounding to 8 bits adds to a flat surface
_QUANTILES, _DIRECTIONS = 512, 64
Pictures = Float[Tensor, "B 3 H W"]


def psnr(image: Float[Tensor, "B C H W"], truth: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio in dB of each image in [0,1]."""
    return -10 * torch.log10((image - truth).square().flatten(1).mean(1))


def silhouette_iou(alpha: Float[Tensor, "B 1 H W"], truth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Intersection over union of two silhouettes, alpha above one half; 1 when both are empty."""
    a, b = (alpha > 0.5).flatten(1), (truth > 0.5).flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def spectrum(images: Float[Tensor, "B C N N"]) -> Float[Tensor, "B K"]:
    """The power of square pictures in the N / 2 bands of k to k + 1 cycles per picture, in any direction.

    It is the squared magnitude of the Fourier transform over the squared number of pixels, the mean over the channels:
    by Parseval's theorem its sum over all frequencies is the mean square of a picture.
    """
    size = images.shape[-1]
    power = (torch.fft.fft2(images.double()).abs().square() / size**4).mean(1).flatten(1)
    cycles = torch.fft.fftfreq(size, 1 / size, device=images.device)
    band = torch.hypot(cycles[:, None], cycles[None]).floor().long().flatten()
    bands = torch.zeros(len(images), int(band.max()) + 1, dtype=power.dtype, device=images.device)
    return bands.index_add_(1, band, power)[:, : size // 2].float()


def texture_power(images: Float[Tensor, "B C N N"]) -> Float[Tensor, " B"]:
    """Power from 6 to 32 cycles per picture over that from 1 to 6: how much of a picture is texture."""
    bands = spectrum(images)
    return bands[:, _FINE:_FINEST].sum(1) / bands[:, _COARSE:_FINE].sum(1).clamp(min=1e-12)


def spectrum_distance(first: Float[Tensor, "B C N N"], second: Float[Tensor, "M C N N"]) -> float:
    """How far apart the mean spectra of two sets of pictures are, in dB: the mean over the bands of 1 to 32 cycles."""
    a, b = (10 * spectrum(images).mean(0)[_COARSE:_FINEST].clamp(min=1e-12).log10() for images in (first, second))
    return (a - b).abs().mean().item()


def palette_distance(first: Float[Tensor, "N 3"], second: Float[Tensor, "M 3"]) -> float:
    """How far apart two sets of RGB colours in [0,1] are; where all of one are the other's moved by d it is |d|.

    That is twice the sliced 1-Wasserstein distance: the mean over 64 directions, spread evenly over the half sphere, of
    the exact distance between the projected colours, by 512 quantiles of each. It is NaN where a set is empty.
    """
    if not (len(first) and len(second)):
        return math.nan
    step = torch.arange(_DIRECTIONS) + 0.5
    height, turn = step / _DIRECTIONS, step * math.pi * (3 - 5**0.5)
    flat = (1 - height.square()).sqrt()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), height])
    share = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
    projected = (np.sort((each @ directions).numpy(), 0) for each in (first, second))  # ten times as fast as torch's
    a, b = (torch.from_numpy(each)[(share * len(each)).long()] for each in projected)
    return 2 * (a - b).abs().mean().item()


def mottle(images: Pictures, truths: Pictures, alphas: Float[Tensor, "B 1 H W"]) -> float:
    """Sharpness where the true object is smooth, over the truth's own there: 1 is perfect, more is mottled.

    A pixel is smooth where its neighbourhood of 5x5 pixels lies inside the object (`alphas`, of the truth) and differs
    by less than 0.1. To both is added what rounding to 8 bits makes of a flat surface, 0.001. NaN if none is smooth.
    """

    def highest(values: Tensor) -> Tensor:
        return nn.functional.max_pool2d(values, _NEIGHBOURHOOD, 1, _NEIGHBOURHOOD // 2)

    level = (highest(truths) + highest(-truths)).amax(1) < _SMOOTH
    smooth = (level & (highest(-alphas)[:, 0] < -0.999))[:, 1:-1, 1:-1]
    own, true = (laplacian(each).abs().mean(1)[smooth].mean().item() for each in (images, truths))
    return float((own + _ROUNDING) / (true + _ROUNDING))


def diversity(images: Float[Tensor, "N C H W"]) -> float:
    """The mean of the root mean square differences of all pairs of pictures; 0 for a single image."""
    flat = images.flatten(1).double()
    return torch.pdist(flat).div(flat.shape[1] ** 0.5).to(images).mean().item() if len(images) > 1 else 0.0


def kid(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"]) -> float:
    """Kernel inception distance (1801.01401), the unbiased squared MMD by (x.y / D + 1)^3; NaN of one image."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x) for x in (first, second))]
    return (within[0] + within[1] - 2 * kernel(first, second).mean()).item()


def kid_error(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"]) -> float:
    """The standard error of `kid`, the deviation between random halves of both sets, which vary as the whole does."""
    generator = torch.Generator().manual_seed(0)

    def half(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[: len(x) // 2]]

    return torch.tensor([kid(half(first), half(second)) for _ in range(100)]).std().item()
