"""After every step: is every value finite, has a signal come, and do all ranks hold the same? All hear one answer."""

import math
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from asdkit.core.bounds import Whole, checked
from asdkit.core.errors import Diverged, Interrupted
from asdkit.ranks import checksums
from asdkit.rendering.cameras import Batch
from asdkit.run.exits import Signals
from asdkit.run.side_files import numbered_checkpoints


class _Verdict(NamedTuple):
    """One step's verdict, a small tensor; a GPU's is read a step later, so that it never waits for the host."""

    flags: Tensor  # the signal, then for every name 1 + the rank where it is not finite, or 0
    ready: torch.cuda.Event | None  # what to wait for on a GPU
    names: list[str]  # what was looked at, causes first
    step: int  # counted from 1
    where: tuple[Tensor | None, Any]  # the timesteps and the batch


class Guard(pl.Callback):
    """Stops at the first step with a value that is not finite, before a checkpoint holds it; passes signals on.

    Looked at are what `training_step` returns, in its order, then the gradients and the parameters of each optimiser.
    """

    def __init__(self, signals: Signals) -> None:
        self.stop = 0  # the signal that all ranks have agreed on
        self._signals = signals
        self._pending: _Verdict | None = None
        self._names: dict[int, str] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._signals.arm()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        newest = self._look(trainer, pl_module, outputs, batch)
        self.settle(trainer, pl_module)
        self._pending = newest
        if newest.ready is None:
            self.settle(trainer, pl_module)

    def settle(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the verdict that is on its way, if there is one; raises Diverged where something was not finite."""
        verdict, self._pending = self._pending, None
        if verdict is None:
            return
        if verdict.ready:
            verdict.ready.synchronize()
        signal, *ranks = verdict.flags.tolist()
        self.stop = int(signal)
        broken = [(name, int(rank) - 1) for name, rank in zip(verdict.names, ranks, strict=True) if rank]
        if broken:
            name, rank = broken[0]
            more = f" and {len(broken) - 1} more after it" if broken[1:] else ""
            where = _where(*verdict.where) if rank == trainer.global_rank else f" of rank {rank}, which tells where"
            prompt = f", prompt {pl_module.hparams['prompt']!r}" if "prompt" in pl_module.hparams else ""
            raise Diverged(f"Not finite at step {verdict.step}: {name}{more}{where}{prompt}.")

    @torch.no_grad()
    def _look(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> _Verdict:
        outputs = outputs if isinstance(outputs, dict) else {}
        values = {name: v for name, v in outputs.items() if isinstance(v, Tensor) and v.is_floating_point()}
        for optimizer in trainer.optimizers:
            learning = [p for group in optimizer.param_groups for p in group["params"]]
            values |= {f"the gradient of {self._name(module, p)}": p.grad for p in learning if p.grad is not None}
            values |= {self._name(module, p): p for p in learning}
        values = {name: getattr(v, "to_local", lambda v=v: v)() for name, v in values.items() if v.numel()}
        # The largest value would do everywhere, but CPUs look for it one by one; squares of floats fit into doubles.
        norm = (2, torch.float64) if module.device.type == "cpu" else (math.inf, None)
        sizes = torch.stack(torch._foreach_norm(list(values.values()), *norm))
        broken = (~sizes.isfinite()).float() * (1 + trainer.global_rank)
        flags = torch.cat([torch.full_like(broken[:1], float(self._signals.received)), broken])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        flags, ready = flags.to("cpu", non_blocking=True), None
        if module.device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record()
        return _Verdict(flags, ready, list(values), trainer.global_step, (outputs.get("t"), batch))

    def _name(self, module: pl.LightningModule, parameter: Tensor) -> str:
        if id(parameter) not in self._names:
            named = module.named_parameters(remove_duplicate=False)
            self._names = {id(p): name for name, p in named if not name.startswith("prior.")}
        return self._names.get(id(parameter), "a parameter")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Every sentence about the end of a run says what is left of it."""
        launcher: Any = trainer.strategy.launcher
        if isinstance(exception, Interrupted) and not self._signals.armed and launcher:
            # No step will tell the processes that it has started. By the signal whose repetition changes nothing, for a
            # terminal's Ctrl-C has reached them already; those that it has forked save first, and are waited for.
            launcher.kill(signal.SIGTERM)
            for process in launcher.procs:
                if isinstance(process, BaseProcess):
                    process.join()
        if trainer.state.fn == "fit":
            if kept := list(numbered_checkpoints(Path(trainer.default_root_dir, "checkpoints")).values()):
                go_on = f"go on with asdkit fit {trainer.default_root_dir}."
                exception.add_note(f"The last good checkpoint is {kept[-1]}; {go_on}")
            elif self._signals.armed:
                exception.add_note("There is no checkpoint yet.")


def _where(t: Tensor | None, batch: Any) -> str:
    """The samples of a step, in words."""
    words = f", t {', '.join(map(str, t.flatten().tolist()))}" if isinstance(t, Tensor) else ""
    if isinstance(batch, Batch) and batch.views is not None:  # other modules than Distillation have other batches
        views = batch.views
        angles = zip(views.azimuth.rad2deg().tolist(), views.elevation.rad2deg().tolist(), strict=True)
        words += f", azimuth/elevation {', '.join(f'{a:.0f}/{e:.0f}' for a, e in angles)} degrees"
    return words


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
            where = f"After {trainer.global_step} iterations the ranks no longer agree on {differing[0]}"
            more = f"{len(differing) - 1} other tensors; a callback or part changes them on one rank alone"
            raise RanksDiffer(f"{where} and {more}.")
