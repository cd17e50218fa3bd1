"""What a prior is made of: the model's files, the user's LoRA on them, and a tiny autoencoder."""

from pathlib import Path
from typing import Any

from asdkit.core.errors import PriorUnavailable
from asdkit.priors.families import Model
from asdkit.priors.finetune import add_lora, finetune_file
from asdkit.priors.folder import ModelFolder
from asdkit.priors.locate import component_weights, locate
from asdkit.priors.weights import digest_of


class ModelSource:
    """Files that are found, and fetched from the hub where its cache lacks them, when they are first needed.

    Args:
        path: the model, as `locate` takes it.
        variant: weights whose files' names say so are preferred.
        config: of a single file: the model whose settings and vocabularies it shares.
        finetune: a LoRA; empty for none.
        finetune_scale: how much of it.
        tiny_vae: a folder or an id of the hub with a tiny autoencoder; empty for none.
    """

    def __init__(
        self, path: str, variant: str, config: str, finetune: str, finetune_scale: float, tiny_vae: str
    ) -> None:
        self._model, self._finetune, self._finetune_scale = (path, variant, config), finetune, finetune_scale
        self.tiny_vae = tiny_vae
        self._files: ModelFolder | PriorUnavailable | None = None
        self._lora: Path | None = None
        self._digest = ""

    @property
    def files(self) -> ModelFolder:
        """The model's files.

        Raises:
            PriorUnavailable: they or the LoRA can't be had; the hub isn't asked a second time.
        """
        if self._files is None:
            try:
                self._lora = finetune_file(self._finetune) if self._finetune else None
                self._files = locate(*self._model)
            except PriorUnavailable as error:
                self._files = error
        if isinstance(self._files, PriorUnavailable):
            raise self._files
        return self._files

    @property
    def digest(self) -> str:
        """12 hex digits that stand for the weights, the LoRA and its scale; those of a tiny autoencoder after them."""
        if not self._digest:
            digest = self.files.digest()
            if self._lora:
                lora = {"lora": self._lora}
                digest = digest_of(lora, lora, f"{digest} {self._finetune_scale}")
            if self.tiny_vae:
                weights = component_weights(self.tiny_vae)
                digest = f"{digest}+{digest_of(weights, weights)}"
            self._digest = digest
        return self._digest

    def add_lora(self, part: str, model: Model | None, network: Any) -> None:
        """Add the LoRA, where there is one, to a component; `network` are the settings of the network."""
        if self._lora and model is not None:
            pipeline = self.files.json("model_index.json")["_class_name"]
            add_lora(self._lora, pipeline, part, model, network, self._finetune_scale)
