"""Which t a draw takes: a pure function of the step and a random number."""

import torch
from jaxtyping import Int
from torch import Tensor

from asdkit.core.bounds import Share
from asdkit.core.parts import Part, require
from asdkit.core.ramps import Ramp, bounds, value_at


class Timesteps(Part):
    """Draws t ~ U[t_min, t_max], as shares of the schedule. Both ends may move with the iterations.

    Args:
        t_min: the lower end, from 0 to 1.
        t_max: the upper end, at least t_min; equal ends give one t for all samples. Lower it to change less
            of an object that is almost done.
        stratified: whether to take one t in each of B equal parts of the range, in random order, instead of B
            independent ones.

    Raises:
        ValueError: t_min > t_max, at the start or at the end of their ramps.
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
