"""DDIM sampling from a prior: the way to look at what it knows."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.rendering.cameras import Views
from asdkit.scores.fields import Field
from asdkit.scores.prior import Prior


@torch.no_grad()
def ddim(
    prior: Prior,
    field: Field,
    noise: Float[Tensor, "B C h w"],
    steps: int = 50,
    views: Views | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
) -> Float[Tensor, "B C h w"]:
    """x0 by deterministic DDIM (eta = 0) along any score field, e.g. `CFG("a duck", 3.0)`.

    It starts at x_T = `noise` and takes as many network calls as steps; `views` are a camera for each sample, and
    `prompts` of a text of the field what each sample has in its place.
    """
    times = torch.linspace(len(prior.schedule) - 1, 0, steps + 1, device=noise.device).long()
    x_t = noise
    for t_now, t_next in zip(times[:-1], times[1:], strict=True):
        t = t_now.expand(len(noise))
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        x = prior.draw(torch.zeros_like(x_t), t, x_t / sigma, views, prompts=prompts)
        eps = field(x)
        x0 = (x_t - sigma * eps) / alpha
        x_t = prior.schedule.add_noise(x0, t_next.expand(len(noise)), eps)
    return x0.to(noise.dtype)
