"""Which t a draw takes: a pure function of the step and a random number."""

import torch
from jaxtyping import Int
from torch import Tensor

from asdkit.part import Part


class Timesteps(Part):
    """t ~ U[t_min, t_max(step)], as shares of the schedule; t_max falls linearly over the first steps.

    Args:
        t_min: lower end, within [0, 1).
        t_max: upper end at step 0, within (t_min, 1].
        t_max_end: upper end from step `anneal_steps` on; t_max when 0.
        anneal_steps: over how many steps the upper end falls; 0 for a constant range.
        stratified: one t in each of B equal parts of the range, in random order, instead of B independent ones.

    Raises:
        ValueError: ends that are not 0 <= t_min < t_max <= 1.
    """

    def __init__(
        self,
        t_min: float = 0.02,
        t_max: float = 0.98,
        t_max_end: float = 0.0,
        anneal_steps: int = 0,
        stratified: bool = True,
    ) -> None:
        end = t_max_end or t_max
        if not (0 <= t_min < t_max <= 1 and t_min < end <= 1):
            raise ValueError(f"The range of t must satisfy 0 <= t_min < t_max <= 1; got {t_min}, {t_max}, {end}.")
        if anneal_steps < 0:
            raise ValueError(f"anneal_steps can't be negative; got {anneal_steps}.")
        self.t_min, self.t_max, self.t_max_end = t_min, t_max, end
        self.anneal_steps, self.stratified = anneal_steps, stratified

    def upper(self, step: int) -> float:
        """t_max at a step."""
        progress = min(1.0, step / self.anneal_steps) if self.anneal_steps else 0.0
        return self.t_max + progress * (self.t_max_end - self.t_max)

    def draw(self, count: int, step: int, total: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """`count` values of t in 0 .. total-1."""
        share = torch.rand(count, generator=generator)
        if self.stratified:
            share = (torch.randperm(count, generator=generator) + share) / count
        low, high = self.t_min * (total - 1), self.upper(step) * (total - 1)
        return (low + share * (high - low)).round().long()
