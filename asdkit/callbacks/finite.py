"""Stop at the first value that is not finite, before it reaches a checkpoint."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class Diverged(RuntimeError):
    """Training produced a loss or a parameter that is not finite."""


class StopWhenNotFinite(pl.Callback):
    """Checks the logged losses and all learning parameters after every step."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values: dict[str, Tensor] = {}
        if isinstance(outputs, dict):
            values = {name: value.detach() for name, value in outputs.items() if isinstance(value, Tensor)}
        values |= {name: p.detach() for name, p in pl_module.named_parameters() if p.requires_grad}
        if bool(torch.stack([value.sum() for value in values.values()]).isfinite().all()):
            return
        broken = [name for name, value in values.items() if not bool(value.isfinite().all())]
        if broken:
            checkpoints = sorted(Path(trainer.default_root_dir, "checkpoints").glob("step-*.ckpt"))
            last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
            raise Diverged(f"Not finite at step {trainer.global_step}: {', '.join(broken[:3])}; {last}.")
