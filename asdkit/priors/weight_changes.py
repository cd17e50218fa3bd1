"""What a fine-tune adds to a weight: LoRA, LoHa and LoKr as matrices, and DoRA's new lengths of rows."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

Factors = dict[str, Tensor]  # of one layer, by the names that peft gives them
_LITERAL = re.compile(r"[\w.-]+")
_WILDCARDS = re.compile(r"(?=.{0,200}$)[\w.|^$-]*(?:\.[*+][\w.|^$-]*){0,2}")  # matched in a time that doesn't explode
_MOST_WILDCARDS = 20


def changed_weight(layer: str, weight: Tensor, factors: Factors, settings: dict[str, Any], scale: float) -> Tensor:
    """W + scale (W' - W), where W' is what the factors of a fine-tune make of a layer's weight W.

    LoRA adds (alpha / r) B A, LoHa (alpha / r) (A1 B1) * (A2 B2), LoKr (alpha / r) times the Kronecker product of two
    matrices; DoRA then gives each row the length that it says.

    Args:
        layer: its name.
        weight: W, of a linear layer or a convolution.
        factors: `lora_A`, `lora_B`; or `hada_w1_a` to `hada_w2_b`; or `lokr_w1`, `lokr_w2` or their factors; beside
            them `alpha` and `lora_magnitude_vector`.
        settings: those of peft, which say what factors don't.
        scale: how much of it.

    Raises:
        ValueError: they don't fit the weight, aren't finite, or are of no known kind.
    """
    flat, given = weight.float().flatten(1), {name: value.float() for name, value in factors.items()}
    alpha, lengths = given.pop("alpha", None), given.pop("lora_magnitude_vector", None)
    pairs, rank = _pairs(layer, given)
    shapes = [(len(pair[0]), pair[-1][0].numel()) for pair in pairs]
    kronecker = "lokr" in next(iter(given))
    together = (shapes[0][0] * shapes[-1][0], shapes[0][1] * shapes[-1][1]) if kronecker else shapes[0]
    if together != flat.shape or not kronecker and shapes[0] != shapes[-1]:
        raise ValueError(f"{layer} has a weight of shape {tuple(weight.shape)}")
    first, *second = (
        pair[0].flatten(1) if len(pair) == 1 else pair[0].flatten(1) @ pair[1].flatten(1) for pair in pairs
    )
    kernel, change = weight.shape[2:], first
    if kronecker:
        blocks = second[0].reshape(len(second[0]), -1, *kernel)
        change = torch.kron(first.reshape(*first.shape, *[1] * len(kernel)), blocks).flatten(1)
    elif second:
        change = first * second[0]
    change = change * (_strength(layer, rank, settings) if alpha is None else alpha.item() / rank if rank else 1.0)
    if lengths is not None:
        if lengths.numel() != len(flat):
            raise ValueError(f"{layer} has {len(flat)} rows, and the DoRA {lengths.numel()} lengths")
        change = lengths.reshape(-1, 1) * normalize(flat + change, dim=1) - flat
    changed = (flat + scale * change).view_as(weight).to(weight)
    if not changed.isfinite().all():
        raise ValueError(f"{layer} would not be finite")
    return changed


def _pairs(layer: str, factors: Factors) -> tuple[list[tuple[Tensor, ...]], int]:
    """The matrices of a change, each whole or as two factors; and their rank, 0 where all are whole."""
    if factors.keys() == {"lora_A", "lora_B"}:
        return [(factors["lora_B"], factors["lora_A"])], len(factors["lora_A"])
    kind = "hada_w" if any(name.startswith("hada") for name in factors) else "lokr_w"
    pairs: list[tuple[Tensor, ...]] = []
    for name in (f"{kind}1", f"{kind}2"):
        names = [name] if name in factors else [f"{name}_a", f"{name}_b"]
        pairs.append(tuple(factors[part] for part in names if part in factors))
    if not all(pairs) or sum(map(len, pairs)) != len(factors) or (kind == "hada_w" and len(factors) != 4):
        raise ValueError(f"{layer} has {', '.join(sorted(factors)) or 'an alpha alone'}: no whole LoRA, LoHa or LoKr")
    return pairs, next((len(pair[1]) for pair in pairs if len(pair) == 2), 0)


def _strength(layer: str, rank: int, settings: dict[str, Any]) -> float:
    """alpha / rank as peft's settings tell it; 1 where they don't."""
    rank = rank or int(settings.get("r", 0))
    patterns: dict[str, float] = settings.get("alpha_pattern") or {}
    wild = [name for name in patterns if not _LITERAL.fullmatch(name)]
    if len(wild) > _MOST_WILDCARDS or not all(map(_WILDCARDS.fullmatch, wild)):
        raise ValueError("its alpha_pattern holds more than names of layers with .* in them")
    alpha = settings.get("lora_alpha", settings.get("alpha", rank))
    for name, value in patterns.items():
        literal = name not in wild
        if f".{layer}".endswith(f".{name}") if literal else re.fullmatch(rf"(.*\.)?({name})", layer):
            alpha = value
            break
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank)) if rank else 1.0
