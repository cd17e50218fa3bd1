"""A model's folder in diffusers' layout: `model_index.json` and a folder for each component."""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer")
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


class ModelFolder:
    """Reads components; whatever is missing or torn is a ValueError of one sentence.

    Args:
        path: the folder.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ValueError(f"There is no prior folder {path}; name a folder in diffusers' layout, or toybox.")

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        try:
            found = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise ValueError(f"The prior folder {self.path} has no {name}; copy the whole folder again.") from None
        except (ValueError, RecursionError):  # a file can be nested deeper than Python's stack
            raise ValueError(f"{self.path / name} is not valid JSON; copy the prior folder again.") from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / name} holds no settings; copy the prior folder again.")
        return found

    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 over the names and contents of all weight files."""
        sha = hashlib.sha256()
        for file in sorted(self.path.rglob("*.safetensors")):
            sha.update(file.relative_to(self.path).as_posix().encode() + file.read_bytes())
        return sha.hexdigest()[:12]

    def model(self, model_class: type, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A component with weights, all of which must be there."""
        self.json(f"{part}/config.json")
        with self.reading(part):
            model, info = model_class.from_pretrained(
                self.path / part, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
            missing = sorted(info["missing_keys"])
            if missing:
                raise ValueError(f"{len(missing)} tensors are missing, {missing[0]} among them")
        return model.requires_grad_(False).eval()

    def text_pipeline(self, parts: dict[str, Any], dtype: torch.dtype) -> Any:
        """diffusers' pipeline of the folder with these components and its text encoders, for embedding prompts."""
        import diffusers

        index = self.json("model_index.json")
        kind = getattr(diffusers, str(index["_class_name"]))
        accepted = inspect.signature(kind).parameters
        given = dict.fromkeys(accepted) | parts | self._text_parts(index, dtype)
        given |= {"requires_safety_checker": False, "add_watermarker": False}
        given["force_zeros_for_empty_prompt"] = index.get("force_zeros_for_empty_prompt", True)
        return kind(**{name: value for name, value in given.items() if name in accepted})

    def _text_parts(self, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        """Tokenizers and text encoders, by the names that the index gives them; those that it leaves out are None."""
        import transformers
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        found: dict[str, Any] = {}
        for part in sorted(name for name in index if name.startswith(("tokenizer", "text_encoder"))):
            name = index[part][1] and str(index[part][1]).removesuffix("Fast")
            if name is None:
                found[part] = None
            elif name in TEXT_ENCODERS:
                found[part] = self.model(getattr(transformers, name), part, dtype)
            elif name in TOKENIZERS:
                with self.reading(part):
                    found[part] = getattr(transformers, name).from_pretrained(self.path / part, local_files_only=True)
            else:
                raise ValueError(f"{self.path}'s {part} is a {name}; asdkit reads {', '.join(TEXT_ENCODERS)}.")
        return found

    @contextmanager
    def reading(self, part: str) -> Iterator[None]:
        """Whatever goes wrong with a component becomes one sentence."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"{self.path / part} can't be loaded ({reason}); copy the prior folder again."
            raise ValueError(message) from error
