"""The lab: priors whose scores are exact, to debug a method in milliseconds.

With x0 ~ N(mu, s^2) the noise prediction is affine, E[eps|x_t] = sigma (x_t - alpha mu) / (alpha^2 s^2 + sigma^2); with
x0 uniform on a finite set it is (x_t - alpha sum_i w_i x_i) / sigma, where w is the softmax of
-|x_t - alpha x_i|^2 / (2 sigma^2). Every method's fixed points on these are closed forms.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asdkit.core.bounds import Count, NonNegative, Whole
from asdkit.core.contexts import replaced
from asdkit.core.randomness import to_device
from asdkit.rendering.cameras import Views
from asdkit.scores.fields import Field
from asdkit.scores.prior import Adapter, Condition, Noised, Prior
from asdkit.scores.schedules import Latent, Schedule, scaled_linear, variance_preserving


def gaussian_eps(x_t: Tensor, alpha: Tensor, sigma: Tensor, mean: Tensor | float, spread: Tensor | float) -> Tensor:
    """E[eps|x_t] when every value of x0 is N(mean, spread^2), independently."""
    return sigma * (x_t - alpha * mean) / ((alpha * spread) ** 2 + sigma**2)


def finite_set_eps(x_t: Tensor, alpha: Tensor, sigma: Tensor, points: Tensor, among: Tensor | None = None) -> Tensor:
    """E[eps|x_t] when x0 is one of the points [N,C,h,w], or of those `among` [B,N] marks, with equal chance."""
    flat = points.flatten(1).double()
    distance = torch.cdist((x_t / alpha).flatten(1).double(), flat, compute_mode="donot_use_mm_for_euclid_dist")
    logits = -0.5 * (alpha.double() / sigma.double()).flatten(1).square() * distance.square()
    if among is not None:
        logits = logits.masked_fill(~among, -torch.inf)
    x0 = (torch.softmax(logits, dim=1) @ flat).view_as(x_t).to(x_t.dtype)
    return (x_t - alpha * x0) / sigma


class _Exact(nn.Module):
    """The "network" of a lab prior, on which adapters put their hooks. Takes (x_t, t, *facts) and returns eps."""

    def __init__(self, schedule: Schedule, eps: Callable[..., Tensor]) -> None:
        super().__init__()
        self.schedule, self._eps = schedule, eps

    def forward(self, x_t: Latent, t: Int[Tensor, " B"], *facts: Tensor) -> Latent:
        return self._eps(x_t, self.schedule.alpha(t), self.schedule.sigma(t), *facts)


class LabPrior(Prior):
    """The base of the lab's priors: x0 are the images themselves, and nothing is loaded.

    Args:
        eps: the exact noise prediction, a function of (x_t, alpha, sigma, *facts).
        steps: the number of noise levels, evenly picked from Stable Diffusion's schedule of 1000; a divisor of 1000.
    """

    def __init__(self, eps: Callable[..., Tensor], steps: Count) -> None:
        super().__init__()
        if 1000 % steps:
            raise ValueError(f"steps must divide 1000; got {steps}.")
        self.schedule = variance_preserving(scaled_linear().alphas.square()[1000 // steps - 1 :: 1000 // steps])
        self.network = _Exact(self.schedule, eps)

    def setup(self) -> None:
        """Nothing to load."""

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Latent:
        return images

    def decode(self, x0: Latent) -> Float[Tensor, "B 3 H W"]:
        return x0.detach().clamp(0, 1)

    def prepare(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            if condition.text and condition.text not in self.texts():
                raise ValueError(f"The lab prior doesn't know {condition.text!r}; it knows {', '.join(self.texts())}.")

    @abstractmethod
    def texts(self) -> list[str]:
        """The prompts that this prior knows."""

    @abstractmethod
    def facts(self, x: Noised, condition: Condition) -> tuple[Tensor, ...]:
        """The further inputs of the network that stand for a condition, a row for each sample of x."""

    def predict(self, x: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Latent]:
        self.prepare([own for condition in conditions for own in x.own(condition)])
        copies = len(conditions)
        facts = [torch.cat(rows) for rows in zip(*(self._own_facts(x, c) for c in conditions), strict=True)]
        with nullcontext() if adapter is None else adapter.switched_on(x.views, copies):
            facts[0] = self.moved(facts[0]) if self.condition_shape else facts[0]
            eps = self.network(x.x_t.repeat(copies, 1, 1, 1), x.t.repeat(copies), *facts)
        return list(eps.chunk(copies))

    def _own_facts(self, x: Noised, condition: Condition) -> list[Tensor]:
        facts = x.by_own(condition, lambda own, rows: {k: fact[rows] for k, fact in enumerate(self.facts(x, own))})
        return list(facts.values())

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.spec).encode()).hexdigest()[:12]


class GaussianPrior(LabPrior):
    """A prior whose score is exact: every value of x0 is independent, of N(mean of the prompt, spread^2).

    Args:
        means: the mean of each prompt: one number, or one for each channel.
        null_mean: the mean of the null condition.
        spread: the standard deviation for the prompts.
        null_spread: the standard deviation for the null condition; `spread` when 0.
        steps: the number of levels of the noise schedule, a divisor of 1000.
    """

    def __init__(
        self,
        means: dict[str, float | list[float]],
        null_mean: float | list[float] = 0.0,
        spread: NonNegative = 0.5,
        null_spread: NonNegative = 0.0,
        steps: Count = 1000,
    ) -> None:
        super().__init__(gaussian_eps, steps)
        self._means: dict[str, float | list[float]] = {"": null_mean, **means}
        self.channels = max(len(mean) if isinstance(mean, list) else 0 for mean in self._means.values())
        self.condition_shape = (self.channels or 1, 1, 1)
        self._spread, self._null_spread = spread, null_spread or spread

    def texts(self) -> list[str]:
        return [text for text in self._means if text]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        means = [torch.as_tensor(self._means[text]).expand(self.channels or 1) for text in texts]
        return to_device(torch.stack(means), self.schedule.alphas.device)

    def facts(self, x: Noised, condition: Condition) -> tuple[Tensor, ...]:
        mean = to_device(torch.as_tensor(self._means[condition.text]), x.x_t.device).to(x.x_t).reshape(1, -1, 1, 1)
        spread = torch.full_like(x.alpha, self._spread if condition.text else self._null_spread)
        return mean.expand(len(x.t), x.x_t.shape[1], 1, 1), spread


class FiniteSetPrior(LabPrior):
    """A prior that is the exact denoiser of finite sets of images. `add` gives it a set for each prompt.

    Args:
        nearest: a view-dependent prompt means only its samples from the `nearest` cameras; 0 for all its samples.
        steps: the number of levels of the noise schedule, a divisor of 1000.
    """

    def __init__(self, nearest: Whole = 1, steps: Count = 1000) -> None:
        super().__init__(lambda x, alpha, sigma, some: finite_set_eps(x, alpha, sigma, self.points.to(x), some), steps)
        self._nearest = nearest
        self._owners: list[str] = []
        self.points, self._directions = torch.empty(0), torch.empty(0, 3)

    def add(self, text: str, samples: Float[Tensor, "N C h w"], views: Views | None = None) -> None:
        """Further samples of a prompt and, where each belongs to a camera, the cameras."""
        directions = torch.zeros(len(samples), 3) if views is None else _direction(views)
        self.points = torch.cat([self.points, samples.detach()] if self._owners else [samples.detach()])
        self._directions = torch.cat([self._directions, directions])
        self._owners += [text] * len(samples)

    @property
    def digest(self) -> str:
        samples = repr(self._owners).encode() + self.points.numpy().tobytes()
        return hashlib.sha256(super().digest.encode() + samples).hexdigest()[:12]

    def texts(self) -> list[str]:
        return list(dict.fromkeys(self._owners))

    def facts(self, x: Noised, condition: Condition) -> tuple[Tensor, ...]:
        of_prompt = torch.tensor([condition.text in (owner, "") for owner in self._owners])
        if x.views is None or not (condition.text and condition.view_dependent and self._nearest):
            return (to_device(of_prompt.expand(len(x.t), -1), x.x_t.device),)
        nearness = (_direction(x.views.to("cpu")) @ self._directions.T).masked_fill(~of_prompt, -torch.inf)
        farthest = nearness.topk(min(self._nearest, len(of_prompt)), dim=1).values[:, -1:]
        return (to_device(of_prompt & ((nearness >= farthest) | (self._directions == 0).all(1)), x.x_t.device),)


def _direction(views: Views) -> Float[Tensor, "B 3"]:
    return nn.functional.normalize(views.c2w[:, :3, 3], dim=1)


class GaussianScore(Field):
    """The exact fake score of a generator whose values are N(mean, spread^2). `follow` tells it when they change.

    Args:
        mean: the mean of the generator's values.
        spread: the standard deviation of these values; 0 for a generator that shows one image.
    """

    def __init__(self, mean: float = 0.0, spread: NonNegative = 0.0) -> None:
        super().__init__()
        self.follow(mean, spread)

    def follow(self, mean: Tensor | float, spread: Tensor | float) -> None:
        """The generator's values are N(mean, spread^2) from now on."""
        self._mean, self._spread = torch.as_tensor(mean).detach(), torch.as_tensor(spread).detach()

    def forward(self, x: Noised) -> Latent:
        return gaussian_eps(x.x_t, x.alpha, x.sigma, self._mean, self._spread)


class ParticleScore(Field):
    """The exact fake score of a generator that shows nothing but the samples of the batch."""

    def forward(self, x: Noised) -> Latent:
        return finite_set_eps(x.x_t, x.alpha, x.sigma, x.x0)


class Affine(Adapter):
    """An adapter for lab priors: e_phi = e_y + slope_t x_t + offset_t at every t, any Gaussian's exact score.

    Args:
        steps: the number of levels of the prior's schedule.
        channels: the number of slopes and offsets at each t; 1 gives all channels the same.
    """

    def __init__(self, steps: Count = 1000, channels: Count = 1) -> None:
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.zeros(steps, channels, 1, 1)) for _ in range(2))
        self._on = self._hooked = False

    def setup(self, prior: Prior) -> None:
        if not self._hooked:
            prior.network.register_forward_hook(self._add_affine)
        self._hooked = True

    def _add_affine(self, network: nn.Module, args: tuple[Tensor, ...], eps: Tensor) -> Tensor:
        return eps + self.slope[args[1]] * args[0] + self.offset[args[1]] if self._on else eps

    def switched_on(self, views: Views | None, copies: int) -> AbstractContextManager[None]:
        return replaced(self, "_on", True)
