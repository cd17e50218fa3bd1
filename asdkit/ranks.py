"""Several processes: strategies that can work, what is averaged, and a prior that is spread over the ranks."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from asdkit.discriminators.adapters import UNetCopy

_JOIN_SECONDS = "ASDKIT_JOIN_SECONDS"  # a variable

_REFUSED: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


class Sharded(ModelParallelStrategy):
    """FSDP2 for a large prior: its network is spread over the devices of a node; what learns is whole on every rank.

    It is `--trainer.strategy=model_parallel`. Nothing in a checkpoint is spread, so it is that of every other strategy.
    """

    restore_checkpoint_after_setup = False
    lightning_restore_optimizer = True
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint


pl.strategies.StrategyRegistry.register("model_parallel", Sharded, "FSDP2: the prior is spread over the devices.")


def check_strategy(strategy: type) -> None:
    """Refuse, by a ValueError, a strategy that can't work with two optimisers and with what density control writes."""
    for base in strategy.__mro__:  # the strategies of DeepSpeed and XLA are subclasses of DDP's
        if base in (SingleDeviceStrategy, DDPStrategy, Sharded):
            return
        if base.__name__ in _REFUSED["strategies"]:
            break
    reason = _REFUSED["strategies"].get(base.__name__, "it is not known to average the gradients of two optimisers")
    advice = "take --trainer.strategy=ddp, or model_parallel for a prior that is too large for one device"
    raise ValueError(f"trainer.strategy {strategy.__name__} can't be used, for {reason}; {advice}.")


def check_precision(precision: str | int | None) -> None:
    """Refuse, by a ValueError, a trainer's precision that would round the generator and its rendering to 16 bits."""
    if str(precision) not in ("None", "32", "32-true"):
        fault = f"trainer.precision must stay 32-true for the sake of the generator, but is {precision}"
        raise ValueError(f"{fault}; give the prior alone another type, e.g. --model.prior.dtype=bfloat16.")


def check_optimization(accumulate: Any, clip: Any, callbacks: Iterable[type]) -> None:
    """Refuse, by a ValueError, what Lightning does to the one optimiser that it knows, and say what does it here."""
    instead = _REFUSED["options"]
    asked = {"accumulate_grad_batches": accumulate not in (None, 1), "gradient_clip_val": clip is not None}
    asked |= {kind.__name__: True for callback in callbacks for kind in callback.__mro__ if kind.__name__ in instead}
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise ValueError(f"trainer's {name} can't be used, for a step has two optimisers; {instead[name]}.")


def checked_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """The trainer that a module is attached to, or None where it stands alone; its strategy and precision can work."""
    try:
        trainer = module.trainer
    except RuntimeError:  # Lightning's way to say that there is none
        return None
    check_strategy(type(trainer.strategy))
    check_precision(trainer.precision)
    check_optimization(trainer.accumulate_grad_batches, trainer.gradient_clip_val, map(type, trainer.callbacks))
    return trainer


def watch_joining(trainer: pl.Trainer) -> None:
    """End this process unless all ranks have found each other within a minute, or in ASDKIT_JOIN_SECONDS."""
    # One may have been killed, and torch would wait for half an hour; Lightning's own launcher knows its processes, but
    # only this node's. Once they have found each other, torch says at once that one is gone.
    seconds = os.environ.get(_JOIN_SECONDS, "60")
    if not seconds.isdecimal():
        raise ValueError(f"{_JOIN_SECONDS} must be a whole number of seconds; got {seconds!r}.")
    cluster, launcher = getattr(trainer.strategy, "cluster_environment", None), trainer.strategy.launcher
    has_other_nodes = trainer.num_nodes > 1 and not (launcher and launcher.is_interactive_compatible)  # which forks
    if trainer.world_size > 1 and cluster and (has_other_nodes or cluster.creates_processes_externally):
        threading.Thread(target=_watch, args=[int(seconds)], daemon=True).start()


def _watch(seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while not torch.distributed.is_initialized():
        if time.monotonic() > deadline:
            lost = f"The ranks have not found each other in {seconds} seconds; one may have ended, see its output"
            print(f"asdkit: {lost}. {_JOIN_SECONDS} is for those that start further apart.", file=sys.stderr)
            os._exit(1)
        time.sleep(0.2)


def without_reducer(strategy: Strategy) -> AbstractContextManager[Any]:
    """A context in which DDP leaves gradients alone: its reducer can't follow two optimisers."""
    return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()


def average_gradients(optimizer: Any, world_size: int, parts: int = 1) -> list[Tensor]:
    """Mean over ranks in one all-reduce, returned; a gradient that only some ranks have is zero on the others.

    A parameter without a gradient on any rank stays without one, as in a single process: weight decay spares it.
    Those that FSDP2 has sharded have been averaged by it. Each rank's gradient is the sum of `parts` backward passes.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    _average_over_ranks([p for p in parameters if not isinstance(p, DTensor)], world_size)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if parts > 1:
        torch._foreach_div_(gradients, parts)
    return gradients


def _average_over_ranks(parameters: list[nn.Parameter], world_size: int) -> None:
    if world_size == 1 or not parameters:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    given = gradients[0].new_tensor([p.grad is not None for p in parameters])
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), given])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    *means, given = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, mean, somewhere in zip(parameters, means, given.unbind(), strict=True):
        if parameter.grad is not None or somewhere > 0:  # asked only where it is missing, for it waits for the device
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)


def shard(module: pl.LightningModule, priors: Sequence[Any], learning: nn.Module) -> None:
    """Spread the networks of frozen priors over the ranks, once each, where the module's strategy is `Sharded`.

    The parameters of what is `learning` stay whole, wherever in the networks they live. It is a ValueError if the
    discriminator is a whole copy of a network, which would not be spread.
    """
    trainer = checked_trainer(module)
    if not trainer or not isinstance(trainer.strategy, Sharded):
        return
    if any(isinstance(part, UNetCopy) for part in learning.modules()):
        raise ValueError("UNetCopy can't be used with model_parallel: it would be whole on every device; take a LoRA.")
    for prior in priors:
        if not prior.sharded:
            _shard(prior.network, trainer.strategy.device_mesh, set(learning.parameters()))
            prior.sharded = True


def _shard(network: nn.Module, mesh: Any, whole: set[nn.Parameter]) -> None:
    """Spread a network block by block, but for parameters that stay `whole`; blocks are whole while they compute."""
    # Of two dimensions of the mesh the first holds copies, the last the pieces.
    for child in network.children():
        for block in child if isinstance(child, nn.ModuleList) else [child]:
            if any(isinstance(part, nn.ModuleList) for part in block.modules()) or block is not child:
                fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(network, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def checksums(state: dict[str, Tensor]) -> tuple[list[str], Tensor]:
    """Names, and an integer for each tensor that depends on every bit and its place [N]."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.numel()}
    return list(tensors), torch.stack([_checksum(tensor) for tensor in tensors.values()])


def _checksum(tensor: Tensor) -> Tensor:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in tensor.detach().contiguous().reshape(-1).view(integers).split(2**20):
        places = torch.arange(1, 2 * len(part), 2, device=tensor.device)  # odd: no bit is lost modulo 2^64
        total = total * 31 + (part.to(torch.int64) * places).sum()
    return total
