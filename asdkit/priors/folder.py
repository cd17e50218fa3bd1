"""A model's folder in diffusers' layout: `model_index.json` and a folder for each component."""

import hashlib
import inspect
import json
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from asdkit.core.bounds import numbers_in
from asdkit.core.errors import PriorUnavailable
from asdkit.core.foreign import is_out_of_memory
from asdkit.core.optional import require_package
from asdkit.core.text import first_line
from asdkit.priors.families import Model
from asdkit.priors.required_files import Settings, named_parts, read_json

_log = logging.getLogger(__name__)
_LARGEST = 1e30  # of numbers that are no sizes
_EXACT = 256 * 2**20  # bytes of weights that are read whole for a digest
_PIECES, _PIECE = 256, 4096  # of a larger model's file
_MOST_WORDS = 10_000  # that a tokenizer makes up
TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer")
_UNWANTED = ("attn_implementation", "auto_map", "quantization_config", "_name_or_path")  # may name code or other models
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


class ModelFolder:
    """Reads components. Libraries see only links to the files `names` that are read, and checked copies of settings."""

    def __init__(self, path: Path, names: list[str], variant: str = "") -> None:
        self.path, self.names, self.variant = path, names, variant
        self.weights = {name: path / name for name in names if name.endswith(".safetensors")}
        self._shapes = {name: shapes_of(file) for name, file in self.weights.items()}

    @cached_property
    def seen(self) -> Path:
        """What libraries see of the folder, as long as this object lives."""
        seen = Path(tempfile.mkdtemp(prefix="asdkit-"))
        weakref.finalize(self, shutil.rmtree, seen, ignore_errors=True)
        for name in self.names:
            place = seen / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".json"):
                place.write_text(json.dumps(self._checked(name)), "utf-8")
            else:
                place.symlink_to((self.path / name).absolute())
        return seen

    def _checked(self, name: str) -> Settings:
        """A file's settings, without what names code or other models; what points beyond the weights is refused."""
        settings, (folder, _, kind) = self.json(name), name.rpartition("/")
        if ".index." in name:
            self._check_index(name, settings)
        if kind == "tokenizer_config.json":
            limited, tensors, numbers = {"extra_ids": settings.get("extra_ids")}, 0, _MOST_WORDS
        elif kind != "config.json":
            return settings
        else:
            own = [shapes for weight, shapes in self._shapes.items() if weight.rpartition("/")[0] == folder]
            shapes = [shape for file in own for shape in file.values()]
            limited, tensors, numbers = settings, len(shapes), sum(map(prod, shapes))
        for key, value in limited.items():
            most = math.inf if not numbers else tensors if "layer" in key else numbers
            for number in numbers_in(value):
                if not abs(number) <= (_LARGEST if isinstance(number, float) else most):  # nor is NaN
                    fault = f"{key} {number}, more than its weights hold"
                    raise PriorUnavailable(f"{self.path / name} has {fault}; copy the prior again.")
        return {key: value for key, value in settings.items() if not key.endswith(_UNWANTED)}

    def _check_index(self, name: str, settings: Settings) -> None:
        """An index names files of its own component alone, and tensors that they hold."""
        folder = name.rpartition("/")[0]
        files: Any = settings.get("weight_map")
        named = set(map(str, files.values())) if isinstance(files, dict) else {"nothing"}
        if strangers := {file for file in named if "/" in file or not file.endswith(".safetensors")}:
            fault = f"{min(strangers)}, which is no safetensors file of its component"
            raise PriorUnavailable(f"{self.path / name} names {fault}; copy the prior again.")
        lacking = [key for key, file in files.items() if key not in self._shapes.get(f"{folder}/{file}", files)]
        if lacking:  # which diffusers would leave as it draws it
            raise PriorUnavailable(f"{self.path / name} names {lacking[0]}, which its files lack; copy it again.")

    def json(self, name: str) -> Settings:
        """A JSON file of the folder."""
        return read_json(self.path / name)

    def write_with(self, networks: dict[str, Any], folder: Path) -> None:
        """Write a copy of the folder with other networks in the place of its own."""
        if type(self) is not ModelFolder:
            raise ValueError(f"{self.path} holds a part of the model alone; a whole folder of it can be written again.")
        for name in self.names:
            if name.partition("/")[0] not in networks:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, folder / name)
        for part, network in networks.items():
            network.save_pretrained(folder / part)

    def digest(self) -> str:
        """A digest of the weights."""
        files = {file.relative_to(self.path).as_posix(): file for file in self.path.rglob("*.safetensors")}
        return digest_of(self.weights, self.variant, files)

    def settings_digest(self) -> str:
        """A digest of the settings and vocabularies."""
        return digest_of({name: self.path / name for name in self.names if name not in self.weights})

    def model(self, model_class: Any, part: str, dtype: torch.dtype = torch.float32) -> Model:
        """A frozen component by its library's own loader, from safetensors, which hold all of its weights."""
        import diffusers
        import transformers

        for library in (diffusers, transformers):  # which show how they read files that hold a network in pieces
            library.utils.logging.disable_progress_bar()
        kind = self.json(f"{part}/config.json").get("_class_name", model_class.__name__)
        if kind not in (model_class.__name__, "Transformer2DModel"):  # what PixArt's is called on the hub
            raise PriorUnavailable(f"{self.path}'s {part} is a {kind}; asdkit reads {model_class.__name__} there.")
        of_variant = any(name.startswith(f"{part}/") and f".{self.variant}" in name for name in self.names)
        how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, "dtype": dtype}
        with one_sentence(self.path / part):
            variant = self.variant if of_variant and self.variant else None
            model, info = model_class.from_pretrained(self.seen / part, variant=variant, **how)
            check_complete(info["missing_keys"])
        if (further := info["unexpected_keys"]) and not part.startswith("text_encoder"):  # which may hold positions
            _log.warning("%s holds %d tensors that its config.json has no place for.", self.path / part, len(further))
        return model.requires_grad_(False).eval()

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
        import transformers

        if name in TEXT_ENCODERS:
            return self.model(getattr(transformers, name), part, dtype)
        if name not in TOKENIZERS:
            raise PriorUnavailable(f"{self.path}'s {part} is a {name}; asdkit reads {', '.join(TEXT_ENCODERS)}.")
        if not {f"{part}/tokenizer.json", f"{part}/vocab.json"} & set(self.names):
            require_package("sentencepiece", "t5"), require_package("google.protobuf", "t5")
        with one_sentence(self.path / part):
            return getattr(transformers, name).from_pretrained(self.seen / part, local_files_only=True)


@contextmanager
def one_sentence(
    component: Path | str, fails: str = "can't be loaded", advice: str = "copy the prior again"
) -> Iterator[None]:
    """Whatever a library says of a component becomes a PriorUnavailable of one sentence, but a lack of memory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PriorUnavailable) or is_out_of_memory(error):
            raise
        raise PriorUnavailable(f"{component} {fails} ({first_line(error)}); {advice}.") from error


def check_complete(missing: Iterable[str]) -> None:
    """Raise a ValueError that names the first of the tensors that a file lacks, if it lacks any."""
    if names := sorted(missing):
        raise ValueError(f"{len(names)} tensors are missing, {names[0]} among them")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, which is as long as its header says, or is refused."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise PriorUnavailable(f"{file} is torn, or no safetensors file ({reason}); copy it again.") from None


def digest_of(used: dict[str, Path], also: str = "", beside: dict[str, Path] | None = None) -> str:
    """12 hex digits that stand for a model's weights, wherever they lie, and for the text `also`."""
    # Of a small model every byte of every file counts, also of those `beside` the used ones. Of a large one the used
    # files' sizes, headers and 256 pieces of 4 KiB do, which any training changes.
    files = beside or used
    small = sum(file.stat().st_size for file in files.values()) <= _EXACT
    sha = hashlib.sha256()
    for name, file in sorted((files if small else used).items()):
        sha.update(name.encode())
        for piece in [file.read_bytes()] if small else _sampled(file):
            sha.update(piece)
    sha.update(also.encode())
    return sha.hexdigest()[:12]


def _sampled(file: Path) -> Iterator[bytes]:
    """Its size, its header, and pieces from the first of its values to the last."""
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        yield stream.read(header)
        for piece in range(_PIECES):
            stream.seek(header + (size - header - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
