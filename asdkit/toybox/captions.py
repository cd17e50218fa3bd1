"""From things of the toybox to captions, and from words back to things."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from asdkit.rendering.view_words import DREAMFUSION, EIGHT_SECTORS
from asdkit.toybox.materials import MATERIALS
from asdkit.toybox.objects import KINDS, STACK_BOTTOMS, STACK_TOPS
from asdkit.toybox.things import COLOURS, Thing, article, describe

T = TypeVar("T")
VIEW_WORDS, OVERHEAD = EIGHT_SECTORS.sectors, EIGHT_SECTORS.overhead
USUAL_OTHER = "white"  # the second colour meant where a striped, spotted or checkered thing names one; else black
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


def _nouns() -> dict[tuple[str, ...], str]:
    """The kinds by their words, as `parse` sees them."""
    names = {kind: kind for kind in KINDS} | {entry.synonym: kind for kind, entry in KINDS.items() if entry.synonym}
    return {tuple(w for w in name.split() if w not in _FILLERS): kind for name, kind in names.items()}


_NOUNS = _nouns()


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def choice(generator: torch.Generator, options: Sequence[T]) -> T:
    """One of the options, drawn evenly."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def usual_other(main: str) -> str:
    """The second colour meant where a striped, spotted or checkered thing names one colour: white; of white, black."""
    return "black" if main == USUAL_OTHER else USUAL_OTHER


def view_words(azimuth: float, elevation: float, ways: int = 8) -> str:
    """The words for a camera's place, in radians, in 8 `ways` (VIEW_WORDS) or in 4 (DreamFusion's)."""
    words = EIGHT_SECTORS if ways == 8 else DREAMFUSION
    place = (torch.tensor(angle, dtype=torch.float64) for angle in (azimuth, elevation))
    return words.all[words.index(*place)]


def caption(thing: Thing, azimuth: float, elevation: float, generator: torch.Generator) -> str:
    """A caption in free words: 75 % with eight-way view words, 10 % with four-way ones, 15 % with none.

    Azimuth and elevation of the camera are in radians; every draw comes from the generator.
    """
    text = _worded(_free_words(thing, generator), generator)
    kind_of_suffix = uniform(generator)
    if kind_of_suffix < 0.15:
        return text
    return f"{text}, {view_words(azimuth, elevation, ways=4 if kind_of_suffix < 0.25 else 8)}"


def _free_words(thing: Thing, generator: torch.Generator) -> str:
    entry = KINDS[thing.kind]
    noun = entry.synonym if entry.synonym and uniform(generator) < 0.25 else thing.kind
    on = "on top of" if uniform(generator) < 0.25 else "on"
    usual = thing.other is None or thing.other == usual_other(thing.main)
    own_colour = bool(thing.material) and thing.other is None  # "a marble fish" is white, not orange
    nameless = thing.main == entry.natural and usual and not (thing.base or own_colour) and uniform(generator) < 0.2
    other = not usual or uniform(generator) < 0.75
    return describe(thing, noun, on, colour=not nameless, other=other)


def _worded(words: str, generator: torch.Generator) -> str:
    wording = "a {}" if uniform(generator) < 0.5 else choice(generator, _WORDINGS)
    if wording.endswith("a {}"):
        wording = wording[: -len("a {}")] + article(words) + " {}"
    return wording.format(words)


def parse(prompt: str) -> Thing | None:
    """The thing a caption speaks of, in any of the wordings of `caption`; None if it is not of this world."""
    text, *suffixes = [piece.strip() for piece in prompt.lower().strip(" \t\n.!?\"'-#&").split(",")]
    if any(suffix not in (*EIGHT_SECTORS.all, *DREAMFUSION.all) for suffix in suffixes):
        return None
    adjectives, words = _adjectives([word for word in text.split() if word not in _FILLERS])
    kind, rest = _noun(words)
    if not kind or adjectives is None:
        return None
    main, other, material = adjectives
    two_coloured = bool(material) and MATERIALS[material].natural is None
    if not main and (not material or two_coloured):
        main = KINDS[kind].natural
    if two_coloured:
        other = other or usual_other(main)
    try:
        return _with_parts(Thing(kind, main, None, "", material, other or None), rest)
    except ValueError:
        return None


def thing_of(prompt: str) -> Thing:
    """The thing a caption speaks of; a ValueError if it is not of this world."""
    if thing := parse(prompt):
        return thing
    raise ValueError(f"{prompt!r} is no thing of the toybox, such as 'a yellow duck'.")


def _with_parts(thing: Thing, rest: list[str]) -> Thing | None:
    """The thing with what follows its noun: "with a red roof", "on a blue cube"."""
    if not rest:
        return thing
    if rest[:2] == ["on", "top"]:
        rest = ["on", *rest[2:]]
    if len(rest) != 3 or rest[1] not in COLOURS:
        return None
    joint, second, noun = rest
    if joint == "with" and noun == KINDS[thing.kind].part:
        return Thing(thing.kind, thing.main, second, "", thing.material, thing.other)
    base = _NOUNS.get((noun,))
    if joint == "on" and base and thing.kind in STACK_TOPS and base in STACK_BOTTOMS and not thing.material:
        return Thing(thing.kind, thing.main, second, base)
    return None


def _adjectives(words: list[str]) -> tuple[tuple[str, str, str] | None, list[str]]:
    """(main, other, material), "" where it isn't named, and the words after them; None where they make no sense."""
    colours, materials, count = [], [], 0
    while count < len(words) and (words[count] in COLOURS or words[count] in MATERIALS or words[count] == "and"):
        word, count = words[count], count + 1
        if word in COLOURS:
            colours.append(word)
        elif word in MATERIALS:
            materials.append(word)
    joined = words[:count].count("and")
    if len(colours) > 2 or len(materials) > 1 or joined != (len(colours) == 2):
        return None, words
    main, other = [*colours, "", ""][:2]
    return (main, other, [*materials, ""][0]), words[count:]


def _noun(words: list[str]) -> tuple[str, list[str]]:
    """The kind whose words come first (the longest name wins), "" if there is none, and the words after it."""
    for length in (3, 2, 1):
        kind = _NOUNS.get(tuple(words[:length]))
        if kind and len(words) >= length:
            return kind, words[length:]
    return "", words


def vocabulary() -> list[str]:
    """Every word that `caption` can use, sorted; the comma is not a word."""
    names = [*KINDS, *(entry.synonym for entry in KINDS.values()), *(entry.part for entry in KINDS.values())]
    phrases = [*_FILLERS, *COLOURS, *MATERIALS, *names, "with", "on", "top", "and", *VIEW_WORDS, OVERHEAD]
    return sorted({word for phrase in phrases for word in phrase.split()})
