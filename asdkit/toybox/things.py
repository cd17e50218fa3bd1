"""The things of the toybox: a kind, its colours and its material, or one simple shape on another."""

from dataclasses import dataclass
from functools import cache, lru_cache

from asdkit.toybox.materials import MATERIALS, Colour, Texture, texture
from asdkit.toybox.objects import COLOURS, KINDS, STACK_BOTTOMS, STACK_TOPS, build, stack
from asdkit.toybox.raycaster import Scene, pack


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
    def primitives(self) -> Scene:
        """Its geometry and colours, packed for the ray caster."""
        return _scene(self)

    @property
    def colour(self) -> Colour:
        """Its main colour: the one that is named, or its material's own."""
        colour = COLOURS[self.main] if self.main else MATERIALS[self.material].natural
        assert colour is not None
        return colour

    def texture(self, instance: int = 0) -> Texture:
        """How one of its instances is painted; plain things have one look."""
        return texture(self.material, self.colour, COLOURS.get(self.other or ""), instance)


@lru_cache(maxsize=4096)
def _scene(thing: Thing) -> Scene:
    if thing.base:
        return pack(stack(thing.kind, thing.colour, thing.base, COLOURS[thing.second or ""]))
    parts = build(thing.kind, thing.colour, COLOURS.get(thing.second or ""))
    return pack([part._replace(textured=bool(thing.material) and part.colour is thing.colour) for part in parts])


def article(words: str) -> str:
    """ "an" before a vowel, else "a"."""
    return "an" if words[0] in "aeiou" else "a"


def describe(thing: Thing, noun: str = "", on: str = "on", colour: bool = True, other: bool = True) -> str:
    """The words for a thing without an article, with another `noun` for its kind, or other words for `on` in a stack.

    The main `colour` and a material's `other` one are named or not.
    """
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
    """Whether training never sees this composition.

    Of a kind, one or two main colours; of every other kind, a material; of the stacks, one in eight. A kind's natural
    colour is never held out.
    """
    colours = list(COLOURS)
    if thing.base:
        top, bottom = STACK_TOPS.index(thing.kind), STACK_BOTTOMS.index(thing.base)
        main, second = colours.index(thing.main), colours.index(thing.second or "")
        return (top + 3 * main + 3 * bottom + 5 * second) % 8 == 0
    row = list(KINDS).index(thing.kind)
    material = None if row % 2 else list(MATERIALS)[row // 2 % len(MATERIALS)]
    return thing.main in _held_out_colours(row, KINDS[thing.kind].natural) or thing.material == material


@cache
def _held_out_colours(row: int, natural: str) -> tuple[str, ...]:
    free = [colour for colour in COLOURS if colour != natural]
    first, second = free[(row + 8) % len(free)], free[(row + 10) % len(free)]
    return (first, second) if row % 2 else (first,)


@cache
def things(held_out: bool | None = None) -> tuple[Thing, ...]:
    """Every thing of the world in a fixed order; only the held-out ones (True) or only the others (False).

    Things of a material have no part in a colour of its own here, though captions know them.
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
