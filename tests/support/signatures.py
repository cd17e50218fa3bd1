"""The table that answers about options without torch, made from the signatures: `make signatures` writes it.

It also writes the page of the methods.
"""

import inspect
import json
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import pytorch_lightning as pl
from support.exact import B, Brightness, bent, draw, exact_prior, ready

import asdkit
from asdkit.commands.fit import _GROUPS
from asdkit.core.bounds import Within
from asdkit.core.names import PUBLIC_NAMES

FILE = Path(asdkit.__file__).parent / "commands" / "signatures.json"
PUBLIC = {name: getattr(asdkit, name) for name in PUBLIC_NAMES}
KIND = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table", list: "a list"}


def table() -> dict[str, Any]:
    """By name the public classes, the groups of options, and `fit`, which has them all."""
    described = {name: entry(target) for name, target in {**PUBLIC, "Trainer": pl.Trainer}.items()}
    described |= {group.__name__: entry(group) for group in _GROUPS.values()}
    modules = {"model": pl.LightningModule, "data": pl.LightningDataModule}
    top = {name: {"about": "", "takes": "", "parts": parts_of(kind)} for name, kind in modules.items()}
    for name, group in {"trainer": pl.Trainer, **_GROUPS}.items():
        about = (inspect.getdoc(group) or "").partition("\n")[0]
        top[name] = {"about": about, "takes": "", "group": group.__name__}
    for name in ("config", "ckpt_path", "seed_everything", "print_config", "help"):
        top[name] = {"about": "", "takes": "a text"}
    for name in methods():
        described[name]["cost"] = cost(PUBLIC[name])
    return {"fit": {"about": "", "options": top}, **described}


def entry(target: Any) -> dict[str, Any]:
    """What a class or a preset is, and its options."""
    function = target.__init__ if isinstance(target, type) else target
    function = inspect.unwrap(function)
    parsed = docstring_parser.parse(inspect.getdoc(target) or "")
    abouts, hints = {}, {}
    if target is not pl.Trainer:
        abouts = {piece.arg_name: " ".join((piece.description or "").split()) for piece in parsed.params}
        hints = get_type_hints(function, include_extras=True)
    options = {
        name: option(parameter, hints.get(name), abouts.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return {"about": paragraph(target), "options": options}


def option(parameter: inspect.Parameter, hint: Any, about: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"about": about, "takes": ", or ".join(dict.fromkeys(kinds(hint)))}
    stated = [piece for piece in pieces(hint) if isinstance(piece, Within)]
    if stated:
        facts["takes"] += f" {stated[0]}"
    if group := next((piece for piece in pieces(hint) if isinstance(piece, type) and is_dataclass(piece)), None):
        facts["group"] = group.__name__
    elif parts := [name for piece in pieces(hint) if isinstance(piece, type) for name in parts_of(piece)]:
        facts["parts"] = parts
    if parameter.default is not parameter.empty and "group" not in facts:
        facts["default"] = parameter.default
    return facts


def pieces(hint: Any) -> Iterator[Any]:
    yield hint
    for piece in get_args(hint):
        yield from pieces(piece)


def kinds(hint: Any) -> Iterator[str]:
    """What an option takes besides parts, in words."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from kinds(get_args(hint)[0])
    elif origin is Literal:
        yield from map(str, get_args(hint))
    elif origin is dict:
        yield "words by name"
    elif origin is not None and isinstance(origin, type) and issubclass(origin, typing.Iterable):
        yield "a list"
    elif origin is not None:
        for piece in get_args(hint):
            yield from kinds(piece)
    elif hint in KIND:
        yield KIND[hint]


def parts_of(kind: Any) -> list[str]:
    """The public names that stand where a class is asked for: it, those that derive from it, presets that make one."""
    if kind.__module__.split(".")[0] not in ("asdkit", "pytorch_lightning"):
        return []
    made = {name: target for name, target in PUBLIC.items() if not inspect.isabstract(target)}
    made |= {name: get_type_hints(target)["return"] for name, target in made.items() if inspect.isfunction(target)}
    return [name for name, result in made.items() if issubclass(result, kind)]


def paragraph(target: Any) -> str:
    """The first paragraph of a docstring, in a line."""
    return " ".join((inspect.getdoc(target) or "").partition("\n\n")[0].split())


def methods() -> list[str]:
    return [name for name, module in PUBLIC_NAMES.items() if module == "asdkit.methods"]


def cost(method: Any) -> dict[str, Any]:
    """Of a step and a view: what goes through the network, in how many calls, and whether phi learns from it."""
    asked = inspect.signature(method).parameters
    real = {"real_samples": asdkit.SourceImage()} if "loss" in asked else {}  # the prior's are drawn once, before
    small = {"source": "ugly", "scorer": Brightness()} | real
    own = {name: value for name, value in small.items() if name in asked}
    own |= {"negative": "ugly"} if method in (asdkit.CSD, asdkit.NFSD) else {}  # whose own the closed form lacks
    own |= {name: bent() for name in asked if name.endswith("adapter")}
    prior, rows = exact_prior(), []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) / B))
    field, x = ready(method(**own), prior), draw(prior)
    field(x)
    learns = field.loss(x) is not None
    return {"rows": int(sum(rows)), "calls": len(rows), "learns": learns}


def written() -> str:
    """The table as JSON, an option in a line."""
    names = []
    for name, facts in table().items():
        options = ",\n".join(f" {json.dumps(key)}: {json.dumps(about)}" for key, about in facts.pop("options").items())
        names.append(f'{json.dumps(name)}: {json.dumps(facts)[:-1]}, "options": {{\n{options}}}}}')
    return "{" + ",\n".join(names) + "}\n"


if __name__ == "__main__":
    FILE.write_text(written())
    from support import methods_page  # which reads that table

    methods_page.FILE.write_text(methods_page.page())
