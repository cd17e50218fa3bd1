"""When and how fast the discriminator learns."""

from collections.abc import Iterable

import torch
from torch import nn

from asdkit.core.bounds import Count, LearningRate, NonNegative, Whole, settings


@settings
class DiscriminatorSteps:
    """How often and how fast the discriminator learns within the iterations of a run.

    Args:
        steps: the number of discriminator steps per iteration; 0 leaves the discriminator as it starts.
        every: the number of iterations from one turn of the discriminator to the next.
        lr: the learning rate of the discriminator's AdamW.
        clip: the largest norm of the discriminator's gradient; 0 for no limit.
        share_noise: whether the discriminator learns on the generator's own draw (t, eps), which saves network calls.
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
