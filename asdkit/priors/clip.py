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
        self._files = ModelFolder(*folder_of(path, files_of_clip))
        self.model: Any = None

    def load(self) -> None:
        """Read the weights, which are kept; nothing else can be done before."""
        if self.model is not None:
            return
        import transformers

        processors = ("CLIPImageProcessorPil", "CLIPImageProcessor")  # without torchvision; the latter's name up to 5.3
        processor = next(filter(None, (getattr(transformers, name, None) for name in processors)))
        model = self._files.model(transformers.CLIPModel, ".")
        with one_sentence(self._files.path):
            kinds = (transformers.CLIPTokenizer, processor)
            read = (kind.from_pretrained(self._files.seen, local_files_only=True) for kind in kinds)
            self._tokenizer, self._processor = read
        self.model = model

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
        return torch.nn.functional.normalize(self.model.get_text_features(**tokens.to(self.model.device)).pooler_output)
