"""From things of the toybox to captions, and from words back to things."""

import re
from collections.abc import Sequence
from typing import TypeVar

import torch

from asdkit.rendering.view_words import DREAMFUSION, EIGHT_SECTORS
from asdkit.toybox.materials import MATERIALS
from asdkit.toybox.things import COLOURS, KINDS, STACK_BOTTOMS, STACK_TOPS, Thing, article, describe

T = TypeVar("T")
VIEW_WORDS, OVERHEAD = EIGHT_SECTORS.sectors, EIGHT_SECTORS.overhead
_WORDINGS = ("a {}", "the {}", "{}", "a photo of a {}", "a picture of a {}", "a small {}", "a toy {}", "a little {}")
_FILLERS = frozenset({"a", "an", "the", "photo", "picture", "of", "small", "toy", "little"})


_NOUNS = {  # the kinds by their names and synonyms without filling words
    " ".join(word for word in name.split() if word not in _FILLERS): kind
    for kind, entry in KINDS.items()
    for name in (kind, entry.synonym)
    if name
}
_M, _C, _N = ("|".join(words) for words in (MATERIALS, COLOURS, _NOUNS))
_CAPTION = re.compile(  # what `parse` understands, without filling words
    f"(?:({_M}) )?(?:({_C})(?: and ({_C}))? )?(?:({_M}) )?({_N})(?: (with|on|on top) ({_C}) (.+))?"
)


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def choice(generator: torch.Generator, options: Sequence[T]) -> T:
    """One of the options, drawn evenly."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def usual_other(main: str) -> str:
    """The second colour meant where a striped, spotted or checkered thing names one colour: white; of white, black."""
    return "black" if main == "white" else "white"


def view_words(azimuth: float, elevation: float, ways: int = 8) -> str:
    """The words for a camera's place, in radians, in 8 `ways` (VIEW_WORDS) or in 4 (DreamFusion's)."""
    words = EIGHT_SECTORS if ways == 8 else DREAMFUSION
    place = (torch.tensor([angle], dtype=torch.float64) for angle in (azimuth, elevation))
    return words.all[int(words.index(*place))]


def caption(thing: Thing, azimuth: float, elevation: float, generator: torch.Generator) -> str:
    """A caption in free words: 75 % with eight view words, 10 % with four, 15 % with none; angles are in radians."""
    words = _free_words(thing, generator)
    wording = "a {}" if uniform(generator) < 0.5 else choice(generator, _WORDINGS)
    if wording.endswith("a {}"):
        wording = wording[: -len("a {}")] + article(words) + " {}"
    text, kind_of_suffix = wording.format(words), uniform(generator)
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
    return describe(thing, noun, on, colour=not nameless, other=not usual or uniform(generator) < 0.75)


def parse(prompt: str) -> Thing | None:
    """The thing a caption speaks of, in any of the wordings of `caption`; None if it is not of this world."""
    text, *suffixes = [piece.strip() for piece in prompt.lower().strip(" \t\n.!?\"'-#&").split(",")]
    match = _CAPTION.fullmatch(" ".join(word for word in text.split() if word not in _FILLERS))
    if match is None or any(suffix not in (*EIGHT_SECTORS.all, *DREAMFUSION.all) for suffix in suffixes):
        return None
    material, main, other, material_after, noun, joint, second, part = match.groups("")
    kind, base = _NOUNS[noun], ""
    if material and material_after or joint == "with" and part != KINDS[kind].part:
        return None
    material = material or material_after
    if joint.startswith("on"):
        base = _NOUNS.get(part, "")
        if material or kind not in STACK_TOPS or base not in STACK_BOTTOMS:
            return None
    two_coloured = bool(material) and MATERIALS[material].natural is None
    if not main and (not material or two_coloured):
        main = KINDS[kind].natural
    if two_coloured:
        other = other or usual_other(main)
    try:
        return Thing(kind, main, second or None, base, material, other or None)
    except ValueError:
        return None


def thing_of(prompt: str) -> Thing:
    """The thing a caption speaks of; a ValueError if it is not of this world."""
    if thing := parse(prompt):
        return thing
    raise ValueError(f"{prompt!r} is no thing of the toybox, such as 'a yellow duck'.")


def vocabulary() -> list[str]:
    """Every word that `caption` can use, sorted; the comma is not a word."""
    names = [*KINDS, *(entry.synonym for entry in KINDS.values()), *(entry.part for entry in KINDS.values())]
    phrases = [*_FILLERS, *COLOURS, *MATERIALS, *names, "with", "on", "top", "and", *VIEW_WORDS, OVERHEAD]
    return sorted({word for phrase in phrases for word in phrase.split()})
