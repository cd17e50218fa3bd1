"""When and how fast the discriminator learns."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from asdkit.core.bounds import Count, LearningRate, NonNegative, Whole, checked


@checked
@dataclass(frozen=True)
class DiscriminatorSteps:
    """The discriminator's steps within the iterations of a run.

    Args:
        steps: discriminator steps per iteration; 0 leaves the discriminator as it starts.
        every: iterations from one turn of the discriminator to the next.
        lr: learning rate of its AdamW.
        clip: largest norm of its gradient; 0 for no limit.
        share_noise: it learns on the generator step's own draw (t, eps), which saves network calls.
    """

    steps: Whole = 1
    every: Count = 1
    lr: LearningRate = 1e-3
    clip: NonNegative = 0.0
    share_noise: bool = True

    def at(self, iteration: int) -> int:
        """How many steps the discriminator takes in an iteration, counted from 0."""
        return self.steps if iteration % self.every == 0 else 0

    def optimizer(self, phi: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the discriminator's parameters."""
        return torch.optim.AdamW(phi, lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)


DISCRIMINATOR_STEPS = DiscriminatorSteps()
