"""Two forked processes of one warm one, as torchrun would start them; and small modules in double precision."""

import socket
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from support.forked import Forked
from support.quiet import quiet_trainer
from torch import Tensor

from asdkit import Cameras, Canvas, Distillation
from asdkit.rendering.cameras import Batch


def on_two_ranks(act: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `act(rank)` returns in each of two processes; a string that ends in the traceback where it raises."""
    elastic = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    elastic |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "two"}
    files = [folder / f"rank{rank}.result" for rank in (0, 1)]

    def record(rank: int) -> int:
        try:
            result = act(rank)
        except BaseException:
            result = traceback.format_exc()
        torch.save(result, files[rank])
        return 0

    children = []
    for rank, file in enumerate(files):
        file.unlink(missing_ok=True)
        own = elastic | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(Forked(partial(record, rank), folder / f"rank{rank}.log", own))
    for child in children:
        child.wait()
    return [torch.load(file, weights_only=False) if file.is_file() else "it died" for file in files]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Exact(Distillation):
    """In double precision: Adam divides small gradients by themselves, and would show single precision's rounding."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.double()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if views := batch.views:
            floats = {name: tensor for name, tensor in views.tensors.items() if tensor.is_floating_point()}
            views = replace(views, **{name: tensor.double() for name, tensor in floats.items()})
        return super().training_step(batch._replace(views=views), batch_idx)


def fit(
    module: Distillation, data: Cameras | Canvas, strategy: str = "", steps: int = 4, start: Path | None = None,
    **options: Any,
) -> pl.Trainer:  # fmt: skip
    """`steps` iterations in this process, or as one of two ranks where a strategy is given; on from a checkpoint."""
    among = {"devices": 2, "strategy": strategy} if strategy else {}
    trainer = quiet_trainer(steps, log_every_n_steps=4, limit_val_batches=0, **among, **{"callbacks": []} | options)
    trainer.fit(module, data, ckpt_path=start, weights_only=True)
    return trainer


def learned(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Everything that learns, and both optimisers' memories, without gradients."""
    found = {name: value.detach().clone() for name, value in trainer.lightning_module.state_dict().items()}
    for number, optimizer in enumerate(trainer.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"optimizer {number}/{index}/{name}": value for name, value in state.items()}
    return found


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of any value, and where it is."""
    assert one.keys() == other.keys()
    return max((float((one[name].double() - other[name].double()).abs().max()), name) for name in one)
