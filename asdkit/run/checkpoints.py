"""Checkpoints by iterations, written whole or not at all, and the weights alone as safetensors."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import save

from asdkit.core.atomic import atomic, write_bytes
from asdkit.core.bounds import Count, checked
from asdkit.core.errors import Interrupted
from asdkit.core.text import local
from asdkit.distillation import Distillation
from asdkit.run.guard import Guard


@checked
class Checkpoints(ModelCheckpoint):
    """`checkpoints/step-000200.ckpt` every so many iterations, and `last.ckpt`, a copy of the newest.

    Beside each go `weights/generator.safetensors` and `weights/discriminator.safetensors`, what has been learned alone.

    Args:
        every: iterations between two checkpoints; there is always one at the end.
        keep_all: keep them all instead of the newest alone.
    """

    def __init__(self, every: Count = 200, keep_all: bool = False) -> None:
        super().__init__(
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every,
            save_top_k=-1 if keep_all else 1,
            save_last=True,
            save_on_exception=False,
            enable_version_counter=False,
        )
        self._every = every

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir).absolute() / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A checkpoint comes from anywhere: of what it calls its predecessor only a file beside it is ever replaced."""
        path = Path(state_dict["best_model_path"])
        self.best_model_path = str(path) if str(path.parent) == self.dirpath else ""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """The last iteration is kept too, before anything is made of it, and so is one that a signal makes the last."""
        guard = next((callback for callback in trainer.callbacks if isinstance(callback, Guard)), None)
        stop = guard.stop if guard else 0
        final = bool(stop) or 0 < trainer.max_steps <= trainer.global_step
        if guard and (final or trainer.global_step % self._every == 0):
            guard.settle(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, *rest)
        if final:
            self._save_now(trainer)
        if stop:
            raise Interrupted(stop)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """For runs that end otherwise, by time for instance."""
        self._save_now(trainer)

    def _save_now(self, trainer: Any) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_last_checkpoint(self, trainer: Any, *rest: Any) -> None:
        super()._save_last_checkpoint(trainer, *rest)
        if trainer.is_global_zero and isinstance(trainer.lightning_module, Distillation):
            save_weights(trainer.lightning_module, trainer.global_step, Path(trainer.default_root_dir) / "weights")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Torch files written beside their place and renamed, so that a torn one never has a good one's name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's words for what the system has said before
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """What a checkpoint holds; no code in it is ever executed.

        Raises:
            ValueError: the file is damaged, no checkpoint, or not of this machine.
        """
        path = local(path)
        try:
            if is_whole(path):
                return super().load_checkpoint(path, map_location, weights_only=True)
        except OSError:
            raise
        except Exception:  # torch's reader raises whatever a broken file makes it stumble over
            pass
        whole = [file for file in sorted(path.parent.glob("step-*.ckpt")) if file != path and is_whole(file)]
        advice = f" The newest whole one beside it is --ckpt_path {whole[-1]}." if whole else ""
        raise ValueError(f"{path} is broken, or no checkpoint of asdkit.{advice}")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this machine and nothing else, for its path may come from a checkpoint."""
        path = Path(path)
        if path.suffix == ".ckpt" and path.is_dir():  # a sharded one
            shutil.rmtree(path)
        elif path.suffix == ".ckpt":
            path.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is all there, every byte as it was written."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError):
        return False


def save_weights(module: Distillation, step: int, folder: Path) -> None:
    """Write `generator.safetensors`, and `discriminator.safetensors` where one learns; their metadata say of what.

    Args:
        module: the run.
        step: the iteration, counted from 1.
        folder: where to.
    """
    state = module.state_dict()
    for name, part in {"generator": module.generator, "guidance": module.guidance}.items():
        learned = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        if learned:
            about = {"spec": json.dumps(part.spec), "step": str(step), "prior": module.prior.digest}
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in learned.items()}
            file = folder / f"{'discriminator' if name == 'guidance' else name}.safetensors"
            write_bytes(file, save(tensors, about | {"prompt": module.prompt}))
