"""The noise schedule x_t = alpha_t x0 + sigma_t eps, and the conversions between what networks predict.

Every network output is o = p x0 + q eps; with D = alpha q - sigma p,
    eps = (alpha o - p x_t) / D        x0 = (q x_t - sigma o) / D
(epsilon: p, q = 0, 1; v: -sigma, alpha; flow, eps - x0: -1, 1; sample: 1, 0).

Levels and conversions are in double precision, so that a difference of two converted predictions is as exact as the
converted difference at every t. Where alpha is 0 (zero terminal SNR, the end of a flow) it is held at 2^-24, which no
x_t in single precision shows, so that weights that divide by alpha give the finite limit.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Latent = Float[Tensor, "B C h w"]  # x0, eps, x_t, or what is predicted for one
Levels = Float[Tensor, "B 1 1 1"]  # one for each sample
Times = Int[Tensor, " B"]
PerTime = Float[Tensor, " T"]  # one for each t of a schedule
Prediction = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]
ALPHA_FLOOR = 2.0**-24


class Schedule(nn.Module):
    """A discrete noise schedule, t = 0 .. T-1.

    Args:
        alphas: signal levels [T], within [0, 1] and not increasing; zeros are held at 2^-24.
        sigmas: noise levels [T], within (0, 1].
        prediction: what the network's output means: diffusers' words, and `flow_prediction` for eps - x0.
        times: what the network is told for each t [T]; t itself when None.
    """

    alphas: Tensor
    sigmas: Tensor
    times: Tensor

    def __init__(
        self, alphas: PerTime, sigmas: PerTime, prediction: Prediction = "epsilon", times: Tensor | None = None
    ) -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction", "flow_prediction", "sample"):
            raise ValueError(f"The prediction is epsilon, v_prediction, flow_prediction or sample, not {prediction!r}.")
        if not bool(((alphas >= 0) & (alphas <= 1)).all() and ((sigmas > 0) & (sigmas <= 1)).all()):
            raise ValueError("The signal levels of a schedule must lie within [0, 1] and its noise levels in (0, 1].")
        self.prediction = prediction
        times = torch.arange(len(alphas)) if times is None else times
        self.register_buffer("alphas", alphas.double().clamp(min=ALPHA_FLOOR), persistent=False)
        self.register_buffer("sigmas", sigmas.double(), persistent=False)
        self.register_buffer("times", times, persistent=False)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedule":
        """Levels move with the prior, but keep their precision when it is cast (on Apple's GPUs there is no double)."""
        device = function(torch.zeros(1)).device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.alphas, self.sigmas = (levels.to(device, dtype) for levels in (self.alphas, self.sigmas))
        self.times = self.times.to(device)
        return self

    def __len__(self) -> int:
        """T, the number of training steps of the prior."""
        return self.alphas.shape[0]

    def alpha(self, t: Times) -> Levels:
        """Signal level at t."""
        return self.alphas[t][:, None, None, None]

    def sigma(self, t: Times) -> Levels:
        """Noise level at t."""
        return self.sigmas[t][:, None, None, None]

    def nearest(self, ratio: Levels) -> Times:
        """The t at which alpha / sigma is nearest to a ratio, by its logarithm."""
        return ((self.alphas / self.sigmas).log() - ratio.reshape(-1, 1).log()).abs().argmin(1)

    def add_noise(self, x0: Latent, t: Times, eps: Latent) -> Latent:
        """x_t = alpha_t x0 + sigma_t eps."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def coefficients(self, t: Times) -> tuple[float | Tensor, float | Tensor]:
        """p and q of what the network puts out at t, p x0 + q eps."""
        if self.prediction == "v_prediction":
            return -self.sigma(t), self.alpha(t)
        return {"epsilon": (0.0, 1.0), "flow_prediction": (-1.0, 1.0), "sample": (1.0, 0.0)}[self.prediction]

    def target(self, x0: Latent, t: Times, eps: Latent) -> Latent:
        """What a network of this prediction type is trained to put out: p x0 + q eps."""
        p, q = self.coefficients(t)
        return p * x0 + q * eps

    def to_eps(self, output: Latent, x_t: Latent, t: Times) -> Latent:
        """The noise that a network output stands for, (alpha o - p x_t) / D."""
        (p, q), alpha, sigma = self.coefficients(t), self.alpha(t), self.sigma(t)
        return (alpha * output - p * x_t) / (alpha * q - sigma * p)

    def eps_to_x0(self, eps: Latent, x_t: Latent, t: Times) -> Latent:
        """x0 = (x_t - sigma eps) / alpha, the clean sample a noise prediction stands for."""
        return (x_t - self.sigma(t) * eps) / self.alpha(t)


def variance_preserving(alphas_cumprod: PerTime, prediction: Prediction = "epsilon") -> Schedule:
    """alpha_t^2 = alphas_cumprod, sigma_t^2 = 1 - alpha_t^2: what diffusers' DDPM and DDIM schedulers hold."""
    squares = alphas_cumprod.double()
    return Schedule(squares.sqrt(), (1 - squares).sqrt(), prediction)


def scaled_linear(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, prediction: Prediction = "epsilon"
) -> Schedule:
    """Stable Diffusion's schedule: the roots of beta_t grow linearly."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return variance_preserving((1 - betas).cumprod(0), prediction)


def rectified_flow(sigmas: PerTime, steps: int = 1000) -> Schedule:
    """x_t = (1 - s) x0 + s eps, and the network, which is told s times `steps`, predicts eps - x0 (SD 3, FLUX).

    `sigmas` are s at t = 0 .. T-1, increasing, as diffusers' FlowMatchEulerDiscreteScheduler holds them in reverse.
    """
    sigmas = sigmas.double()
    return Schedule(1 - sigmas, sigmas, "flow_prediction", (sigmas * steps).float())
