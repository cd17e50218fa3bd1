"""The kinds of object in the toybox, which stand as data in objects.yaml; its first lines say how to add one."""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import BOX, ELLIPSOID, FRUSTUM, PRISM, PYRAMID, TORUS, Primitive, place

_SHAPES = {"ball": ELLIPSOID, "rod": FRUSTUM, "box": BOX, "pyramid": PYRAMID, "prism": PRISM, "torus": TORUS}
_MATH = {"__builtins__": {}} | vars(math)  # what an expression in the place of a number may use
Solid = Mapping[str, Any]


class Kind(NamedTuple):
    """A kind of object."""

    solids: list[Solid]  # what it is made of
    default: dict[str, str] = {}  # what the colours "main" and "second" are where a thing names no second one
    front: bool = False  # whether it faces +x
    part: str = ""  # what the second colour paints, "" where the kind takes none; a trailing "s" makes it a plural
    natural: str = ""  # the main colour meant where a prompt names none, "" where it must
    synonym: str = ""  # another word for it, or ""
    scale: float = 1.0  # applied to its solids, so that it fits the radius


def _read() -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times faster, where PyYAML has it
    return yaml.load(Path(__file__).with_suffix(".yaml").read_text("utf-8"), loader)


_DATA = _read()
COLOURS, _TINTS = ({word: (r, g, b) for word, (r, g, b) in _DATA[name].items()} for name in ("colours", "tints"))
KINDS: dict[str, Kind] = {name: Kind(**entry) for name, entry in _DATA["kinds"].items()}
STACK_TOPS, STACK_BOTTOMS = tuple(_DATA["stack_tops"]), tuple(_DATA["stack_bottoms"])


def build(kind: str, main: Colour, second: Colour | None) -> list[Primitive]:
    """The primitives of one object, at its size."""
    entry, colours = KINDS[kind], _TINTS | {"main": main}
    colours |= {"second": second} if second else {word: colours[other] for word, other in entry.default.items()}
    primitives = [primitive for solid in entry.solids for primitive in _primitives(solid, colours)]
    return [p._replace(matrix=p.matrix * entry.scale) for p in primitives]


def stack(top: str, top_colour: Colour, bottom: str, bottom_colour: Colour) -> list[Primitive]:
    """One shape of STACK_TOPS standing on another of STACK_BOTTOMS."""
    below, above = _DATA["stack_bottoms"][bottom], _DATA["stack_tops"][top]
    return [
        *_primitives(below, {"main": bottom_colour}),
        *_primitives(above, {"main": top_colour}, level=below["level"]),
    ]


def _primitives(solid: Solid, colours: dict[str, Colour], **names: float) -> Iterator[Primitive]:
    """A solid of the file, once for each combination of the values of its `for`, and for each side where it has a ±."""
    loops = solid.get("for", {})
    for values in product(*loops.values()):
        for signs in ("+-", "-+") if "±" in str(solid) else ("+-",):
            yield _primitive(solid, colours, names | dict(zip(loops, values, strict=True)), signs)


def _primitive(solid: Solid, colours: dict[str, Colour], names: dict[str, float], signs: str) -> Primitive:
    """A solid of the file, where `names` have these values and ± and ∓ are these two signs."""

    def number(stated: float | str) -> float:
        return eval(stated.translate(str.maketrans("±∓", signs)), _MATH, names) if isinstance(stated, str) else stated

    def vector(stated: Any) -> tuple[float, float, float]:
        x, y, z = map(number, stated if isinstance(stated, list) else (stated,) * 3)
        return x, y, z

    shape, word = next(iter(solid.items()))
    colour, top = colours[word], solid.get("top", 1.0)
    if shape == "bar":
        return _bar(colour, vector(solid["from"]), vector(solid["to"]), solid["radius"], top)
    half, turn, param = vector(solid["size"]), vector(solid.get("turn", 0)), solid.get("tube", top)
    primitive = place(_SHAPES[shape], colour, vector(solid["at"]), half, turn, param, solid.get("open", False))
    if outer := solid.get("within"):
        frame = place(ELLIPSOID, colour, vector(outer["at"]), vector(outer["size"])).matrix
        return primitive._replace(matrix=frame[:, :3] @ primitive.matrix + frame * np.array([0, 0, 0, 1]))
    return primitive


def _bar(colour: Colour, start: tuple[float, ...], end: tuple[float, ...], radius: float, top: float) -> Primitive:
    """A rod from `start` to `end`; at the end its radius is `top` times that at the start."""
    dx, dy, dz = (e - s for s, e in zip(start, end, strict=True))
    length = math.hypot(dx, dy, dz)
    turn = (0.0, math.degrees(math.acos(dz / length)), math.degrees(math.atan2(dy, dx)))
    middle = (start[0] + dx / 2, start[1] + dy / 2, start[2] + dz / 2)
    return place(FRUSTUM, colour, middle, (radius, radius, length / 2), turn, top)
