"""A user's LoRA, LoHa, LoKr or DoRA, added to frozen weights, or a textual inversion: a word that was learned."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asdkit.core.errors import PriorUnavailable
from asdkit.core.parts import require
from asdkit.core.text import local
from asdkit.priors.families import Model
from asdkit.priors.folder import one_sentence, shapes_of
from asdkit.priors.hub import folder_of
from asdkit.priors.required_files import file_of_lora, read_json
from asdkit.priors.weight_changes import Factors, changed_weight

_COMPONENTS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
_EMBEDDINGS = ("bundle_emb", "emb_params", "string_to_param", "clip_l", "clip_g")
_LAYERS_ALONE = re.compile(  # of diffusers' networks, in files without the component's name
    r"(?:down_blocks|mid_block|up_blocks|conv_|time_|add_|(?:single_)?transformer_blocks|x_emb|context_emb|proj_|norm_out)"
)
_OF_PEFT = re.compile(r"^base_model\.model\.")
_LYCORIS = re.compile(r"\.(?:hada_|lokr_|lora_mid|dora_scale)")
# What follows the name of a layer.
_LAYER = re.compile(r"\.(?:lora_\w+|lora\.\w+|hada_\w+|lokr_\w+|alpha|dora_scale|processor\.\w+)(?:\.\w+)*$")
_ENCODERS = {"clip_g": "_2"}  # the end of a text encoder's name, by the name that a textual inversion for several has
_BASE_KEPT = (True, False, "gaussian", "eva", "orthogonal", "mica")  # starts that leave the model's own weights alone
_OTHER_MODELS = ("kasa_config", "layer_replication", "arrow_config", "alora_invocation_tokens", "use_qalora")
_OF_THIS_KIND = "name one that was made for this kind of model"
_log = logging.getLogger(__name__)


def finetune_file(name: str) -> Path:
    """The .safetensors file of a LoRA: that file, or the one in a folder or under an id of the hub."""
    file = local(name)
    if not file.is_file():
        folder, names = folder_of(name, file_of_lora)
        return folder / names[0]
    if file.suffix != ".safetensors":
        raise PriorUnavailable(f"The LoRA {file} is no .safetensors file; asdkit opens no pickles, so convert it.")
    return file


def add_lora(file: Path, pipeline: str, part: str, model: Model, network: Any, scale: float, parts: list[str]) -> None:
    """W becomes W + scale (W' - W) in every layer of a component that a fine-tune names; nothing else changes.

    `pipeline` is diffusers' name of the model's pipeline, `part` that of the component, `parts` are all that the model
    has, and `network` are the settings of the network, which kohya's names of layers depend on.
    """
    # Diffusers' own fusing takes the alphas of kohya's files for the same in all layers, which they need not be.
    import diffusers

    kind = getattr(diffusers, pipeline)
    if getattr(kind, "lora_state_dict", None) is None:
        raise PriorUnavailable(f"diffusers reads no LoRAs for a {pipeline}; leave prior.finetune out.")
    with one_sentence(f"The LoRA {file}", "can't be added", _OF_THIS_KIND):
        tensors, settings = _read(kind, file, network, "unet" if "unet" in parts else "transformer")
        strangers = {name.partition(".")[0] for name in tensors} - {*parts, part}
        of_part = {name: value for name, value in tensors.items() if name.startswith(f"{part}.")}
        if not of_part and not any(name.startswith("text_encoder") for name in [*tensors, part]):
            raise ValueError(f"none of its {len(tensors)} tensors is for the {part}")
        if strangers:
            raise ValueError(f"it is also for a {min(strangers)}, which this model doesn't have")
        settings = {name.removeprefix(f"{part}."): value for name, value in settings.items()}
        _check_settings(settings)
        changed = _fuse(model, _by_layer(_in_pefts_words(of_part), part, model), settings, scale)
        if of_part and scale and not changed and (len(of_part) == len(tensors) or not part.startswith("text_encoder")):
            raise ValueError(f"it changes nothing of the {part}")


def _read(kind: Any, file: Path, network: Any, network_part: str) -> tuple[Factors, dict[str, Any]]:
    """Tensors by diffusers' names of components and layers, and peft's settings."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
        settings = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    beside = file.with_name("adapter_config.json")
    if beside.is_file() and any(map(_OF_PEFT.match, tensors)):  # else it belongs to another file
        settings = read_json(beside)
    if other := next((name for name in tensors if name.startswith(_EMBEDDINGS)), ""):
        raise ValueError(f"it also holds an embedding, {other}, which would have to be a word of prompts")
    if other := next((name for name in tensors if not _LAYER.search(name) and "_lora." not in name), ""):
        raise ValueError(f"it names {other}, which is no part of a LoRA, LoHa, LoKr or DoRA")
    if broken := next((name for name, value in tensors.items() if not value.isfinite().all()), ""):
        raise ValueError(f"its {broken} is not finite")
    tensors = {_OF_PEFT.sub(f"{network_part}.", name): value for name, value in tensors.items()}
    if all(map(_LAYERS_ALONE.match, tensors)):  # of save_lora_adapter
        tensors = {f"{network_part}.{name}": value for name, value in tensors.items()}
    if any(map(_LYCORIS.search, tensors)):
        return _renamed(kind, tensors, network), settings
    for name in [name for name in tensors if name.endswith(".alpha")]:
        layer = name.removesuffix(".alpha")
        ups = [name for name in (f"{layer}.{up}.weight" for up in ("lora_up", "lora_B", "lora.up")) if name in tensors]
        require(bool(ups), f"{layer} has an alpha alone")
        up, rank = ups[0], tensors[ups[0]].shape[1]
        tensors[up] = tensors[up] * (tensors[name].item() / rank)
        tensors[name] = torch.tensor(float(rank))
    state = kind.lora_state_dict(tensors, unet_config=network)
    return (state[0] if isinstance(state, tuple) else state), settings


def _renamed(kind: Any, tensors: Factors, network: Any) -> Factors:
    """Factors under the names that diffusers gives to the layers of a LoRA, which tells them by LoRAs of one number."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(_LAYER.sub("", name), []).append(name)
    places = {layer: layer for layer in layers if layer.startswith(_COMPONENTS)}
    others = [layer for layer in layers if layer not in places]
    marked: Factors = {}
    for number, layer in enumerate(others):
        marked |= {f"{layer}.lora_{end}.weight": torch.full((1, 1), float(number)) for end in ("up", "down")}
        marked[f"{layer}.alpha"] = torch.tensor(1.0)
    state = kind.lora_state_dict(marked, unet_config=network) if marked else {}
    for name, value in _in_pefts_words(state[0] if isinstance(state, tuple) else state).items():
        if ".lora_B" in name:
            places[others[int(value.item())]] = _LAYER.sub("", name)
    renamed = {name: name.replace(layer, places[layer], 1) for layer, names in layers.items() for name in names}
    in_pefts = {old: new.replace("lora_down", "lora_A").replace("lora_up", "lora_B") for old, new in renamed.items()}
    return {new: tensors[old] for old, new in in_pefts.items()}


def _in_pefts_words(tensors: Factors) -> Factors:
    """`layer.lora_A.weight` and `layer.lora_B.weight`, whatever they were called."""
    from diffusers.utils import state_dict_utils as names

    networks = {name: value for name, value in tensors.items() if not name.startswith("text_encoder")}
    encoders = {name: value for name, value in tensors.items() if name not in networks}
    for old in (names.DIFFUSERS_OLD_TO_PEFT, names.DIFFUSERS_TO_PEFT):
        encoders = names.convert_state_dict(encoders, old)
    return {**names.convert_unet_state_dict_to_peft(networks), **encoders}


def _by_layer(tensors: Factors, part: str, model: Model) -> dict[str, Factors]:
    """The factors of each layer of a component, which are named as the model names them."""
    layers: dict[str, Factors] = {}
    for name, value in tensors.items():
        layer = _LAYER.sub("", name)
        factor = name.removeprefix(f"{layer}.").removesuffix(".weight").removesuffix(".default")
        if part.startswith("text_encoder") and "text_model" not in model._modules:
            layer = layer.replace(".text_model.", ".", 1)  # transformers 5 has left that level out
        layers.setdefault(layer.removeprefix(f"{part}."), {})[factor] = value
    return layers


def _check_settings(settings: dict[str, Any]) -> None:
    """What peft says of a fine-tune is that it adds to the model's own weights, and nothing else."""
    kind, start = settings.get("peft_type", "LORA"), settings.get("init_lora_weights", True)
    require(kind in ("LORA", "LOHA", "LOKR"), f"it is peft's {kind}, and LoRA, LoHa and LoKr are read")
    if start not in _BASE_KEPT:
        advice = "let peft's save_pretrained convert it, by path_initial_model_for_weight_conversion"
        raise ValueError(f"it started from {start}, which changes the model's own weights as well; {advice}")
    if other := [name for name in _OTHER_MODELS if settings.get(name)]:
        raise ValueError(f"its {other[0]} changes more of the model than its weights")


@torch.no_grad()
def _fuse(model: Model, layers: dict[str, Factors], settings: dict[str, Any], scale: float) -> bool:
    """Change the weight of every layer, and say whether any is another now; factors without a layer are an error."""
    changed = False
    for layer, factors in layers.items():
        weight = model.get_submodule(layer).weight
        new = changed_weight(layer, weight, factors, settings, scale)
        changed |= not torch.equal(new, weight)
        weight.copy_(new)
    return changed


def learned_words(file: Path) -> dict[str, Tensor]:
    """The embeddings in a file of a textual inversion, by their names there; none of another file's."""
    from safetensors.torch import load_file

    if any("." in name for name in shapes_of(file)):
        return {}
    return {name: value.float() for name, value in load_file(file).items()}


def word_of(file: Path) -> str:
    """The word of a textual inversion: the name of its tensor, or that of the file; empty of another file."""
    names = list(learned_words(file))
    single = names[0] if len(names) == 1 else ""
    return "" if not names else file.stem if single in ("", "emb_params", "clip_l", "clip_g") else single


def add_words(file: Path, pipeline: Any, texts: list[str]) -> None:
    """Teach a pipeline the word of a textual inversion, in diffusers' or A1111's layout; a prompt should say it."""
    word, words = word_of(file), learned_words(file)
    with one_sentence(f"The textual inversion {file}", "can't be added", _OF_THIS_KIND):
        if len(words) > 1 and not words.keys() <= {"clip_l", "clip_g"}:
            raise ValueError(f"it holds several words, {', '.join(words)}")
        for name, value in words.items():
            end = _ENCODERS.get(name, "")
            encoder: Any = getattr(pipeline, f"text_encoder{end}", None)
            tokenizer: Any = getattr(pipeline, f"tokenizer{end}", None)
            if encoder is None or not value.isfinite().all():
                raise ValueError("it is not finite" if encoder else f"this model has no text_encoder{end}")
            vectors, most = len(torch.atleast_2d(value)), tokenizer.model_max_length
            require(0 < vectors <= most, f"it has {vectors} vectors, and a prompt {most} tokens")
            pipeline.load_textual_inversion(value, token=word, text_encoder=encoder, tokenizer=tokenizer)
    if not any(word in text for text in texts):
        _log.warning("No prompt says %s, the word of the textual inversion %s.", word, file.name)
