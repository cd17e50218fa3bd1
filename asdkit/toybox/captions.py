"""What the toybox's things are called: captions in free words, and the way back from words to a thing."""

import math
from collections.abc import Container

import torch

from asdkit.rendering.view_words import EIGHT_SECTORS
from asdkit.toybox.catalogue import COLOURS, Thing, article, describe
from asdkit.toybox.draws import choice, uniform
from asdkit.toybox.materials import MATERIALS
from asdkit.toybox.objects import KINDS

VIEW_WORDS = EIGHT_SECTORS.sectors


OVERHEAD = EIGHT_SECTORS.overhead


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


def _meaning(text: str) -> tuple[str, ...]:
    """The words of a text that tell things apart."""
    return tuple(word for word in text.split() if word not in _FILLERS)


_NOUNS = {_meaning(kind): kind for kind in KINDS} | {
    _meaning(entry.synonym): kind for kind, entry in KINDS.items() if entry.synonym
}


_LONGEST_NOUN = max(map(len, _NOUNS))


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
    noun = entry.synonym if entry.synonym and uniform(generator) < 0.25 else thing.kind
    on = "on top of" if uniform(generator) < 0.25 else "on"
    nameless = not thing.base and thing.main == entry.natural and uniform(generator) < 0.2
    words = describe(thing, noun, on, colour=not nameless)
    wording = "a {}" if uniform(generator) < 0.5 else choice(generator, _WORDINGS)
    if wording.endswith("a {}"):
        wording = wording[: -len("a {}")] + article(words) + " {}"
    text = wording.format(words)
    kind_of_suffix = uniform(generator)
    if kind_of_suffix < 0.15:
        return text
    return f"{text}, {view_words(azimuth, elevation, ways=4 if kind_of_suffix < 0.25 else 8)}"


def parse(prompt: str) -> Thing | None:
    """The thing a caption speaks of, in any of the wordings of `caption`; None if it is not of this world."""
    text, *suffixes = [piece.strip() for piece in prompt.lower().strip().rstrip(".").split(",")]
    if any(suffix not in (*VIEW_WORDS, OVERHEAD, _SIDE) for suffix in suffixes):
        return None
    words = list(_meaning(text))
    colours = _leading(words, COLOURS)
    if colours and words[:1] == ["and"]:
        del words[0]
        colours += _leading(words, COLOURS)
    material = "".join(_leading(words, MATERIALS))
    kind = _leading_noun(words)
    if kind is None or len(colours) > (2 if material else 1):
        return None
    try:
        if material:
            return None if words else Thing(kind, "".join(colours[:1]), *colours[1:], material=material)
        main = colours[0] if colours else KINDS[kind].natural
        return _with_second(kind, main, words) if words else Thing(kind, main)
    except ValueError:
        return None


def _leading(words: list[str], known: Container[str]) -> list[str]:
    """The first word in a list, where it is known; it is taken from `words`."""
    return [words.pop(0)] if words and words[0] in known else []


def _leading_noun(words: list[str]) -> str | None:
    """The kind that the first words name, the most words that do; they are taken from `words`."""
    for length in range(_LONGEST_NOUN, 0, -1):
        kind = _NOUNS.get(tuple(words[:length]))
        if kind is not None and len(words) >= length:
            del words[:length]
            return kind
    return None


def _with_second(kind: str, main: str, rest: list[str]) -> Thing | None:
    """A thing with a part of another colour, or one that stands on another: "with red roof", "on top blue cube"."""
    if rest[:2] == ["on", "top"]:
        rest = ["on", *rest[2:]]
    if len(rest) < 3 or rest[1] not in COLOURS:
        return None
    joint, second, noun = rest[0], rest[1], " ".join(rest[2:])
    if joint == "with" and noun == KINDS[kind].part:
        return Thing(kind, main, second)
    base = _NOUNS.get(tuple(rest[2:]), "")
    return Thing(kind, main, second, base) if joint == "on" and base else None


def vocabulary() -> list[str]:
    """Every word that `caption` can use, sorted; the comma is not a word."""
    parts = [entry.part for entry in KINDS.values() if entry.part]
    nouns = [*KINDS, *(entry.synonym for entry in KINDS.values())]
    phrases = [*_FILLERS, *COLOURS, *MATERIALS, *nouns, *parts, "and", "with", "on", "top", *VIEW_WORDS, OVERHEAD]
    return sorted({word for phrase in phrases for word in phrase.split()})
