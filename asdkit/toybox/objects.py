"""The kinds of object in the toybox, as objects.json lists them.

Objects are centred at the origin, stand along +z, fit within radius 0.95 and, where they have a front, face +x. A
kind's primitives are placed by centre and half size; one that is "mirrored" stands on both sides of the plane y = 0.
A colour is one of the palette, "main", "second", or three numbers; of two colours, the first counts where a thing names
no second one.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from asdkit.toybox.primitives import BOX, ELLIPSOID, FRUSTUM, PRISM, PYRAMID, TORUS, Colour, Primitive, place

_SHAPES = {
    "ellipsoid": ELLIPSOID,
    "frustum": FRUSTUM,
    "box": BOX,
    "pyramid": PYRAMID,
    "prism": PRISM,
    "torus": TORUS,
}


class Kind(NamedTuple):
    """A kind of object.

    Args:
        primitives: rows of objects.json.
        front: whether it faces +x.
        part: what the second colour paints, "" where the kind takes none; a trailing "s" makes it a plural.
        natural: the main colour meant where a prompt names none, "" where it must.
        synonym: another word for it, or "".
        scale: applied to all primitives, so that the object fits the radius.
        paint: what the natural colour looks like on this kind; None for the colour as it is on others.
    """

    primitives: list[dict[str, Any]]
    front: bool = False
    part: str = ""
    natural: str = ""
    synonym: str = ""
    scale: float = 1.0
    paint: Colour | None = None


_DATA = json.loads(Path(__file__).with_suffix(".json").read_text())
_PALETTE: dict[str, Colour] = {name: (*rgb,) for name, rgb in _DATA["palette"].items()}
KINDS: dict[str, Kind] = {
    name: Kind(**entry | {"paint": (*entry["paint"],) if "paint" in entry else None})
    for name, entry in _DATA["kinds"].items()
}
STACK_TOPS = ("cone", "pyramid", "ball", "cube", "ring")
STACK_BOTTOMS = ("cube", "cylinder", "ball")


def build(kind: str, main: Colour, second: Colour | None) -> list[Primitive]:
    """The primitives of one object, at its size."""
    entry = KINDS[kind]
    colours = _PALETTE | {"main": main} | ({"second": second} if second else {})
    primitives = []
    for row in entry.primitives:
        turn = row.get("turn", (0, 0, 0))
        for side in (1, -1) if row.get("mirrored") else (1,):
            centre = (row["centre"][0], side * row["centre"][1], row["centre"][2])
            primitive = place(
                _SHAPES[row["shape"]],
                _colour(row["colour"], colours, second is not None),
                centre,
                row["half"],
                (side * turn[0], turn[1], side * turn[2]),
                row.get("param", 1.0),
                row.get("open_top", False),
            )
            primitives.append(primitive._replace(matrix=primitive.matrix * entry.scale))
    return primitives


def _colour(words: Any, colours: dict[str, Colour], two: bool) -> Colour:
    """A primitive's colour; see the module."""
    if isinstance(words, str):
        return colours[words]
    if len(words) == 2:
        return _colour(words[two], colours, two)
    return words[0], words[1], words[2]


def stack(top: str, top_colour: Colour, bottom: str, bottom_colour: Colour) -> list[Primitive]:
    """One shape of STACK_TOPS standing on another of STACK_BOTTOMS."""
    below = {
        "cube": place(BOX, bottom_colour, (0, 0, -0.45), (0.39, 0.39, 0.39)),
        "cylinder": place(FRUSTUM, bottom_colour, (0, 0, -0.42), (0.36, 0.36, 0.42)),
        "ball": place(ELLIPSOID, bottom_colour, (0, 0, -0.40), (0.45, 0.45, 0.45)),
    }[bottom]
    level = {"cube": -0.06, "cylinder": 0.0, "ball": 0.03}[bottom]
    above = {
        "cone": place(FRUSTUM, top_colour, (0, 0, level + 0.42), (0.45, 0.45, 0.42), param=0.0),
        "pyramid": place(PYRAMID, top_colour, (0, 0, level + 0.38), (0.48, 0.48, 0.38)),
        "ball": place(ELLIPSOID, top_colour, (0, 0, level + 0.40), (0.40, 0.40, 0.40)),
        "cube": place(BOX, top_colour, (0, 0, level + 0.32), (0.32, 0.32, 0.32)),
        "ring": place(TORUS, top_colour, (0, 0, level + 0.13), (0.36, 0.36, 0.36), param=0.38),
    }[top]
    return [below, above]
