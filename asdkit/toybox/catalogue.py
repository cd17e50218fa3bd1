"""The things of the toybox: kinds with colours and materials, and which of their compositions are held out."""

from dataclasses import dataclass
from functools import cache

from asdkit.toybox.materials import MATERIALS, Colour
from asdkit.toybox.objects import KINDS, STACK_BOTTOMS, STACK_TOPS

COLOURS: dict[str, Colour] = {
    "red": (0.85, 0.10, 0.09),
    "orange": (1.00, 0.48, 0.05),
    "yellow": (0.98, 0.84, 0.12),
    "green": (0.12, 0.58, 0.16),
    "turquoise": (0.12, 0.78, 0.78),
    "blue": (0.10, 0.20, 0.82),
    "purple": (0.50, 0.14, 0.70),
    "pink": (1.00, 0.50, 0.70),
    "brown": (0.42, 0.24, 0.13),
    "white": (0.95, 0.95, 0.95),
    "black": (0.12, 0.12, 0.13),
}


def article(words: str) -> str:
    """The indefinite article of a phrase."""
    return "an" if words[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Thing:
    """An object of the world: a kind with one or two colours or of a material, or one simple shape on another.

    Args:
        kind: a key of KINDS; of a stack, the top (one of STACK_TOPS).
        main: a key of COLOURS, or "" for a material's natural colour; of a stack, the top's colour.
        second: the colour of the kind's named part (None: the kind's default); of a stack, the bottom's colour; of a
            material, the other colour of its pattern (None: white, or black on white).
        base: of a stack, the bottom (one of STACK_BOTTOMS); "" for anything else.
        material: a key of MATERIALS; "" for a plain thing.
    """

    kind: str
    main: str
    second: str | None = None
    base: str = ""
    material: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not of this world."""
        material = MATERIALS.get(self.material)
        unpainted = self.main == "" and material is not None and material.natural is not None
        if self.kind not in KINDS or not (self.main in COLOURS or unpainted) or self.second not in (None, *COLOURS):
            raise ValueError(f"no such thing in the toybox: {self!r}")
        if material is not None:
            if self.base or (self.second and not material.two_colours):
                raise ValueError(f"no such material in the toybox: {self!r}")
        elif self.material:
            raise ValueError(f"the toybox has no material {self.material!r}; it has {', '.join(MATERIALS)}.")
        elif self.base:
            if self.kind not in STACK_TOPS or self.base not in STACK_BOTTOMS or self.second is None:
                raise ValueError(f"not a stack of the toybox: {self!r}")
        elif self.second is not None and not KINDS[self.kind].part:
            raise ValueError(f"a {self.kind} has no second colour")

    @property
    def has_front(self) -> bool:
        """Whether it looks different from the front (+x) and from the back."""
        return not self.base and KINDS[self.kind].front

    @property
    def prompt(self) -> str:
        """The canonical caption: "a yellow house with a red roof"."""
        words = describe(self)
        return f"{article(words)} {words}"


def describe(thing: Thing, noun: str = "", on: str = "on", colour: bool = True) -> str:
    """A thing in words without an article, with another noun for its kind or without its colour where that is asked."""
    if thing.material:
        colours = f"{thing.main} and {thing.second}" if thing.second else thing.main
        return " ".join(filter(None, [colours, thing.material, noun or thing.kind]))
    words = f"{thing.main} {noun or thing.kind}" if colour else noun or thing.kind
    if thing.base:
        return f"{words} {on} {article(thing.second)} {thing.second} {thing.base}"
    if thing.second is None:
        return words
    part = KINDS[thing.kind].part
    before = "" if part.endswith("s") else f"{article(thing.second)} "
    return f"{words} with {before}{thing.second} {part}"


def is_held_out(thing: Thing) -> bool:
    """Whether training never sees this composition: of a kind, one or two main colours and one material; of the stacks,
    one in eight.

    A kind's natural colour is never held out.
    """
    if thing.material:
        return (list(KINDS).index(thing.kind) + list(MATERIALS).index(thing.material)) % len(MATERIALS) == 0
    colours = list(COLOURS)
    main = colours.index(thing.main)
    if thing.base:
        top, bottom = STACK_TOPS.index(thing.kind), STACK_BOTTOMS.index(thing.base)
        return (top + 3 * main + 3 * bottom + 5 * colours.index(thing.second)) % 8 == 0
    row = list(KINDS).index(thing.kind)
    return thing.main in _held_out_colours(row, KINDS[thing.kind].natural)


@cache
def _held_out_colours(row: int, natural: str) -> tuple[str, ...]:
    free = [colour for colour in COLOURS if colour != natural]
    first, second = free[(row + 8) % len(free)], free[(row + 10) % len(free)]
    return (first, second) if row % 2 else (first,)


@cache
def all_things(held_out: bool | None) -> tuple[Thing, ...]:
    """Every thing in a fixed order; see `things`."""
    everything = []
    for kind, entry in KINDS.items():
        for main in COLOURS:
            seconds = [None, *(c for c in COLOURS if c != main)] if entry.part else [None]
            everything += [Thing(kind, main, second) for second in seconds]
        for name in MATERIALS:
            everything += [Thing(kind, *colours, material=name) for colours in pattern_colours(name)]
    pairs = [(top, bottom) for top in STACK_TOPS for bottom in STACK_BOTTOMS if top != bottom]
    everything += [Thing(t, m, s, b) for t, b in pairs for m in COLOURS for s in COLOURS if m != s]
    return tuple(t for t in everything if held_out is None or is_held_out(t) == held_out)


@cache
def pattern_colours(material: str) -> tuple[tuple[str, str | None], ...]:
    """The colours that a material may have: (main, second)."""
    entry = MATERIALS[material]
    mains: list[tuple[str, str | None]] = [("", None)] if entry.natural else []
    mains += [(main, None) for main in COLOURS]
    pairs = [(main, second) for main in COLOURS for second in COLOURS if main != second]
    return (*mains, *pairs) if entry.two_colours else tuple(mains)


def things(held_out: bool | None = None) -> list[Thing]:
    """Every thing of the world in a fixed order; only the held-out ones (True) or only the others (False)."""
    return list(all_things(held_out))
