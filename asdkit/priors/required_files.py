"""Which files of a model are read: chosen by their names, whether they are on a disk or still on the hub."""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from asdkit.core.errors import PriorUnavailable

Settings = dict[str, Any]
Choose = Callable[[str, Collection[str], Callable[[str], Settings]], list[str]]
"""Of a model's name in messages, the names of its files, and what reads the settings in one: the files to read."""

LORA = "pytorch_lora_weights.safetensors"
_BESIDE = ("model_index.json", "scheduler/scheduler_config.json", "asdkit.json", "camera/model.safetensors")
_PARTS = ("unet", "transformer", "vae", "text_encoder", "tokenizer")
# Of weights, with the variant before the number of the piece or, as diffusers once wrote it, after it.
_FILE = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d{5}-of-(\d{5}))?(?:\.(\w+))?\.safetensors")
_LARGEST = 64 * 2**20  # bytes of a file of settings
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def files_of_model(variant: str = "", without: Collection[str] = ()) -> Choose:
    """Chooses the files of a model in diffusers' layout, of a variant where there are any; no weights of `without`."""

    def choose(model: str, names: Collection[str], read: Callable[[str], Settings]) -> list[str]:
        from asdkit.priors.families import family_of  # which needs torch

        if "model_index.json" not in names:
            taken = "a whole model, in diffusers' layout or in one .safetensors file"
            not_taken = "no pickles, no network or ControlNet alone"
            said = f"prior.path takes {taken} ({not_taken}), and prior.finetune a LoRA"
            raise PriorUnavailable(f"{model} has no model_index.json; {said}.")
        index = read("model_index.json")
        family, parts = family_of(str(index.get("_class_name"))), named_parts(index, *_PARTS)
        encoders = [part for part in parts if part.startswith("text_encoder")] or ["text_encoder"]
        tokenizers = [encoder.replace("text_encoder", "tokenizer") for encoder in encoders]
        for part in (family.network_part, *["vae"][: family.has_vae], *encoders, *tokenizers):
            if part not in parts:
                raise PriorUnavailable(f"{model}'s model_index.json names no {part}; copy the whole folder again.")
        files, weights = [name for name in names if name in _BESIDE], []
        for part in parts:
            inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
            files += [f"{part}/{name}" for name in inside if name.endswith((".json", ".txt", ".model"))]
            if part.startswith("tokenizer"):  # without a vocabulary, transformers would make up a few words
                in_one_file = any(name.endswith(("tokenizer.json", ".model")) for name in inside)
                if not in_one_file and not {"vocab.json", "merges.txt"} <= set(inside):
                    raise PriorUnavailable(f"{model} has no vocabulary in its {part}; copy the whole folder again.")
            elif "adapter_config.json" in inside:
                advice = "take its files away, and name it with prior.finetune"
                raise PriorUnavailable(f"{model} has an adapter beside its {part}; {advice}.")
            elif part not in without:
                weights += [f"{part}/{name}" for name in _weights(f"{model}'s {part}", inside, variant)]
        if variant and weights and not any(f".{variant}" in name for name in weights):
            raise PriorUnavailable(f"{model} has no weights of the variant {variant}; leave prior.variant out.")
        return files + weights

    return choose


def named_parts(index: Settings, *starts: str) -> list[str]:
    """The components whose classes a `model_index.json` names, of those whose names start in one of these ways."""
    named = [name for name, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[1]]
    return [name for name in named if name.startswith(starts)]


def files_of_component(component: str, names: Collection[str], read: Callable[[str], Settings]) -> list[str]:
    """Chooses the files of a component without a folder of its own, such as an autoencoder."""
    weights = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if "config.json" not in names or not weights:
        raise PriorUnavailable(f"{component} is no component; name a folder with a config.json and safetensors.")
    return ["config.json", *weights]


def files_of_clip(clip: str, names: Collection[str], read: Callable[[str], Settings]) -> list[str]:
    """Chooses the files of a CLIP that transformers has written: settings, vocabulary and weights."""
    own = [name for name in names if "/" not in name]
    is_clip = "config.json" in own and read("config.json").get("model_type") == "clip"
    says_how = {"preprocessor_config.json", "processor_config.json"} & set(own)
    if not (is_clip and says_how and ("tokenizer.json" in own or {"vocab.json", "merges.txt"} <= set(own))):
        whole = "no whole CLIP with config.json, preprocessor_config.json, a vocabulary and weights"
        advice = "name another folder or id, e.g. openai/clip-vit-large-patch14"
        raise PriorUnavailable(f"{clip} is {whole}, as transformers writes it; {advice}.")
    return [name for name in own if name.endswith((".json", ".txt"))] + _weights(clip, own, "")


def file_of_lora(lora: str, names: Collection[str], read: Callable[[str], Settings]) -> list[str]:
    """Chooses the one file of a LoRA, and peft's settings beside it."""
    files = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if LORA in files:
        return [LORA]
    if len(files) != 1:
        holds = f"holds {', '.join(files[:5])}" if files else "holds no .safetensors file"
        raise PriorUnavailable(f"{lora} {holds}, and a LoRA is one such file; name the file itself.")
    return [*files, *(name for name in names if name == "adapter_config.json")]


def _weights(component: str, names: Collection[str], variant: str) -> list[str]:
    """The files of one component's weights: of the variant where it has them, else of none."""
    matches = [match for match in map(_FILE.fullmatch, sorted(names)) if match]
    variants = {match[1] or match[3] or "" for match in matches}
    of_variant = variant if variant in variants else ""
    if not (chosen := [match for match in matches if (match[1] or match[3] or "") == of_variant]):
        lack = f"only the variant {' or '.join(sorted(variants))} (prior.variant)" if variants else "no weights"
        if not variants and any(name.endswith(_PICKLES) for name in names):
            lack = "pickled weights only"
        advice = "write it again with diffusers' save_pretrained where you trust it, or copy the whole folder"
        raise PriorUnavailable(f"{component} has {lack}, and asdkit reads safetensors; {advice}.")
    pieces = [match for match in chosen if match[2]]
    if pieces and len(pieces) != int(pieces[0][2]):
        count = f"{len(pieces)} of {int(pieces[0][2])}"
        raise PriorUnavailable(f"{component} has {count} pieces of its weights; copy the others too.")
    return [match[0] for match in pieces or chosen]


def read_json(file: Path) -> Settings:
    """The settings in a JSON file."""
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise PriorUnavailable(f"There is no {file}, or it is too large; copy the whole prior folder again.")
    try:
        settings = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise PriorUnavailable(f"{file} is not valid JSON, or holds no settings; copy the prior folder again.")
    return settings


def chosen_files(folder: Path, choose: Choose, model: str = "") -> list[str]:
    """What is read of a folder's files and of those in its folders; messages call it `model`, or by its path."""
    paths = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if not path.is_dir()]
    if odd := [path for path in paths if path.exists() and not path.is_file()]:
        raise PriorUnavailable(f"{odd[0]} is no file, but a device or a pipe; copy the prior again.")
    names = sorted(path.relative_to(folder).as_posix() for path in paths if path.exists())
    return choose(model or str(folder), names, lambda name: read_json(folder / name))
