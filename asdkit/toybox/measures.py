"""Measures of pictures [B,3,H,W] in [0,1], alone or against a set of true ones."""

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "B 3 H W"]
Truth = Float[Tensor, "N 3 H W"]


def psnr(images: Float[Tensor, "B C H W"], truth: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio in dB of each image: -10 log10 of its mean squared error."""
    return -10 * torch.log10((images - truth).square().flatten(1).mean(1))


def sharpness(images: Images) -> Float[Tensor, " B"]:
    """Mean absolute difference of a pixel and the mean of its four neighbours, inside the border."""
    return laplacian(images).abs().flatten(1).mean(1)


def laplacian(images: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B h w"]:
    """What a pixel differs by from the mean of its four neighbours; the border, which has none, is left out."""
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return images[..., 1:-1, 1:-1] - around / 4


def radial_power(images: Images) -> Float[Tensor, "B F"]:
    """Mean power of the grey picture's frequencies in rings of one cycle per picture: 1, 2 ... up to half the size.

    A frequency of length r, in cycles per picture, belongs to the ring round(r).
    """
    size = images.shape[-1]
    grey = images.mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True), norm="forward").abs().square().flatten(1)
    cycles = torch.fft.fftfreq(size, 1 / size, device=images.device)
    ring = torch.hypot(cycles[:, None], cycles).round().long().flatten().clamp(max=size // 2 + 1)
    total = power.new_zeros(len(images), size // 2 + 2).index_add_(1, ring, power)
    return (total / torch.bincount(ring, minlength=size // 2 + 2))[:, 1 : size // 2 + 1]


def spectral_distance(images: Images, truth: Truth) -> float:
    """Mean distance in dB of two sets' mean radial powers, over 1 to a quarter of the size in cycles per picture."""
    count = images.shape[-1] // 4
    power, true = (radial_power(pictures).mean(0)[:count].clamp(min=1e-12) for pictures in (images, truth))
    return (10 * torch.log10(power / true)).abs().mean().item()


def palette_distance(images: Images, truth: Truth) -> float:
    """How far two sets' colours lie apart, wherever they lie in the pictures.

    The Wasserstein-1 distance of their pixels, on average over seven directions of RGB: the axes and the diagonals.
    """
    signs = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]).float()
    directions = torch.nn.functional.normalize(signs.to(images.device), dim=1)
    quantiles = torch.linspace(0, 1, 1001, device=images.device)

    def ordered(pictures: Tensor) -> Tensor:
        values = directions @ pictures.movedim(1, 0).flatten(1)
        values = values[:, :: max(1, values.shape[1] // 1_000_000)].sort(dim=1).values
        return values[:, (quantiles * (values.shape[1] - 1)).round().long()]

    return (ordered(images) - ordered(truth)).abs().mean().item()


def pairwise_distance(images: Images) -> float:
    """Mean root mean square difference of two pictures of a set."""
    return torch.pdist(images.flatten(1)).mean().item() / images[0].numel() ** 0.5


def kid(features: Float[Tensor, "N D"], truth: Float[Tensor, "M D"]) -> tuple[float, float]:
    """Kernel distance of two sets of features, and its standard error.

    The unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (Binkowski et al. 2018). The error is
    that of the U-statistic's linear term over both sets.
    """
    within, across, among = (_kernel(a, b) for a, b in ((features, features), (features, truth), (truth, truth)))
    n, m = len(features), len(truth)
    first = (within.sum(1) - within.diagonal()) / (n - 1) - across.mean(1)
    second = (among.sum(1) - among.diagonal()) / (m - 1) - across.mean(0)
    error = (4 * first.var() / n + 4 * second.var() / m).sqrt()
    return (first.mean() + second.mean()).item(), error.item()


def _kernel(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def against(images: Images, truth: Truth) -> dict[str, float]:
    """How a set of pictures differs from a set of true ones whose instances it needn't repeat.

    Returns:
        `sharpness` and `true_sharpness`, `spectrum` (`spectral_distance`, dB) and `palette` (`palette_distance`).
    """
    sharp = {"sharpness": sharpness(images).mean().item(), "true_sharpness": sharpness(truth).mean().item()}
    return sharp | {"spectrum": spectral_distance(images, truth), "palette": palette_distance(images, truth)}
