"""The equations of the paper as pure functions: Eq. 7, Eq. 9, Eq. 10 and the surrogate that injects a gradient."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.scores.schedules import Latent, Levels

Scalar = Float[Tensor, ""]
Weighting = Literal["uniform", "sigma2", "sigma_over_alpha", "alpha_over_sigma"]

_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),
    "sigma2": lambda alpha, sigma: sigma**2,
    "sigma_over_alpha": lambda alpha, sigma: sigma / alpha,
    "alpha_over_sigma": lambda alpha, sigma: alpha / sigma,
}


def weight(weighting: Weighting, alpha: Levels, sigma: Levels) -> Levels:
    """w(t) of Eq. 7: `uniform`, DreamFusion's `sigma2`, `sigma_over_alpha` (the residual in x0 units, as in the paper's
    released code) or `alpha_over_sigma` (Eq. 7 taken literally); a ValueError of any other word.
    """
    if weighting not in _WEIGHTS:
        raise ValueError(f"The weighting must be one of {', '.join(_WEIGHTS)}; got {weighting!r}.")
    return _WEIGHTS[weighting](alpha, sigma)


def discriminator_loss(e_phi: Latent, eps: Latent, e_y: Latent, gamma: float | Levels) -> Scalar:
    """Eq. 10: ||e_phi - eps||^2 + gamma ||e_y - e_phi||^2, summed over a sample and averaged over the batch.

    Its pointwise minimiser is (E[eps|x_t] + gamma e_y) / (1 + gamma) when gamma > -1.
    """
    per_sample = (e_phi - eps).square() + gamma * (e_y - e_phi).square()
    return per_sample.flatten(1).sum(1).mean()


def released_loss(e_phi: Latent, eps: Latent, e_y: Latent, gamma: float | Levels, alpha: Levels) -> Scalar:
    """What the paper's released code minimises, whose phi predicts v: ||v_phi - v||^2 + gamma ||v_phi - v_y'||^2.

    Its v_y' = alpha e_y - sigma x0 is made of the true x0, where the v that belongs to e_y would take the one that e_y
    stands for. In eps-space it is (||e_phi - eps||^2 + gamma ||e_phi - eps - alpha^2 (e_y - eps)||^2) / alpha^2, with
    the minimiser eps + alpha^2 gamma / (1 + gamma) (e_y - eps): Eq. 10 with a gamma that fades as the noise grows.
    Summed over a sample and averaged over the batch, like Eq. 10.
    """
    error = e_phi - eps
    per_sample = (error.square() + gamma * (error - alpha.square() * (e_y - eps)).square()) / alpha.square()
    return per_sample.flatten(1).sum(1).mean()


def faded_gamma(gamma: float | Levels, alpha: Levels) -> Levels:
    """The gamma with which Eq. 10 has the released loss's minimiser: k / (1 - k), k = alpha^2 gamma / (1 + gamma)."""
    k = alpha.square() * gamma / (1 + gamma)
    return k / (1 - k)


def real_loss(e_phi: Latent, eps: Latent, e_y: Latent, eta: float, clip: float = float("inf")) -> tuple[Scalar, Scalar]:
    """What Eq. 9 adds at real samples: - ||e_phi - eps||^2 + eta ||e_y - e_phi||^2, summed and averaged like Eq. 10.

    Under an exact prior Eq. 9 is Eq. 10 at gamma - (1 - eta) r/q, r and q being the real and the fake density: below
    eta = 1 it has no minimum where r/q is large. So a sample stops counting in the first term once its error exceeds
    `clip` times the prior's own, ||e_y - eps||^2, as in a hinge loss. The second result is the share of such samples.
    """
    error, prior_error = ((e - eps).square().flatten(1).sum(1) for e in (e_phi, e_y))
    limit = clip * prior_error
    penalty = (e_y - e_phi).square().flatten(1).sum(1)
    return (eta * penalty - torch.minimum(error, limit)).mean(), (error > limit).float().mean()


def inject(x0: Latent, gradient: Latent) -> Scalar:
    """A scalar whose gradient with respect to x0 is exactly `gradient` / B (sum over a sample, mean over the batch)."""
    return (x0 * gradient.detach()).sum() / x0.shape[0]


def effective_scale(scale: float, gamma: float) -> float:
    """lambda_eff = 1 + (1 + gamma)(lambda - 1): the CFG scale of the VSD that ASD is at its discriminator's optimum."""
    return 1 + (1 + gamma) * (scale - 1)


def hsv_saturation(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Mean over an image of HSV's saturation, (max - min) / max over the channels; 0 where a pixel is black."""
    top, bottom = images.amax(1), images.amin(1)
    return ((top - bottom) / top.clamp(min=1e-6)).flatten(1).mean(1)


def laplacian(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H-2 W-2"]:
    """Each pixel minus the mean of its four neighbours, inside the border."""
    inner = images[..., 1:-1, 1:-1]
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return inner - around / 4


def sharpness(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Mean absolute difference of a pixel and the mean of its four neighbours, inside the border."""
    return laplacian(images).abs().flatten(1).mean(1)
