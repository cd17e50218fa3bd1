"""What of a model's folder is read: chosen by the names of its files, whether they are on a disk or on a hub yet."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from asdkit.core.errors import PriorUnavailable

Read = Callable[[str], dict[str, Any]]  # the settings in a JSON file of the folder
LORA = "pytorch_lora_weights.safetensors"
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d{5}-of-(\d{5}))?\.safetensors")
_PARTS = ("unet", "transformer", "vae")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_EXACT = 256 * 2**20  # bytes of weights that are read whole for a digest
_PIECES, _PIECE = 256, 4096  # of a larger model's file


def parts_of(index: dict[str, Any]) -> list[str]:
    """The components of a `model_index.json` that asdkit reads: the network, the autoencoder, what embeds prompts."""
    named = [name for name, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[1]]
    return [name for name in named if name in _PARTS or name.startswith(("text_encoder", "tokenizer"))]


def needed(
    where: str, names: Collection[str], read: Read, variant: str = "", without: Collection[str] = ()
) -> list[str]:
    """The files of a model that are read.

    Args:
        where: what the model is called in messages.
        names: all its files, relative to its folder.
        read: reads one of them.
        variant: the weights whose names say so are preferred, such as `fp16`.
        without: parts whose weights come from elsewhere.

    Raises:
        PriorUnavailable: it is no model of a known kind, or lacks something.
    """
    from asdkit.priors.families import family_of

    if "model_index.json" not in names:
        raise PriorUnavailable(f"{where} {_is_instead(names, read)}.")
    index = read("model_index.json")
    family_of(str(index.get("_class_name")))
    found = ["model_index.json", "scheduler/scheduler_config.json", "asdkit.json", "camera/model.safetensors"]
    found = [name for name in found if name in names]
    weights: list[str] = []
    for part in parts_of(index):
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        found += [f"{part}/{name}" for name in inside if name.endswith((".json", ".txt", ".model"))]
        if part.startswith("tokenizer"):
            _check_vocabulary(where, part, inside)
        elif part not in without:
            weights += [f"{part}/{name}" for name in _weights(where, part, inside, variant)]
    if variant and weights and not any(f".{variant}" in name for name in weights):
        raise PriorUnavailable(f"{where} has no weights of the variant {variant}; leave prior.variant out.")
    return found + weights


def _is_instead(names: Collection[str], read: Read) -> str:
    """What a folder without `model_index.json` seems to be."""
    if LORA in names or "adapter_config.json" in names:
        return "is a LoRA; name it with prior.finetune, and the model that it was made for with prior.path"
    kind = str(read("config.json").get("_class_name")) if "config.json" in names else ""
    if "ControlNet" in kind:
        return "is a ControlNet; asdkit needs the whole model that it was made for"
    if "UNet" in kind or "Transformer" in kind:
        return f"is a network alone ({kind}); put it in the place of the network in a folder of its whole model"
    if any(name.endswith(_PICKLES) for name in names):
        return "is not in diffusers' layout and holds pickles; asdkit reads safetensors only, so look for such a copy"
    return "has no model_index.json; name a folder in diffusers' layout, or a .safetensors file"


def _check_vocabulary(where: str, part: str, inside: Collection[str]) -> None:
    """Without its files, transformers would make up a tokenizer of a few words."""
    whole = "tokenizer.json" in inside or {"vocab.json", "merges.txt"} <= set(inside)
    if not whole and not any(name.endswith(".model") for name in inside):
        raise PriorUnavailable(f"{where} has no vocabulary in its {part}; copy the whole folder again.")


def _weights(where: str, part: str, inside: Collection[str], variant: str) -> list[str]:
    """The files of one part's weights, of the variant where it has it."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for name in sorted(inside):
        if match := _WEIGHTS.fullmatch(name):
            groups.setdefault(match[1] or "", []).append((name, int(match[2] or 0)))
    if variant not in groups and "" not in groups:
        if groups:
            others = " or ".join(groups)
            raise PriorUnavailable(f"{where}'s {part} has only the variant {others}; name it in prior.variant.")
        if any(name.endswith(_PICKLES) for name in inside):
            raise PriorUnavailable(
                f"{where}'s {part} has pickled weights only, which asdkit doesn't open; load it with diffusers where "
                "you trust it, and write it again with save_pretrained(folder, safe_serialization=True)."
            )
        raise PriorUnavailable(f"{where} has no weights in its {part}; copy the whole folder again.")
    files = groups.get(variant) or groups[""]
    shards = [(name, count) for name, count in files if count]
    if shards and len(shards) != shards[0][1]:
        raise PriorUnavailable(
            f"{where}'s {part} has {len(shards)} of {shards[0][1]} pieces of its weights; copy the others too."
        )
    return [name for name, _ in shards or files]


def names_in(folder: Path) -> list[str]:
    """The files of a folder and of the folders in it."""
    files = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        PriorUnavailable: it is missing or torn.
    """
    try:
        found = json.loads(file.read_text())
    except OSError:
        raise PriorUnavailable(f"There is no {file}; copy the whole prior folder again.") from None
    except (ValueError, RecursionError):
        raise PriorUnavailable(f"{file} is not valid JSON; copy the prior folder again.") from None
    if not isinstance(found, dict):
        raise PriorUnavailable(f"{file} holds no settings; copy the prior folder again.")
    return found


def check_whole(folder: Path, names: Collection[str]) -> None:
    """Files of weights are as long as their headers say, and the pieces that an index names are there.

    Raises:
        PriorUnavailable: one is torn or missing.
    """
    for name in names:
        if name.endswith(".safetensors"):
            check_length(folder / name)
    for name in names:
        pieces = read_json(folder / name).get("weight_map") if name.endswith(".safetensors.index.json") else None
        for piece in sorted(set(pieces.values())) if isinstance(pieces, dict) else ():
            if not (folder / name).with_name(str(piece)).is_file():
                raise PriorUnavailable(f"{folder / name} names {piece}, which is missing; copy it too.")


def check_length(file: Path) -> None:
    """A safetensors file is as long as its header says.

    Raises:
        PriorUnavailable: it is torn, or nothing of the kind.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, size)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        raise PriorUnavailable(f"{file} is torn, or no safetensors file; delete it and copy it again.") from None
    if size != expected:
        raise PriorUnavailable(f"{file} is torn: {size} bytes of {expected}; delete it and copy it again.")


def fingerprint(files: dict[str, Path], used: dict[str, Path], also: str = "") -> str:
    """A fingerprint of a model's weights, wherever they lie.

    Of a small model every byte of every file counts. Of a large one those files do that are used: their sizes, their
    headers and 256 pieces of 4 KiB each, which any training changes and which cost no minutes.

    Args:
        files: all weights, by their names.
        used: those that are read.
        also: further text that counts.

    Returns:
        The first 12 hex digits of a SHA-256.
    """
    small = sum(file.stat().st_size for file in files.values()) <= _EXACT
    sha = hashlib.sha256()
    for name, file in sorted((files if small else used).items()):
        sha.update(name.encode())
        for piece in [file.read_bytes()] if small else _sampled(file):
            sha.update(piece)
    sha.update(also.encode())
    return sha.hexdigest()[:12]


def _sampled(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        yield stream.read(header)
        for piece in range(_PIECES):
            stream.seek(header + (size - header - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
