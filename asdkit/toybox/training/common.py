"""What the toybox's training modules share."""

import copy
import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from tokenizers.models import BPE
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from asdkit.core.text import shown
from asdkit.priors.locate import EMBEDDED, locate
from asdkit.toybox import captions

WARMUP = 200  # steps
NETWORKS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("networks.yaml").read_text("utf-8"))
MAX_TOKENS = 24


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
        raise ValueError(f"{start} can't be started from: {shown(str(error))[:300]}") from error


def read_autoencoder(folder: Path) -> Any:
    """A frozen AutoencoderTiny; a ValueError if there is none in the folder."""
    from diffusers import AutoencoderTiny

    try:
        vae = AutoencoderTiny.from_pretrained(folder, local_files_only=True).requires_grad_(False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no autoencoder; train it first with recipes/toybox/vae.yaml.") from error
    return vae.to(memory_format=torch.channels_last)  # 2.6 times faster on a CPU


def build_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer whose merges make each word of the captions a single token; others fall into letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list(",.'-0123456789")
    numbers = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    merges: list[tuple[str, str]] = []
    for word in captions.vocabulary():
        known = BPE(vocab=numbers, merges=merges, end_of_word_suffix="</w>")
        first, *others = (token.value for token in known.tokenize(word))
        for piece in others:
            merges.append((first, piece))
            numbers.setdefault(first := first + piece, len(numbers))
    numbers |= {"<|startoftext|>": len(numbers), "<|endoftext|>": len(numbers) + 1}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=MAX_TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, the layout that transformers 4 and 5 both read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.model.save(str(folder))
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def save_text_encoder(encoder: CLIPTextModel, folder: Path) -> None:
    """Write fp16 weights under transformers 4's names (prefix `text_model.`), which version 5 reads as well."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.dtype = torch.float32  # what the fp16 file is to be loaded as
    encoder.config.save_pretrained(folder)
    weights = {f"text_model.{name}": value.half().contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
