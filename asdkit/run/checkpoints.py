"""Checkpoints: written whole or not at all, the weights alone as safetensors, and whether one fits a run."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from safetensors.torch import save

from asdkit.core.atomic import atomic, write_bytes
from asdkit.core.bounds import Count, checked
from asdkit.core.errors import Interrupted
from asdkit.core.text import local
from asdkit.core.yaml_text import at, class_name, class_path, settings_of
from asdkit.distillation import Distillation
from asdkit.generators.from_checkpoint import is_whole, started_anyhow
from asdkit.run.grid import option_values
from asdkit.run.guard import Guard
from asdkit.run.loggers import MetricsCSV
from asdkit.run.side_files import numbered_checkpoints


@checked
class Checkpoints(Checkpoint):
    """Writes `checkpoints/step-000200.ckpt` every so many iterations, and a copy of the newest as `last.ckpt`.

    Beside each it writes `weights/generator.safetensors` and `weights/discriminator.safetensors`, which hold only what
    has been learned.

    Args:
        every: the number of iterations between two checkpoints. There is always one at the end.
        keep_all: whether to keep all checkpoints instead of only the newest. Those that were kept stay when a run goes
            on without this option.
    """

    def __init__(self, every: Count = 200, keep_all: bool = False) -> None:
        self.every, self.keep_all = every, keep_all
        self._newest: Path | None = None
        self._own: list[int] = []  # iterations whose checkpoints give way to newer ones; a kill may have left several

    def state_dict(self) -> dict[str, Any]:
        return {"own": self._own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._own = [int(step) for step in state_dict["own"]]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._newest = _path(trainer)  # the one that a run goes on from is there already

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """The last iteration is kept too, before anything is made of it, and so is one that a signal makes the last."""
        guard = next((callback for callback in trainer.callbacks if isinstance(callback, Guard)), None)
        stop = guard.stop if guard else 0
        if stop or 0 < trainer.max_steps <= trainer.global_step or trainer.global_step % self.every == 0:
            if guard:
                guard.settle(trainer, pl_module)
            if isinstance(trainer.logger, MetricsCSV):  # what happens next can't lose the row of a step that is kept
                trainer.logger.log_step()
            self._save(trainer)
        if stop:
            raise Interrupted(stop)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._save(trainer)  # of runs that end otherwise, by time for instance

    def _save(self, trainer: Any) -> None:
        path = _path(trainer)
        if path == self._newest or trainer.fast_dev_run:
            return
        if trainer.is_global_zero and isinstance(trainer.lightning_module, Distillation):
            save_weights(trainer.lightning_module, trainer.global_step, path.parents[1] / "weights")
        self._own = [] if self.keep_all else [*self._own, trainer.global_step]
        trainer.save_checkpoint(path, weights_only=False)  # with optimisers; unset, Lightning logs a line each time
        if trainer.is_global_zero:
            with atomic(path.with_name("last.ckpt")) as temporary:
                shutil.copyfile(path, temporary)
        self._newest = path
        for step in {*self._own} - {trainer.global_step} if trainer.is_global_zero else ():
            trainer.strategy.remove_checkpoint(path.with_name(f"step-{step:06d}.ckpt"))
        self._own = self._own[-1:]


def _path(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir).absolute() / "checkpoints" / f"step-{trainer.global_step:06d}.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Torch files written beside their place and renamed, so that a torn one never has a good one's name."""

    # The run folder. A checkpoint tells callbacks which files they once wrote; of these, only those in it are removed.
    folder: Path | None = None
    # Is called with what a checkpoint holds, before anything is made of it.
    accept: Callable[[dict[str, Any]], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's words for what the system has said before
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        self._written.add(Path(path).absolute())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """What a checkpoint holds; no code in it is ever executed. A ValueError if it is damaged or not accepted."""
        path, state = local(path), None
        try:
            if is_whole(path):
                checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
                # Lightning's own, from a forked process to the one that waits for it, holds the state alone.
                state = checkpoint if path.name == ".temp.ckpt" else checkpoint["state_dict"]
        except Exception as error:  # torch's reader raises whatever a broken file makes it stumble over
            if isinstance(error, OSError):
                raise
        if not isinstance(state, dict):
            whole = [file for file in numbered_checkpoints(path.parent).values() if file != path and is_whole(file)]
            advice = f" The newest whole one beside it is --ckpt_path {whole[-1]}." if whole else ""
            raise ValueError(f"{path} is broken, or no checkpoint of asdkit.{advice}")
        if self.accept:
            self.accept(checkpoint)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of the run folder, or one that was written here, and nothing else."""
        path = Path(path).absolute()
        own = self.folder and path.resolve().is_relative_to(self.folder.resolve())
        if path.suffix != ".ckpt" or path.is_symlink() or not (own or path in self._written):
            return
        if path.is_dir():  # a sharded one
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def save_weights(module: Distillation, step: int, folder: Path) -> None:
    """Write `generator.safetensors`, and `discriminator.safetensors` where one learns; their metadata say of what."""
    parts: dict[str, Any] = {"generator": module.generator, "discriminator": module.guidance}
    for name, part in parts.items():
        if learned := part.state_dict():
            about = {"spec": json.dumps(part.spec), "step": str(step), "prior": module.prior.digest}
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in learned.items()}
            write_bytes(folder / f"{name}.safetensors", save(tensors, about | {"prompt": module.prompt}))


def check_generator(run: Path, options: Iterable[str]) -> None:
    """Refuse, by a ValueError, options that name another generator than a run has; the run's own would not parse."""
    own = class_path(at(settings_of(run / "config.yaml"), "model.generator"))
    for given in option_values(options, "--model.generator"):
        if own and class_name(given) != class_name(own):
            raise ValueError(f"The checkpoint does not fit: --model.generator is {own} in {run}, and {given} here.")


def fit_to(module: pl.LightningModule, max_steps: int, checkpoint: dict[str, Any]) -> None:
    """Refuse, by a ValueError, a checkpoint of another generator or phi, once all is set up; drop another method's.
    One of more than `max_steps` iterations is refused, too, where that is not -1.
    """
    if 0 <= max_steps < checkpoint["global_step"]:
        done = f"The run has made {checkpoint['global_step']} iterations already"
        raise ValueError(f"{done}; --trainer.max_steps must be more, or left out; got {max_steps}.")
    saved, own = checkpoint["state_dict"], module.state_dict()
    shapes = [{name: list(getattr(value, "shape", ())) for name, value in state.items()} for state in (saved, own)]
    unlike = [name for name in {**saved, **own} if shapes[0].get(name) != shapes[1].get(name)]
    if not unlike:
        return
    arguments = checkpoint.get("hyper_parameters", {})
    if not (isinstance(module, Distillation) and {"generator", "guidance"} <= arguments.keys()):
        raise ValueError(f"The checkpoint does not fit: {_reason(unlike[0], shapes, ())}.")
    # Without the file that the generator started from.
    before, now = ({**of, "generator": started_anyhow(of["generator"])} for of in (arguments, module.hparams))
    methods = [spec["guidance"].get("class_path") for spec in (before, now)]
    if methods[0] == methods[1] or any(name.startswith("generator.") for name in unlike):
        raise ValueError(f"The checkpoint does not fit: {_reason(unlike[0], shapes, _differences(before, now))}.")
    for name in unlike:
        saved.pop(name, None)
    checkpoint["optimizer_states"] = checkpoint.get("optimizer_states", [])[:1]  # the generator's
    parts = ", ".join(dict.fromkeys(re.sub(r"(\.adapter)\..*", r"\1", name) for name in unlike))
    sentence = "The checkpoint is of %s, the run is of %s: %s can't be loaded, or starts anew."
    logging.getLogger(__name__).warning(sentence, *methods, parts)


def _reason(name: str, shapes: list[dict[str, list[int]]], differences: Iterable[tuple[str, Any, Any]]) -> str:
    """The options that make the tensor of this name another one."""
    parts = ("generator",) if name.startswith("generator.") else ("guidance", "prior")
    said = [
        f"--model.{option} is {'left out' if before is None else before} in the checkpoint, and {now} here"
        for option, before, now in differences
        if option.startswith(parts)
    ]
    before, now = (shape.get(name, "missing") for shape in shapes)
    return "; ".join(said) or f"{name} is {before} in the checkpoint, and {now} here"


def _differences(before: Any, now: Any, option: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The options in which two specs differ, with both values."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            first, second = (value.get("class_path") if isinstance(value, dict) else value for value in (before, now))
            yield option, first, second
    elif before.get("class_path") != now.get("class_path"):
        yield option, before.get("class_path"), now.get("class_path")
    else:
        before, now = (spec.get("init_args", spec) for spec in (before, now))
        for name in {**before, **now}:
            yield from _differences(before.get(name), now.get(name), f"{option}.{name}".strip("."))
