"""The things of the toybox: a kind, its colours and its material, or one simple shape on another.

The kinds stand as data in objects.yaml, whose first lines say how to add one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import yaml

from asdkit.toybox.materials import MATERIALS, Colour, Texture, texture
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


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times faster, where PyYAML has it
_DATA: Any = yaml.load(Path(__file__).with_name("objects.yaml").read_text("utf-8"), _LOADER)
COLOURS, _TINTS = ({word: (r, g, b) for word, (r, g, b) in _DATA[name].items()} for name in ("colours", "tints"))
KINDS: dict[str, Kind] = {name: Kind(**entry) for name, entry in _DATA["kinds"].items()}
STACK_TOPS, STACK_BOTTOMS = tuple(_DATA["stack_tops"]), tuple(_DATA["stack_bottoms"])


def build(kind: str, main: Colour, second: Colour | None) -> list[Primitive]:
    """The primitives of one object, at its size."""
    entry, colours = KINDS[kind], _TINTS | {"main": main}
    colours |= {"second": second} if second else {word: colours[other] for word, other in entry.default.items()}
    placed = [primitive for solid in entry.solids for primitive in _primitives(solid, colours)]
    return [p._replace(matrix=p.matrix * entry.scale) for p in placed]


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

    def vector(stated: Any) -> np.ndarray:
        return np.array([number(each) for each in (stated if isinstance(stated, list) else (stated,) * 3)])

    shape, word = next(iter(solid.items()))
    colour, top = colours[word], solid.get("top", 1.0)
    if shape == "bar":
        return _bar(colour, vector(solid["from"]), vector(solid["to"]), solid["radius"], top)
    half, turn, param = vector(solid["size"]), vector(solid.get("turn", 0)), solid.get("tube", top)
    further = {"param": param, "open_top": solid.get("open", False)}
    primitive = place(_SHAPES[shape], colour, vector(solid["at"]), half, turn, **further)
    if outer := solid.get("within"):
        frame = place(ELLIPSOID, colour, vector(outer["at"]), vector(outer["size"])).matrix
        return primitive._replace(matrix=frame[:, :3] @ primitive.matrix + frame * np.array([0, 0, 0, 1]))
    return primitive


def _bar(colour: Colour, start: np.ndarray, end: np.ndarray, radius: float, top: float) -> Primitive:
    """A rod from `start` to `end`; at the end its radius is `top` times that at the start."""
    dx, dy, dz = end - start
    length = math.hypot(dx, dy, dz)
    turn = (0.0, math.degrees(math.acos(dz / length)), math.degrees(math.atan2(dy, dx)))
    return place(FRUSTUM, colour, (start + end) / 2, (radius, radius, length / 2), turn, param=top)


@dataclass(frozen=True)
class Thing:
    """An object of the world; a ValueError if there is none such."""

    kind: str  # a key of KINDS; of a stack, the top (one of STACK_TOPS)
    main: str  # a key of COLOURS, or "" where the material has a colour of its own; of a stack, the top's colour
    second: str | None = None  # the colour of the kind's named part, None for its default; of a stack, the bottom's
    base: str = ""  # of a stack, the bottom (one of STACK_BOTTOMS); "" for anything else
    material: str = ""  # a key of MATERIALS, or "" for plain
    other: str | None = None  # the second colour of a material of two colours

    def __post_init__(self) -> None:
        two_coloured = bool(self.material) and MATERIALS[self.material].natural is None
        if two_coloured != (self.other is not None) or self.other == self.main:
            raise ValueError(f"striped, spotted and checkered things alone have two different colours: {self!r}")
        if not self.main and (not self.material or two_coloured):
            raise ValueError(f"the colour is missing: {self!r}")

    @property
    def has_front(self) -> bool:
        """Whether it looks different from the front (+x) and from the back."""
        return not self.base and KINDS[self.kind].front

    @property
    def prompt(self) -> str:
        """The canonical caption: "a yellow house with a red roof", "a red and white striped ball"."""
        words = describe(self)
        return f"{article(words)} {words}"

    @property
    def colour(self) -> Colour:
        """Its main colour: the one that is named, or its material's own."""
        return COLOURS[self.main] if self.main else cast(Colour, MATERIALS[self.material].natural)

    def texture(self, instance: int = 0) -> Texture:
        """How one of its instances is painted; plain things have one look."""
        return texture(self.material, self.colour, COLOURS.get(self.other or ""), instance)


@lru_cache(maxsize=4096)
def primitives(thing: Thing) -> list[Primitive]:
    """Its geometry and colours."""
    if thing.base:
        below, above = _DATA["stack_bottoms"][thing.base], _DATA["stack_tops"][thing.kind]
        bottoms = _primitives(below, {"main": COLOURS[thing.second or ""]})
        return [*bottoms, *_primitives(above, {"main": thing.colour}, level=below["level"])]
    parts = build(thing.kind, thing.colour, COLOURS.get(thing.second or ""))
    return [part._replace(textured=bool(thing.material) and part.colour is thing.colour) for part in parts]


def article(words: str) -> str:
    """ "an" before a vowel, else "a"."""
    return "an" if words[0] in "aeiou" else "a"


def describe(thing: Thing, noun: str = "", on: str = "on", colour: bool = True, other: bool = True) -> str:
    """The words for a thing without an article; its `colour` and a material's `other` one are named or not."""
    colours = [thing.main if colour else "", f"and {thing.other}" if thing.other and other and colour else ""]
    words = " ".join(word for word in (*colours, thing.material, noun or thing.kind) if word)
    if thing.base:
        return f"{words} {on} {article(thing.second or '')} {thing.second} {thing.base}"
    if thing.second is None:
        return words
    part = KINDS[thing.kind].part
    before = "" if part.endswith("s") else f"{article(thing.second)} "
    return f"{words} with {before}{thing.second} {part}"


def is_held_out(thing: Thing) -> bool:
    """Whether training never sees this: a stack in eight, one or two colours of a kind, a material of every other."""
    colours = list(COLOURS)
    if thing.base:
        top, bottom = STACK_TOPS.index(thing.kind), STACK_BOTTOMS.index(thing.base)
        main, second = colours.index(thing.main), colours.index(thing.second or "")
        return (top + 3 * main + 3 * bottom + 5 * second) % 8 == 0
    row = list(KINDS).index(thing.kind)
    material = None if row % 2 else list(MATERIALS)[row // 2 % len(MATERIALS)]
    free = [colour for colour in colours if colour != KINDS[thing.kind].natural]
    places = (row + 8, row + 10) if row % 2 else (row + 8,)
    return thing.main in [free[place % len(free)] for place in places] or thing.material == material


@cache
def things(held_out: bool | None = None) -> tuple[Thing, ...]:
    """Every thing of the world in a fixed order; only the held-out ones (True) or only the others (False). Of a
    material none has a part in a colour of its own here, though captions know them.
    """
    everything = []
    for kind, entry in KINDS.items():
        for main in COLOURS:
            seconds = [None, *(c for c in COLOURS if c != main)] if entry.part else [None]
            everything += [Thing(kind, main, second) for second in seconds]
        for word, material in MATERIALS.items():
            if material.natural is None:
                everything += [Thing(kind, m, None, "", word, o) for m in COLOURS for o in COLOURS if m != o]
            else:
                everything += [Thing(kind, main, None, "", word) for main in ("", *COLOURS)]
    pairs = [(top, bottom) for top in STACK_TOPS for bottom in STACK_BOTTOMS if top != bottom]
    everything += [Thing(t, m, s, b) for t, b in pairs for m in COLOURS for s in COLOURS if m != s]
    return tuple(t for t in everything if held_out is None or is_held_out(t) == held_out)
