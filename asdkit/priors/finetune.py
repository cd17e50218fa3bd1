"""A user's LoRA, added to frozen weights."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import first_line, local
from asdkit.priors.families import Model
from asdkit.priors.hub import folder_of
from asdkit.priors.required_files import file_of_lora
from asdkit.priors.weights import check_length


def finetune_file(name: str) -> Path:
    """The .safetensors file of a LoRA: that file, or the one in a folder or in a repository of the hub.

    Args:
        name: a file, a folder, `owner/name` or `owner/name@revision`.

    Raises:
        PriorUnavailable: there is none, or not one alone.
    """
    file = local(name).expanduser()
    if not file.is_file():
        folder, names = folder_of(name, file_of_lora)
        return folder / names[0]
    if file.suffix != ".safetensors":
        raise PriorUnavailable(f"The LoRA {file} is no .safetensors file; asdkit opens no pickles, so convert it.")
    return file


def add_lora(file: Path, pipeline: str, part: str, model: Model, network: Any, scale: float = 1.0) -> None:
    """W becomes W + scale (alpha / rank) B A in every layer of a component that a LoRA names; nothing else changes.

    Diffusers' own fusing takes the alphas of kohya's files for the same in all layers, which they need not be.

    Args:
        file: in diffusers' or in kohya's layout.
        pipeline: diffusers' name of the model's pipeline, which knows how to read such files.
        part: the component's name, such as `unet` or `text_encoder`.
        model: the component; its layers stay the modules that they are.
        network: the settings of the network, which kohya's names of layers depend on.
        scale: how much of the LoRA.

    Raises:
        PriorUnavailable: the file is torn, or of another model.
    """
    import diffusers

    kind = getattr(diffusers, pipeline)
    if not hasattr(kind, "lora_state_dict"):
        raise PriorUnavailable(f"diffusers reads no LoRAs for a {pipeline}; leave prior.finetune out.")
    check_length(file)
    try:
        tensors, settings = _read(kind, file, network)
        of_part = {
            name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")
        }
        if not of_part and not any(name.startswith("text_encoder") for name in [*tensors, part]):
            raise ValueError(f"none of its {len(tensors)} tensors is for the {part}")
        settings = {name.removeprefix(f"{part}."): value for name, value in settings.items()}
        _fuse(model, _in_pefts_names(of_part, model), settings, scale)
    except Exception as error:  # diffusers' readers raise whatever they stumble over
        reason = first_line(error)
        raise PriorUnavailable(
            f"The LoRA {file} can't be added ({reason}); name one that was made for this kind of model."
        ) from error


def _read(kind: Any, file: Path, network: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by diffusers' names, the alphas of kohya's files folded in, and the settings in diffusers' own files."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        settings = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    if any("dora_scale" in name or "magnitude_vector" in name for name in tensors):
        raise ValueError("it is a DoRA, which does more than to add to weights")
    for name in [name for name in tensors if name.endswith(".alpha")]:
        layer = name.removesuffix(".alpha")
        up = next(name for name in (f"{layer}.lora_up.weight", f"{layer}.lora_B.weight") if name in tensors)
        rank = tensors[up].shape[1]
        tensors[up] = tensors[up] * (tensors[name].item() / rank)
        tensors[name] = torch.tensor(float(rank))
    state = kind.lora_state_dict(tensors, unet_config=network)
    return (state[0] if isinstance(state, tuple) else state), settings


def _in_pefts_names(tensors: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """`layer.lora_A.weight` and `layer.lora_B.weight`, whatever they were called; layers as the model names them."""
    from diffusers import ModelMixin
    from diffusers.utils import state_dict_utils as names

    if isinstance(model, ModelMixin):
        return dict(names.convert_unet_state_dict_to_peft(tensors))
    for old in (names.DIFFUSERS_OLD_TO_PEFT, names.DIFFUSERS_TO_PEFT):
        tensors = names.convert_state_dict(tensors, old)
    flat = "" if hasattr(model, "text_model") else "text_model."  # transformers 5 has left that level out
    return {name.removeprefix(flat): value for name, value in tensors.items()}


@torch.no_grad()
def _fuse(model: Model, tensors: dict[str, Tensor], settings: dict[str, Any], scale: float) -> None:
    """Add every pair of factors to its layer; a tensor without a layer is a ValueError."""
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        down, up = tensors.pop(name).float().flatten(1), tensors.pop(f"{layer}.lora_B.weight").float().flatten(1)
        weight = model.get_submodule(layer).weight
        change = scale * _strength(layer, len(down), settings) * up @ down
        if change.shape != weight.flatten(1).shape:
            raise ValueError(f"{layer} has a weight of shape {tuple(weight.shape)}")
        weight += change.view_as(weight).to(weight)
    if tensors:
        raise ValueError(f"it names {min(tensors)}, which is no part of a LoRA of this model")


def _strength(layer: str, rank: int, settings: dict[str, Any]) -> float:
    """alpha / rank as diffusers' own files tell it; 1 where they don't."""
    alphas = {re.compile(rf"(.*\.)?({name})"): alpha for name, alpha in settings.get("alpha_pattern", {}).items()}
    alpha = next((alpha for name, alpha in alphas.items() if name.fullmatch(layer)), settings.get("lora_alpha", rank))
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank))
