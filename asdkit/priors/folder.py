"""A model's folder in diffusers' layout: `model_index.json` and a folder for each component."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from asdkit.core.errors import PriorUnavailable
from asdkit.core.optional import require_package
from asdkit.core.text import first_line
from asdkit.priors.families import Model
from asdkit.priors.required_files import Settings, named_parts, read_json
from asdkit.priors.weights import check_length, digest_of

TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer")
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


class ModelFolder:
    """Reads components; whatever is missing or torn is a PriorUnavailable of one sentence.

    Args:
        path: the folder.
        names: its files that are read.
        variant: weights whose names say so are preferred, such as `fp16`.

    Raises:
        PriorUnavailable: a file of weights is torn.
    """

    def __init__(self, path: Path, names: list[str], variant: str = "") -> None:
        self.path, self.names, self.variant = path, names, variant
        self.weights = {name: path / name for name in names if name.endswith(".safetensors")}
        for file in self.weights.values():
            check_length(file)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def json(self, name: str) -> Settings:
        """A JSON file of the folder."""
        return read_json(self.path / name)

    def digest(self) -> str:
        """A digest of the weights."""
        files = {file.relative_to(self.path).as_posix(): file for file in self.path.rglob("*.safetensors")}
        return digest_of(self.weights, self.variant, files)

    def settings_digest(self) -> str:
        """A digest of the settings and vocabularies."""
        return digest_of({name: self.path / name for name in self.names if name not in self.weights})

    def model(self, model_class: Any, part: str, dtype: torch.dtype = torch.float32) -> Model:
        """A component with weights, all of which must be there."""
        self.json(f"{part}/config.json")
        of_variant = any(name.startswith(f"{part}/") and f".{self.variant}" in name for name in self.names)
        return load_component(self.path / part, model_class, dtype, self.variant if of_variant else "")

    def text_pipeline(self, parts: dict[str, Any], dtype: torch.dtype) -> Any:
        """diffusers' pipeline of the folder with these components and its text encoders, for embedding prompts."""
        import diffusers

        index = self.json("model_index.json")
        kind = getattr(diffusers, str(index["_class_name"]))
        arguments: dict[str, Any] = dict.fromkeys(inspect.signature(kind).parameters)
        arguments |= parts | {"requires_safety_checker": False, "add_watermarker": False}
        arguments["force_zeros_for_empty_prompt"] = index.get("force_zeros_for_empty_prompt", True)
        for part in named_parts(index, "tokenizer", "text_encoder"):
            arguments[part] = self._text_part(part, str(index[part][1]).removesuffix("Fast"), dtype)
        return kind(**{name: arguments[name] for name in inspect.signature(kind).parameters})

    def _text_part(self, part: str, name: str, dtype: torch.dtype) -> Any:
        """A tokenizer or a text encoder of a class that asdkit knows."""
        import transformers
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if name in TEXT_ENCODERS:
            return self.model(getattr(transformers, name), part, dtype)
        if name not in TOKENIZERS:
            raise PriorUnavailable(f"{self.path}'s {part} is a {name}; asdkit reads {', '.join(TEXT_ENCODERS)}.")
        if not {f"{part}/tokenizer.json", f"{part}/vocab.json"} & set(self.names):
            require_package("sentencepiece", "t5"), require_package("google.protobuf", "t5")
        with one_sentence(self.path / part):
            return getattr(transformers, name).from_pretrained(self.path / part, local_files_only=True)


def load_component(folder: Path, model_class: Any, dtype: torch.dtype, variant: str = "") -> Model:
    """A frozen component by its library's own loader, from safetensors, with every tensor in the files.

    Raises:
        PriorUnavailable: one is missing or does not fit.
    """
    how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    with one_sentence(folder):
        model, info = model_class.from_pretrained(folder, variant=variant or None, dtype=dtype, **how)
        check_complete(info["missing_keys"])
    return model.requires_grad_(False).eval()


@contextmanager
def one_sentence(component: Path | str) -> Iterator[None]:
    """Whatever a library says of a component that it can't load becomes a PriorUnavailable of one sentence."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        raise PriorUnavailable(f"{component} can't be loaded ({reason}); copy the prior again.") from error


def check_complete(missing: Iterable[str]) -> None:
    """Raise a ValueError that names the first of the tensors that a file lacks, if it lacks any."""
    names = sorted(missing)
    if names:
        raise ValueError(f"{len(names)} tensors are missing, {names[0]} among them")
