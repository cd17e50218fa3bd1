"""A CLIP of any size: pictures and prompts as unit vectors, whose cosines say how well they fit each other."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from asdkit.priors.folder import ModelFolder, one_sentence
from asdkit.priors.hub import folder_of
from asdkit.priors.required_files import files_of_clip


class CLIP:
    """A frozen CLIPModel of transformers in single precision, with its own tokenizer and preprocessing of pictures.

    Args:
        path: a folder that transformers' save_pretrained has written, or an id of the hub, with `@revision` or without.

    Raises:
        PriorUnavailable: it is missing, torn, no CLIP or gated, or the hub is out of reach.
    """

    def __init__(self, path: str) -> None:
        self._files = _CLIPFolder(*folder_of(path, files_of_clip))
        self.model: Any = None

    def load(self) -> None:
        """Read the weights, which are kept; nothing else can be done before."""
        if self.model is None:
            self.model, self._tokenizer, self._processor = self._files.parts()

    @torch.no_grad()
    def pictures(self, pictures: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Unit vectors of 8-bit pictures, which are resized, cropped and normalised as the CLIP's settings say."""
        batch = self._processor(list(pictures), input_data_format="channels_last", return_tensors="pt")
        pixels = batch["pixel_values"].to(self.model.device)
        return torch.nn.functional.normalize(self.model.get_image_features(pixels).pooler_output)

    @torch.no_grad()
    def prompts(self, prompts: list[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of prompts, each of which is cut to the tokens that the CLIP takes (77 in OpenAI's)."""
        most = self.model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(prompts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        features = self.model.get_text_features(**tokens.to(self.model.device))
        return torch.nn.functional.normalize(features.pooler_output)


class _CLIPFolder(ModelFolder):
    """The three parts of a CLIP, from files that are checked as a prior's."""

    def parts(self) -> tuple[Any, Any, Any]:
        """The model, its tokenizer, and the preprocessing of pictures that needs no torchvision."""
        import transformers
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        model = self.model(transformers.CLIPModel, ".")
        processors = ("CLIPImageProcessorPil", "CLIPImageProcessor")  # what it has been called, the latter up to 5.3
        processor = next(filter(None, (getattr(transformers, name, None) for name in processors)))
        with one_sentence(self.path):
            kinds = (transformers.CLIPTokenizer, processor)
            tokenizer, processor = (kind.from_pretrained(self._seen, local_files_only=True) for kind in kinds)
        return model, tokenizer, processor
