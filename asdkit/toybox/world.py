"""The toybox: a procedural world of captioned, coloured 3D objects with ground truth from any camera.

A `Thing` is an object of this world. It has a canonical caption (`Thing.prompt`), free captions with view words
(`caption`), a way back from words (`parse`) and exact pictures, silhouettes and depths (`render`). About one
kind-colour composition in eight is held out: the training sampler never draws it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.rendering.cameras import Views, orbit
from asdkit.rendering.view_words import EIGHT_SECTORS
from asdkit.toybox.objects import KINDS, STACK_BOTTOMS, STACK_TOPS, build, stack
from asdkit.toybox.raycaster import Colour, Scene, pack, shade

T = TypeVar("T")
COLOURS: dict[str, Colour] = {
    "red": (0.85, 0.10, 0.09),
    "orange": (1.00, 0.48, 0.05),
    "yellow": (0.98, 0.84, 0.12),
    "green": (0.12, 0.58, 0.16),
    "turquoise": (0.12, 0.78, 0.78),
    "blue": (0.10, 0.20, 0.82),
    "purple": (0.50, 0.14, 0.70),
    "pink": (1.00, 0.50, 0.70),
    "brown": (0.36, 0.20, 0.11),
    "white": (0.95, 0.95, 0.95),
    "black": (0.12, 0.12, 0.13),
}
BACKGROUND: Colour = (0.85, 0.85, 0.85)

VIEW_WORDS, OVERHEAD = EIGHT_SECTORS.sectors, EIGHT_SECTORS.overhead
_SIDE = "side view"

_WORDINGS = (
    "a {}",
    "the {}",
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "a small {}",
    "a toy {}",
    "a little {}",
)
_FILLERS = frozenset({"a", "an", "the", "photo", "picture", "of", "small", "toy", "little"})
_NOUNS = {kind: kind for kind in KINDS} | {entry.synonym: kind for kind, entry in KINDS.items() if entry.synonym}


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Thing:
    """An object of the world: a kind with one or two colours, or one simple shape on another.

    Args:
        kind: a key of KINDS; of a stack, the top (one of STACK_TOPS).
        main: a key of COLOURS; of a stack, the top's colour.
        second: the colour of the kind's named part (None: the kind's default); of a stack, the bottom's colour.
        base: of a stack, the bottom (one of STACK_BOTTOMS); "" for anything else.
    """

    kind: str
    main: str
    second: str | None = None
    base: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not of this world."""
        if self.kind not in KINDS or self.main not in COLOURS or self.second not in (None, *COLOURS):
            raise ValueError(f"no such thing in the toybox: {self!r}")
        if self.base:
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
        words = _describe(self)
        return f"{_article(words)} {words}"

    @property
    def primitives(self) -> Scene:
        """Its geometry and colours, packed for the ray caster."""
        return _scene(self)


class Truth(NamedTuple):
    """Ground truth of B views: image in [0,1] over a background; alpha; depth (camera z of what is hit, else 0)."""

    image: Float[Tensor, "B 3 H W"]
    alpha: Float[Tensor, "B 1 H W"]
    depth: Float[Tensor, "B 1 H W"]


@lru_cache(maxsize=4096)
def _scene(thing: Thing) -> Scene:
    main = COLOURS[thing.main]
    if thing.base:
        return pack(stack(thing.kind, main, thing.base, COLOURS[thing.second]))
    return pack(build(thing.kind, main, COLOURS[thing.second] if thing.second else None))


def _describe(thing: Thing, noun: str = "", on: str = "on", colour: bool = True) -> str:
    words = f"{thing.main} {noun or thing.kind}" if colour else noun or thing.kind
    if thing.base:
        return f"{words} {on} {_article(thing.second)} {thing.second} {thing.base}"
    if thing.second is None:
        return words
    part = KINDS[thing.kind].part
    article = "" if part.endswith("s") else f"{_article(thing.second)} "
    return f"{words} with {article}{thing.second} {part}"


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _choice(generator: torch.Generator, options: Sequence[T]) -> T:
    return options[int(torch.randint(len(options), (), generator=generator))]


def view_words(azimuth: float, elevation: float, ways: int = 8) -> str:
    """The words for a camera's place.

    Args:
        azimuth: radians, any multiple of the turn.
        elevation: radians; above 60 degrees it is the overhead view whatever the azimuth.
        ways: 8 (VIEW_WORDS) or 4 (DreamFusion's front, side and back).
    """
    if ways not in (4, 8):
        raise ValueError(f"ways is 4 or 8, not {ways}")
    if math.degrees(elevation) > EIGHT_SECTORS.overhead_above_deg:
        return OVERHEAD
    sector = round(azimuth / (2 * math.pi / ways)) % ways
    return VIEW_WORDS[sector] if ways == 8 else ("front view", _SIDE, "back view", _SIDE)[sector]


def caption(thing: Thing, azimuth: float, elevation: float, generator: torch.Generator) -> str:
    """A caption in free words: 75 % with eight-way view words, 10 % with four-way ones, 15 % with none.

    Args:
        thing: what is seen.
        azimuth: of the camera, radians.
        elevation: of the camera, radians.
        generator: every draw comes from it.
    """
    entry = KINDS[thing.kind]
    noun = entry.synonym if entry.synonym and _uniform(generator) < 0.25 else thing.kind
    on = "on top of" if _uniform(generator) < 0.25 else "on"
    nameless = not thing.base and thing.main == entry.natural and _uniform(generator) < 0.2
    words = _describe(thing, noun, on, colour=not nameless)
    wording = "a {}" if _uniform(generator) < 0.5 else _choice(generator, _WORDINGS)
    if wording.endswith("a {}"):
        wording = wording[: -len("a {}")] + _article(words) + " {}"
    text = wording.format(words)
    kind_of_suffix = _uniform(generator)
    if kind_of_suffix < 0.15:
        return text
    return f"{text}, {view_words(azimuth, elevation, ways=4 if kind_of_suffix < 0.25 else 8)}"


def parse(prompt: str) -> Thing | None:
    """The thing a caption speaks of, in any of the wordings of `caption`; None if it is not of this world."""
    text, *suffixes = [piece.strip() for piece in prompt.lower().strip(" \t\n.!?\"'-#&").split(",")]
    if any(suffix not in (*VIEW_WORDS, OVERHEAD, _SIDE) for suffix in suffixes):
        return None
    words = [word for word in text.split() if word not in _FILLERS]
    coloured = bool(words) and words[0] in COLOURS
    main, words = (words[0], words[1:]) if coloured else ("", words)
    kind = _NOUNS.get(words[0]) if words else None
    if kind is None:
        return None
    entry, rest = KINDS[kind], words[1:]
    main = main or entry.natural
    if not main:
        return None
    if not rest:
        return Thing(kind, main)
    if rest[:2] == ["on", "top"]:
        rest = ["on", *rest[2:]]
    if len(rest) != 3 or rest[1] not in COLOURS:
        return None
    joint, second, noun = rest
    if joint == "with" and noun == entry.part:
        return Thing(kind, main, second)
    base = _NOUNS.get(noun)
    if joint == "on" and kind in STACK_TOPS and base in STACK_BOTTOMS:
        return Thing(kind, main, second, base)
    return None


def vocabulary() -> list[str]:
    """Every word that `caption` can use, sorted; the comma is not a word."""
    parts = [entry.part for entry in KINDS.values() if entry.part]
    phrases = [*_FILLERS, *COLOURS, *_NOUNS, *parts, "with", "on", "top", *VIEW_WORDS, OVERHEAD]
    return sorted({word for phrase in phrases for word in phrase.split()})


def is_held_out(thing: Thing) -> bool:
    """Whether training never sees this composition: of a kind, one or two main colours; of the stacks, one in eight.

    A kind's natural colour is never held out.
    """
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
def _things(held_out: bool | None) -> tuple[Thing, ...]:
    everything = []
    for kind, entry in KINDS.items():
        for main in COLOURS:
            seconds = [None, *(c for c in COLOURS if c != main)] if entry.part else [None]
            everything += [Thing(kind, main, second) for second in seconds]
    pairs = [(top, bottom) for top in STACK_TOPS for bottom in STACK_BOTTOMS if top != bottom]
    everything += [Thing(t, m, s, b) for t, b in pairs for m in COLOURS for s in COLOURS if m != s]
    return tuple(t for t in everything if held_out is None or is_held_out(t) == held_out)


def things(held_out: bool | None = None) -> list[Thing]:
    """Every thing of the world in a fixed order; only the held-out ones (True) or only the others (False)."""
    return list(_things(held_out))


@cache
def _pools(held_out: bool) -> tuple[dict[str, tuple[list[Thing], list[Thing]]], list[Thing]]:
    """By kind, its things of one colour and of two; and the stacks."""
    singles: dict[str, tuple[list[Thing], list[Thing]]] = {kind: ([], []) for kind in KINDS}
    stacks: list[Thing] = []
    for thing in _things(held_out):
        if thing.base:
            stacks.append(thing)
        else:
            singles[thing.kind][thing.second is not None].append(thing)
    return singles, stacks


def sample_thing(generator: torch.Generator, held_out: bool = False) -> Thing:
    """A random thing: 8 % stacks, else a kind (those with a front 1.5 times as often), 40 % of them in two colours.

    Args:
        generator: every draw comes from it.
        held_out: draw from the compositions that training never sees, instead of from the others.
    """
    singles, stacks = _pools(held_out)
    if _uniform(generator) < 0.08:
        return _choice(generator, stacks)
    weights = torch.tensor([1.5 if entry.front else 1.0 for entry in KINDS.values()])
    kind = list(KINDS)[int(torch.multinomial(weights, 1, generator=generator))]
    plain, two_coloured = singles[kind]
    return _choice(generator, two_coloured if two_coloured and _uniform(generator) < 0.4 else plain)


def sample_views(generator: torch.Generator, count: int, size: int = 64) -> Views:
    """Training cameras: any azimuth, elevation -10 to 60 degrees (10 %: 60 to 85), distance 3.2 to 3.6, fov 40 degrees.

    Args:
        generator: every draw comes from it.
        count: how many.
        size: height and width in pixels.
    """
    draws = torch.rand(4, count, generator=generator)
    elevation_deg = torch.where(draws[0] < 0.1, 60 + 25 * draws[1], -10 + 70 * draws[1])
    azimuth, distance = 2 * math.pi * draws[2], 3.2 + 0.4 * draws[3]
    return orbit(azimuth, elevation_deg.deg2rad(), distance, math.radians(40.0), size, size)


def sample_background(generator: torch.Generator) -> Colour:
    """A plain background: 80 % a grey of 0.5 to 1, 15 % such a grey with a faint tint, 5 % white.

    None is dark: classifier-free guidance turns even a small share of black ones into a third of the samples.
    """
    which, grey = _uniform(generator), _uniform(generator, 0.5, 1.0)
    if which < 0.05:
        return 1.0, 1.0, 1.0
    if which < 0.20:
        red, green, blue = (min(1.0, max(0.0, grey + _uniform(generator, -0.1, 0.1))) for _ in range(3))
        return red, green, blue
    return grey, grey, grey


def render(
    thing: Thing, views: Views, background: Colour | Float[Tensor, "B 3"] = BACKGROUND, supersample: int = 3
) -> Truth:
    """Ground truth of a thing from any camera, on the CPU.

    Args:
        thing: what is seen.
        views: B cameras.
        background: one colour in [0,1], or one per view [B,3].
        supersample: samples per pixel along each axis.

    Returns:
        Float32 tensors on the CPU; see `Truth`.
    """
    c2w, K = views.c2w.detach().cpu().double().numpy(), views.K.detach().cpu().double().numpy()
    on_black, alpha, depth = (
        torch.from_numpy(array) for array in shade(thing.primitives, c2w, K, views.height, views.width, supersample)
    )
    behind = torch.as_tensor(background, dtype=torch.float32, device="cpu").reshape(-1, 3, 1, 1)
    alpha = alpha[:, None]
    return Truth((on_black + (1 - alpha) * behind).clamp(0, 1), alpha, depth[:, None])
