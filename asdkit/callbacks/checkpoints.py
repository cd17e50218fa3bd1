"""Checkpoints by iterations, written whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from asdkit.files import atomic, local


class Checkpoints(ModelCheckpoint):
    """`checkpoints/step-000200.ckpt` every so many iterations, and `last.ckpt`, a copy of the newest.

    Args:
        every: iterations between two checkpoints, at least 1; there is always one at the end.
        keep_all: keep them all instead of the newest alone.
    """

    def __init__(self, every: int = 200, keep_all: bool = False) -> None:
        if every < 1:
            raise ValueError(f"checkpoints.every must be at least 1; got {every}.")
        super().__init__(
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every,
            save_top_k=-1 if keep_all else 1,
            save_last=True,
            save_on_exception=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir).absolute() / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A checkpoint comes from anywhere: of what it calls its predecessor only a file beside it is ever replaced."""
        path = Path(state_dict["best_model_path"])
        self.best_model_path = str(path) if str(path.parent) == self.dirpath else ""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """A termination signal is heeded between two iterations, where the state is whole: keep it."""
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit":
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last iteration is kept too, whatever `every` is."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Torch files written beside their place and renamed, so that a torn one never has a good one's name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, **options: Any) -> dict[str, Any]:
        """The tensors and plain values of a file of this machine; nothing in it is executed."""
        try:
            return super().load_checkpoint(local(path), **options | {"weights_only": True})
        except OSError:
            raise
        except Exception:  # torch's reader raises whatever a broken file makes it stumble over
            raise ValueError(f"{path} is broken, or no checkpoint of asdkit.") from None

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this machine and nothing else, for its path may come from a checkpoint."""
        path = Path(path)
        if path.suffix == ".ckpt" and path.is_dir():  # a sharded one
            shutil.rmtree(path)
        elif path.suffix == ".ckpt":
            path.unlink(missing_ok=True)
