"""The noise schedule x_t = alpha_t x0 + sigma_t eps, and the conversions between what networks predict.

Every network output is o = p x0 + q eps; with D = alpha q - sigma p,
    eps = (alpha o - p x_t) / D        x0 = (q x_t - sigma o) / D
(epsilon: p, q = 0, 1; v: -sigma, alpha; sample: 1, 0).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Prediction = Literal["epsilon", "v_prediction", "sample"]


class Schedule(nn.Module):
    """A discrete, variance-preserving noise schedule.

    Args:
        alphas_cumprod: alpha_t^2 for t = 0 .. T-1 [T], decreasing, within (0, 1].
        prediction: what the network's output means, in diffusers' words.

    Raises:
        ValueError: an unknown prediction type, or alphas_cumprod outside (0, 1].
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " T"], prediction: Prediction = "epsilon") -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"The prediction type must be epsilon, v_prediction or sample; got {prediction!r}.")
        if not bool(((alphas_cumprod > 0) & (alphas_cumprod <= 1)).all()):
            raise ValueError("alphas_cumprod must lie within (0, 1]; a zero terminal SNR is not supported.")
        self.prediction = prediction
        self.register_buffer("alphas", alphas_cumprod.double().sqrt().to(alphas_cumprod.dtype), persistent=False)
        self.register_buffer("sigmas", (1 - alphas_cumprod.double()).sqrt().to(alphas_cumprod.dtype), persistent=False)

    def __len__(self) -> int:
        """T, the number of training steps of the prior."""
        return self.alphas.shape[0]

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
        """Signal level at t."""
        return self.alphas[t][:, None, None, None]

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
        """Noise level at t."""
        return self.sigmas[t][:, None, None, None]

    def add_noise(
        self, x0: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], eps: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        """x_t = alpha_t x0 + sigma_t eps."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def to_eps(
        self, output: Float[Tensor, "B C h w"], x_t: Float[Tensor, "B C h w"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """The noise that a network output stands for."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return alpha * output + sigma * x_t
        return (x_t - alpha * output) / sigma

    def eps_to_x0(
        self, eps: Float[Tensor, "B C h w"], x_t: Float[Tensor, "B C h w"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """x0 = (x_t - sigma eps) / alpha, the clean sample a noise prediction stands for."""
        return (x_t - self.sigma(t) * eps) / self.alpha(t)

    def target(
        self, x0: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], eps: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        """What a network of this prediction type is trained to put out: p x0 + q eps."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "v_prediction":
            return self.alpha(t) * eps - self.sigma(t) * x0
        return x0


def scaled_linear(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, prediction: Prediction = "epsilon"
) -> Schedule:
    """Stable Diffusion's schedule: the roots of beta_t grow linearly."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return Schedule((1 - betas).cumprod(0).float(), prediction)
