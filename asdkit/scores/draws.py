"""The noisy draws of a run's steps, reproducible one by one: which t, which noise."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asdkit.core.bounds import Share
from asdkit.core.parts import Part, require
from asdkit.core.ramps import Ramp, bounds, value_at
from asdkit.core.randomness import Rows, generator_for, normal, to_device
from asdkit.rendering.cameras import Batch
from asdkit.scores.prior import Noised, Prior


class Timesteps(Part):
    """Draws t ~ U[t_min, t_max], as shares of the schedule. Both ends may move with the iterations.

    Args:
        t_min: the lower end, from 0 to 1.
        t_max: the upper end, at least t_min; equal ends give one t for all samples. Lower it to change less
            of an object that is almost done.
        stratified: whether to take one t in each of B equal parts of the range in random order, not B independent ones.
    """

    def __init__(self, t_min: Share | Ramp = 0.02, t_max: Share | Ramp = 0.98, stratified: bool = True) -> None:
        for low, high in zip(bounds(t_min), bounds(t_max), strict=True):
            require(low <= high, f"The range of t must satisfy t_min <= t_max; got {low} and {high}.")
        self.t_min, self.t_max, self.stratified = t_min, t_max, stratified

    def range(self, step: int) -> tuple[float, float]:
        """t_min and t_max at a step."""
        low = value_at(self.t_min, step)
        return low, max(low, value_at(self.t_max, step))

    def draw(self, count: int, step: int, total: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """`count` values of t in 0 .. total-1."""
        share = torch.rand(count, generator=generator)
        if self.stratified:
            share = (torch.randperm(count, generator=generator) + share) / count
        low, high = (end * (total - 1) for end in self.range(step))
        return (low + share * (high - low)).round().long()


class Draws:
    """Draws that depend on (seed, rank, step, purpose) alone, however a step is split into parts."""

    def __init__(self, prior: Prior, timesteps: Timesteps, seed: int, prompt: str = "") -> None:
        self.prior, self.timesteps, self.seed, self.prompt = prior, timesteps, seed, prompt
        self._encoded_source: Tensor | None = None

    def draw(self, x0: Float[Tensor, "B C h w"], batch: Batch, step: int, purpose: str, rank: int = 0) -> Noised:
        """One noisy draw of x0 in an iteration, counted from 0; draws for two purposes are independent."""
        rows = batch.rows or Rows(0, len(x0), len(x0))
        random = generator_for(self.seed, step, purpose, rank)
        t = rows.of(self.timesteps.draw(rows.total, step, len(self.prior.schedule), random))
        eps = to_device(normal(rows, x0.shape[1:], random), x0.device)
        if rows.start:
            random = generator_for(self.seed, step, f"{purpose}, from {rows.start} on", rank)
        source = None if batch.source is None else self._source(batch.source, batch.views is None).expand_as(x0)
        prompts = {self.prompt: batch.prompts} if batch.prompts else {}
        facts = {"source": source, "random": random, "prompts": prompts, "references": batch.references}
        return self.prior.draw(x0, t, eps, batch.views, step=step, **facts)

    @torch.no_grad()
    def _source(self, image: Float[Tensor, "B 3 H W"], fixed: bool) -> Float[Tensor, "B C h w"]:
        """x0 of the source image; of one that is the same in every step it is computed once."""
        if self._encoded_source is None or not fixed:
            self._encoded_source = self.prior.encode(image)
        return self._encoded_source
