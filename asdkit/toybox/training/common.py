"""What the toybox's training modules share."""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn

from asdkit.core.text import first_line
from asdkit.priors.locate import EMBEDDED, locate

WARMUP = 200  # steps
NETWORKS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("networks.yaml").read_text("utf-8"))


class Training(pl.LightningModule):
    """A training by AdamW, whose rate warms up; what has been trained is written at its end."""

    adamw: dict[str, Any]  # options beside the rate

    @abstractmethod
    def save(self) -> None:
        """Write what has been trained."""

    def rate(self, step: int) -> float:
        """The factor of the learning rate: 1, then brought to zero linearly over the last quarter of the steps."""
        steps = self.trainer.max_steps
        return min(1.0, (step + 1) / WARMUP, max(0.0, (steps - step) / (0.25 * steps)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings: Any = self.hparams
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, **self.adamw)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            self.save()


def text_settings(tokenizer: Any, width: int) -> dict[str, Any]:
    """The settings of a text encoder of CLIP's kind for the words of a tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    return NETWORKS["text"] | ids | sizes | words


def save_half(model: nn.Module, folder: Path) -> None:
    """Write a diffusers or transformers model as fp16 safetensors of 14 MB at most, leaving the model untouched."""
    copy.deepcopy(model).half().save_pretrained(folder, safe_serialization=True, max_shard_size="14MB")


@contextmanager
def starting_from(start: str) -> Iterator[Path]:
    """The pipeline folder of this name, or the embedded "toybox"; what it lacks, or has otherwise, is a ValueError."""
    try:
        yield locate(EMBEDDED).path if start == EMBEDDED else Path(start)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{start} can't be started from: {first_line(error)}.") from error


def read_autoencoder(folder: Path) -> Any:
    """A frozen AutoencoderTiny; a ValueError if there is none in the folder."""
    from diffusers import AutoencoderTiny

    try:
        vae = AutoencoderTiny.from_pretrained(folder, local_files_only=True).requires_grad_(False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no autoencoder; train it first with recipes/toybox/vae.yaml.") from error
    return vae.to(memory_format=torch.channels_last)  # 2.6 times faster on a CPU
