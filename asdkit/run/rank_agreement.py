"""All ranks hold the same: what learns is compared between them now and then."""

from typing import Any

import pytorch_lightning as pl
import torch

from asdkit.core.bounds import Whole, checked
from asdkit.ranks import checksums


class RanksDiffer(RuntimeError):
    """What learns is no longer the same on all ranks."""


@checked
class RankAgreement(pl.Callback):
    """Stops the run when its ranks disagree: it compares checksums of all that a checkpoint's `state_dict` holds.

    Args:
        check_every: the number of iterations between two comparisons. There is also one before the first iteration; 0
            for none.
    """

    def __init__(self, check_every: Whole = 100) -> None:
        self.check_every = check_every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.check_every:
            self.compare(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if self.check_every and trainer.global_step % self.check_every == 0:
            self.compare(trainer, pl_module)

    def compare(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """One all-reduce, after which every rank knows, and raises a RanksDiffer if a tensor differs."""
        if trainer.world_size == 1:
            return
        names, sums = checksums(module.state_dict())
        extremes = torch.stack([sums, ~sums])  # the largest ~x is ~ of the smallest x
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        differing = [name for name, same in zip(names, (extremes[0] == ~extremes[1]).tolist(), strict=True) if not same]
        if differing:
            raise RanksDiffer(
                f"After {trainer.global_step} iterations the ranks no longer agree on {differing[0]} and "
                f"{len(differing) - 1} other tensors; a callback or part changes them on one rank alone."
            )
