"""What a prior is made of: the model's files, the user's LoRA on them, and a tiny autoencoder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asdkit.core.errors import PriorUnavailable
from asdkit.priors.families import Model
from asdkit.priors.finetune import add_lora, add_words, finetune_file, word_of
from asdkit.priors.folder import ModelFolder
from asdkit.priors.locate import component, locate
from asdkit.priors.required_files import named_parts
from asdkit.priors.weights import digest_of, shapes_of


@dataclass
class ModelSource:
    """Files that are found, and fetched from the hub where its cache lacks them, when they are first needed.

    Args are those of `Pretrained`.
    """

    path: str
    variant: str
    config: str
    finetune: str
    finetune_scale: float
    tiny_vae: str

    @cached_property
    def _located(self) -> tuple[ModelFolder, Path | None] | PriorUnavailable:
        """The model's files and the LoRA's; or why they can't be had, so that the hub isn't asked a second time."""
        try:
            lora = finetune_file(self.finetune) if self.finetune else None
            if lora:
                shapes_of(lora)  # refuses a torn one
            return locate(self.path, self.variant, self.config), lora
        except PriorUnavailable as error:
            return error

    def _files_and_lora(self) -> tuple[ModelFolder, Path | None]:
        if isinstance(self._located, PriorUnavailable):
            raise self._located
        return self._located

    @property
    def files(self) -> ModelFolder:
        """The model's files."""
        return self._files_and_lora()[0]

    @cached_property
    def digest(self) -> str:
        """12 hex digits that stand for the weights, the LoRA and its scale; those of a tiny autoencoder after them."""
        files, lora = self._files_and_lora()
        digest = files.digest()
        if lora:
            digest = digest_of({"lora": lora}, f"{digest} {self.finetune_scale} {word_of(lora)}".rstrip())
        return f"{digest}+{digest_of(component(self.tiny_vae).weights)}" if self.tiny_vae else digest

    def add_lora(self, part: str, model: Model | None, network: Any) -> None:
        """Add the LoRA, where there is one, to a component; `network` are the settings of the network."""
        files, lora = self._files_and_lora()
        if lora and model is not None and not word_of(lora):
            index = files.json("model_index.json")
            parts = named_parts(index, "unet", "transformer", "text_encoder")
            add_lora(lora, index["_class_name"], part, model, network, self.finetune_scale, parts)

    def add_words(self, pipeline: Any, texts: list[str]) -> None:
        """Teach a pipeline the word of a textual inversion, where there is one in the place of a LoRA."""
        lora = self._files_and_lora()[1]
        if lora and word_of(lora):
            add_words(lora, pipeline, texts)
