"""What a fine-tune adds to a weight: LoRA, LoHa and LoKr as matrices, and DoRA's new lengths of rows."""

import re
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from asdkit.core.parts import require

# Of one layer, by the names that peft gives them: `lora_A`, `lora_B`; or `hada_w1_a` to `hada_w2_b`; or `lokr_w1`,
# `lokr_w2` or their factors; with the cores `lora_mid`, `hada_t1`, `hada_t2` or `lokr_t2`; beside them `alpha`, and
# `lora_magnitude_vector` or `dora_scale`.
Factors = dict[str, Tensor]
_LITERAL = re.compile(r"[\w.-]+")
_WILDCARDS = re.compile(r"(?=.{0,200}$)[\w.|^$-]*(?:\.[*+][\w.|^$-]*){0,2}")  # matched in a time that doesn't explode
_MOST_WILDCARDS = 20


def changed_weight(layer: str, weight: Tensor, factors: Factors, settings: dict[str, Any], scale: float) -> Tensor:
    """W + scale (W' - W), where W' is what the factors of a fine-tune make of a layer's weight W.

    LoRA adds (alpha / r) B A, LoHa (alpha / r) (A1 B1) * (A2 B2), LoKr (alpha / r) times the Kronecker product of two
    matrices, each of which may be a Tucker product, with a core of the kernel's size between its factors; DoRA then
    gives each row, or each column, the length that it says. What the factors don't say, peft's settings do. It is a
    ValueError if they don't fit the weight, aren't finite, or are of no known kind.
    """
    flat, given = weight.float().flatten(1), {name: value.float() for name, value in factors.items()}
    alpha = given.pop("alpha", None)
    lengths = {name: given.pop(name) for name in ("lora_magnitude_vector", "dora_scale") if name in given}
    require(bool(lengths) or not settings.get("use_dora"), f"{layer} lacks the lengths of its DoRA")
    products = _products(layer, given)
    rank = next((len(product[-1]) for product in products if len(product) > 1), 0)
    shapes = [_shape(product) for product in products]
    kronecker = "lokr" in next(iter(given))
    together = (shapes[0][0] * shapes[-1][0], shapes[0][1] * shapes[-1][1]) if kronecker else shapes[0]
    if together != flat.shape or not kronecker and shapes[0] != shapes[-1]:
        raise ValueError(f"{layer} has a weight of shape {tuple(weight.shape)}")
    first, *second = map(_multiplied, products)
    kernel, change = weight.shape[2:], first
    if kronecker:
        blocks = second[0].reshape(len(second[0]), -1, *kernel).contiguous()
        change = torch.kron(first.reshape(*first.shape, *[1] * len(kernel)), blocks).flatten(1)
    elif second:
        change = first * second[0]
    change = change * (_strength(layer, rank, settings) if alpha is None else alpha.item() / rank if rank else 1.0)
    for name, values in lengths.items():
        change = _of_lengths(layer, (flat + change).view_as(weight), values, name).flatten(1) - flat
    changed = (flat + scale * change).view_as(weight).to(weight)
    require(bool(changed.isfinite().all()), f"{layer} would not be finite")
    return changed


def _products(layer: str, factors: Factors) -> list[tuple[Tensor, ...]]:
    """The matrices of a change: each whole, or as two factors [rows, r] and [r, columns], with a core or not."""
    names = [("lora_B", "lora_mid", "lora_A")]
    if any(name.startswith(("hada", "lokr")) for name in factors):
        kind = next(iter(factors))[:4]
        names = [(f"{kind}_w{n}_a", f"{kind}_t{n}", f"{kind}_w{n}_b") for n in (1, 2)]
    products: list[tuple[Tensor, ...]] = []
    for left, core, right in names:
        whole = left.removesuffix("_a")
        if whole in factors and whole.startswith("lokr"):
            products.append((factors[whole],))
        elif {left, right} <= factors.keys():
            turned = core in factors and whole != left  # as LyCORIS writes it
            first = factors[left].T if turned else factors[left].flatten(1)
            products.append((first, *(factors[name] for name in (core,) if name in factors), factors[right].flatten(1)))
    if len(products) != len(names) or sum(map(len, products)) != len(factors):
        raise ValueError(f"{layer} has {', '.join(sorted(factors)) or 'an alpha alone'}: no whole LoRA, LoHa or LoKr")
    return products


def _shape(product: tuple[Tensor, ...]) -> tuple[int, int]:
    """Rows and columns of a product, without multiplying; a kernel's sizes are among the columns."""
    return len(product[0]), prod(product[-1].shape[1:]) * prod(prod(core.shape[2:]) for core in product[1:-1])


def _multiplied(product: tuple[Tensor, ...]) -> Tensor:
    left, *core = product
    if len(core) == 2:
        return torch.einsum("oi,ij...,jr->or...", left, *core).flatten(1)
    return left.flatten(1) @ core[0] if core else left.flatten(1)


def _of_lengths(layer: str, weight: Tensor, lengths: Tensor, name: str) -> Tensor:
    """A weight whose rows have these lengths, or its columns where LyCORIS has written them side by side."""
    by_columns = name == "dora_scale" and lengths.ndim > 1 and len(lengths) == 1 != len(weight)
    axis, sides = (1, "columns") if by_columns else (0, "rows")
    if lengths.numel() != weight.shape[axis]:
        raise ValueError(f"{layer} has {weight.shape[axis]} {sides}, and the DoRA {lengths.numel()} lengths")
    turned = weight.transpose(0, axis)
    rows = lengths.reshape(-1, 1) * normalize(turned.flatten(1), dim=1)
    return rows.view(turned.shape).transpose(0, axis)


def _strength(layer: str, rank: int, settings: dict[str, Any]) -> float:
    """alpha / rank as peft's settings tell it; 1 where they don't."""
    rank = rank or int(_of_layer(layer, settings, "rank_pattern", settings.get("r", 0)))
    alpha = _of_layer(layer, settings, "alpha_pattern", settings.get("lora_alpha", settings.get("alpha", rank)))
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank)) if rank else 1.0


def _of_layer(layer: str, settings: dict[str, Any], patterns_of: str, otherwise: float) -> float:
    """What the first of peft's patterns that fits a layer says of it."""
    patterns: dict[str, float] = settings.get(patterns_of) or {}
    wild = [name for name in patterns if not _LITERAL.fullmatch(name)]
    if len(wild) > _MOST_WILDCARDS or not all(map(_WILDCARDS.fullmatch, wild)):
        raise ValueError(f"its {patterns_of} holds more than names of layers with .* in them")
    for name, value in patterns.items():
        literal = name not in wild
        if f".{layer}".endswith(f".{name}") if literal else re.fullmatch(rf"(.*\.)?({name})", layer):
            return value
    return otherwise
