"""A model's folder in diffusers' layout: `model_index.json` and a folder for each component."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asdkit.core.errors import PriorUnavailable
from asdkit.core.optional import require_package
from asdkit.priors.families import Embedded
from asdkit.priors.required_files import check_whole, fingerprint, names_in, needed, read_json

TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer")
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


class ModelFolder:
    """Reads components; whatever is missing or torn is a PriorUnavailable of one sentence.

    Args:
        path: the folder.
        variant: weights whose names say so are preferred, such as `fp16`.
        without: parts whose weights come from elsewhere.

    Raises:
        PriorUnavailable: there is no such folder, or it is no whole model.
    """

    def __init__(self, path: Path, variant: str = "", without: tuple[str, ...] = ()) -> None:
        self.path, self.variant = path, variant
        if not path.is_dir():
            raise PriorUnavailable(f"There is no prior folder {path}; name a folder in diffusers' layout, or toybox.")
        self.names = needed(str(path), names_in(path), self.json, variant, without)
        check_whole(path, self.names)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        return read_json(self.path / name)

    def digest(self) -> str:
        """A fingerprint of the weights."""
        files = {file.relative_to(self.path).as_posix(): file for file in self.path.rglob("*.safetensors")}
        used = {name: file for name, file in files.items() if name in self.names}
        return fingerprint(files, used, self.variant)

    def model(self, model_class: type, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A component with weights, all of which must be there."""
        self.json(f"{part}/config.json")
        named = any(name.startswith(f"{part}/") and f".{self.variant}" in name for name in self.names)
        with self.reading(part):
            model, info = model_class.from_pretrained(
                self.path / part,
                local_files_only=True,
                use_safetensors=True,
                variant=self.variant if self.variant and named else None,
                dtype=dtype,
                output_loading_info=True,
            )
            check_complete(info["missing_keys"])
        return model.requires_grad_(False).eval()

    def embedded(self, text: str) -> Embedded | None:
        """A prompt that needs no text encoder; None if it does."""
        return None

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
                if not {f"{part}/tokenizer.json", f"{part}/vocab.json"} & set(self.names):
                    require_package("sentencepiece", "t5"), require_package("google.protobuf", "t5")
                with self.reading(part):
                    found[part] = getattr(transformers, name).from_pretrained(self.path / part, local_files_only=True)
            else:
                raise PriorUnavailable(f"{self.path}'s {part} is a {name}; asdkit reads {', '.join(TEXT_ENCODERS)}.")
        return found

    @contextmanager
    def reading(self, part: str, file: Path | None = None) -> Iterator[None]:
        """Whatever goes wrong with a component, or with what a file holds of it, becomes one sentence."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            where = f"{file}'s {part}" if file else f"{self.path / part}"
            message = (
                f"{where} can't be loaded ({reason.strip(' .')}); copy the prior {'' if file else 'folder '}again."
            )
            raise PriorUnavailable(message) from error


def check_complete(missing: Iterable[str]) -> None:
    """Raise a ValueError that names the first of the tensors that a file lacks, if it lacks any."""
    names = sorted(missing)
    if names:
        raise ValueError(f"{len(names)} tensors are missing, {names[0]} among them")
