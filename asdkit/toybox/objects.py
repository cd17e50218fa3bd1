"""The kinds of object in the toybox: each a short function from its colours to primitives.

Objects are centred at the origin, stand along +z, fit within radius 0.95 and, where they have a front, face +x.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from asdkit.toybox.raycaster import BOX, ELLIPSOID, FRUSTUM, PRISM, PYRAMID, TORUS, Colour, Primitive, place

Vec = tuple[float, float, float]

BLACK, DARK, GREY, STEEL = (0.07, 0.07, 0.08), (0.16, 0.16, 0.18), (0.50, 0.50, 0.53), (0.70, 0.72, 0.76)
WHITE, CREAM, WOOD, BRICK = (0.97, 0.97, 0.97), (0.93, 0.86, 0.70), (0.40, 0.24, 0.12), (0.62, 0.26, 0.16)
GLASS, ORANGE, LAMP_YELLOW, PINK = (0.55, 0.82, 0.98), (1.0, 0.50, 0.08), (1.0, 0.90, 0.35), (0.98, 0.62, 0.68)
RED = (0.90, 0.12, 0.10)


def _ball(colour: Colour, centre: Vec, half: Vec | float, turn: Vec = (0, 0, 0)) -> Primitive:
    return place(ELLIPSOID, colour, centre, half if isinstance(half, tuple) else (half, half, half), turn)


def _box(colour: Colour, centre: Vec, half: Vec, turn: Vec = (0, 0, 0)) -> Primitive:
    return place(BOX, colour, centre, half, turn)


def _rod(colour: Colour, centre: Vec, radius: float, half: float, turn: Vec = (0, 0, 0), top: float = 1.0) -> Primitive:
    """A cylinder (top 1), a frustum or a cone (top 0) along z before it is turned."""
    return place(FRUSTUM, colour, centre, (radius, radius, half), turn, top)


def _pair(make: Callable[[float], Primitive]) -> list[Primitive]:
    """What `make` returns for the left side (+1) and for the right side (-1)."""
    return [make(1.0), make(-1.0)]


def mushroom(main: Colour, second: Colour | None) -> list[Primitive]:
    stalk, cap = (CREAM, main) if second is None else (main, second)
    dome = place(ELLIPSOID, cap, (0, 0, 0.25), (0.80, 0.80, 0.48))
    return [dome, _rod(stalk, (0, 0, -0.36), 0.27, 0.50, top=0.75)]


def tree(main: Colour, second: Colour | None) -> list[Primitive]:
    blobs = [(0.0, 0.0, 0.50, 0.43), (0.30, 0.0, 0.18, 0.38), (-0.16, 0.27, 0.18, 0.38), (-0.16, -0.27, 0.18, 0.38)]
    return [_rod(second or WOOD, (0, 0, -0.50), 0.16, 0.44)] + [_ball(main, (x, y, z), r) for x, y, z, r in blobs]


def table(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [_box(second or main, (x, y, -0.15), (0.07, 0.07, 0.40)) for x in (-0.43, 0.43) for y in (-0.55, 0.55)]
    return [_box(main, (0, 0, 0.30), (0.56, 0.70, 0.08)), *legs]


def lamp(main: Colour, second: Colour | None) -> list[Primitive]:
    stand = second or WOOD
    shade = _rod(main, (0, 0, 0.45), 0.58, 0.36, top=0.5)
    return [shade, _rod(stand, (0, 0, -0.35), 0.08, 0.48), _rod(stand, (0, 0, -0.78), 0.40, 0.07)]


def house(main: Colour, second: Colour | None) -> list[Primitive]:
    front = 0.56
    windows = _pair(lambda s: _box(GLASS, (front, 0.34 * s, -0.05), (0.02, 0.12, 0.13)))
    return [
        _box(main, (0, 0, -0.22), (0.55, 0.55, 0.40)),
        place(PRISM, second or BRICK, (0, 0, 0.46), (0.64, 0.68, 0.28)),
        _box(WOOD, (front, 0, -0.36), (0.03, 0.14, 0.26)),
        _box(GREY, (-0.32, -0.32, 0.58), (0.10, 0.10, 0.26)),
        *windows,
    ]


def chair(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [_box(main, (x, y, -0.50), (0.07, 0.07, 0.38)) for x in (-0.33, 0.33) for y in (-0.33, 0.33)]
    back = _box(main, (-0.34, 0, 0.40), (0.07, 0.42, 0.48))
    return [_box(second or main, (0, 0, -0.08), (0.42, 0.42, 0.08)), back, *legs]


def mug(main: Colour, second: Colour | None) -> list[Primitive]:
    x = -0.12
    return [
        place(FRUSTUM, main, (x, 0, 0), (0.50, 0.50, 0.60), open_top=True),
        place(FRUSTUM, second or main, (x, 0, 0.04), (0.42, 0.42, 0.56), open_top=True),
        place(TORUS, main, (x, 0, 0.60), (0.46, 0.46, 0.46), param=0.092),
        place(TORUS, main, (x + 0.54, 0, 0), (0.32, 0.32, 0.34), (90, 0, 0), param=0.27),
    ]


def rocket(main: Colour, second: Colour | None) -> list[Primitive]:
    accent = second or RED
    fins = []
    for angle in (0, 90, 180, 270):
        x, y = 0.40 * math.cos(math.radians(angle)), 0.40 * math.sin(math.radians(angle))
        fins.append(_box(accent, (x, y, -0.55), (0.17, 0.05, 0.22), (0, 0, angle)))
    return [
        _rod(main, (0, 0, -0.08), 0.32, 0.56),
        _rod(accent, (0, 0, 0.69), 0.33, 0.24, top=0.0),
        _rod(DARK, (0, 0, -0.72), 0.20, 0.10, top=1.2),
        _rod(STEEL, (0.27, 0, 0.16), 0.22, 0.08, (0, 90, 0)),
        _ball(GLASS, (0.30, 0, 0.16), (0.12, 0.17, 0.17)),
        _box(DARK, (0.31, 0, -0.36), (0.04, 0.11, 0.20)),
        *fins,
    ]


def fish(main: Colour, second: Colour | None) -> list[Primitive]:
    fin = second or main
    return [
        _ball(main, (0.14, 0, 0), (0.62, 0.30, 0.40)),
        place(PYRAMID, fin, (-0.58, 0, 0), (0.34, 0.05, 0.30), (0, 90, 0)),
        place(PRISM, fin, (0.06, 0, 0.44), (0.04, 0.30, 0.20), (0, 0, 90)),
        _ball(RED, (0.74, 0, -0.08), (0.06, 0.15, 0.06)),
        *_pair(lambda s: _ball(fin, (0.08, 0.33 * s, -0.12), (0.18, 0.06, 0.10), (0, 25, -25 * s))),
        *_pair(lambda s: _ball(WHITE, (0.50, 0.19 * s, 0.12), 0.12)),
        *_pair(lambda s: _ball(BLACK, (0.57, 0.24 * s, 0.13), 0.075)),
    ]


def car(main: Colour, second: Colour | None) -> list[Primitive]:
    wheels = [_rod(BLACK, (x, 0.40 * s, -0.26), 0.20, 0.08, (90, 0, 0)) for x in (-0.48, 0.48) for s in (1, -1)]
    return [
        _box(main, (0, 0, -0.10), (0.88, 0.40, 0.17)),
        _box(second or main, (-0.18, 0, 0.29), (0.46, 0.36, 0.04)),
        _box(GLASS, (-0.18, 0, 0.16), (0.44, 0.345, 0.10)),
        _box(main, (-0.20, 0, 0.16), (0.05, 0.36, 0.10)),
        _box(main, (-0.62, 0, 0.16), (0.06, 0.36, 0.14)),
        _box(STEEL, (0.87, 0, -0.18), (0.04, 0.36, 0.06)),
        *_pair(lambda s: _ball(LAMP_YELLOW, (0.87, 0.27 * s, -0.03), (0.06, 0.10, 0.10))),
        *_pair(lambda s: _box(RED, (-0.88, 0.30 * s, -0.04), (0.02, 0.07, 0.06))),
        *wheels,
    ]


def duck(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        _ball(main, (-0.12, 0, -0.26), (0.60, 0.42, 0.36)),
        _ball(main, (0.32, 0, 0.34), 0.33),
        _rod(main, (-0.68, 0, -0.02), 0.20, 0.24, (0, -50, 0), 0.0),
        _ball(second or ORANGE, (0.68, 0, 0.27), (0.22, 0.16, 0.08)),
        *_pair(lambda s: _ball(BLACK, (0.55, 0.19 * s, 0.44), 0.075)),
        *_pair(lambda s: _ball(main, (-0.20, 0.40 * s, -0.20), (0.32, 0.08, 0.20), (0, 15, 0))),
    ]


def snowman(main: Colour, second: Colour | None) -> list[Primitive]:
    hat = second or BLACK
    buttons = [_ball(BLACK, (x, 0, z), 0.065) for x, z in ((0.31, 0.10), (0.33, -0.08))]
    return [
        _ball(main, (0, 0, -0.53), 0.42),
        _ball(main, (0, 0, 0.03), 0.33),
        _ball(main, (0, 0, 0.44), 0.25),
        _rod(hat, (0, 0, 0.64), 0.32, 0.03),
        _rod(hat, (0, 0, 0.80), 0.20, 0.15),
        _rod(ORANGE, (0.40, 0, 0.43), 0.08, 0.20, (0, 90, 0), 0.0),
        *_pair(lambda s: _ball(BLACK, (0.20, 0.12 * s, 0.53), 0.06)),
        *_pair(lambda s: _rod(WOOD, (0, 0.50 * s, 0.14), 0.035, 0.24, (-60 * s, 0, 0))),
        *buttons,
    ]


def boat(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        _box(main, (-0.22, 0, -0.42), (0.50, 0.34, 0.20)),
        place(PYRAMID, main, (0.56, 0, -0.42), (0.20, 0.34, 0.28), (0, 90, 0)),
        _box(CREAM, (-0.08, 0, -0.10), (0.30, 0.27, 0.14)),
        _box(DARK, (-0.74, 0, -0.34), (0.06, 0.14, 0.26)),
        *_pair(lambda s: _box(DARK, (0.22, 0.13 * s, -0.08), (0.02, 0.09, 0.07))),
        *_pair(lambda s: _ball(GLASS, (-0.08, 0.27 * s, -0.08), (0.09, 0.03, 0.08))),
        _rod(WOOD, (0.12, 0, 0.42), 0.045, 0.46),
        place(PYRAMID, second or WHITE, (-0.24, 0, 0.46), (0.32, 0.03, 0.40)),
    ]


def airplane(main: Colour, second: Colour | None) -> list[Primitive]:
    wing = second or main
    return [
        _ball(main, (0, 0, 0), (0.82, 0.20, 0.21)),
        _box(wing, (0.12, 0, -0.04), (0.20, 0.90, 0.035)),
        _box(wing, (-0.68, 0, 0.04), (0.12, 0.36, 0.03)),
        _box(wing, (-0.70, 0, 0.24), (0.13, 0.035, 0.22)),
        _ball(GLASS, (0.36, 0, 0.16), (0.24, 0.14, 0.13)),
        _ball(DARK, (0.82, 0, 0), (0.10, 0.08, 0.08)),
        _box(DARK, (0.84, 0, 0), (0.02, 0.05, 0.34)),
    ]


def truck(main: Colour, second: Colour | None) -> list[Primitive]:
    wheels = [_rod(BLACK, (x, 0.34 * s, -0.46), 0.19, 0.08, (90, 0, 0)) for x in (-0.50, 0.46) for s in (1, -1)]
    return [
        _box(DARK, (0, 0, -0.38), (0.82, 0.30, 0.06)),
        _box(main, (0.54, 0, -0.10), (0.28, 0.36, 0.32)),
        _box(second or STEEL, (-0.30, 0, 0.08), (0.52, 0.38, 0.46)),
        _box(GLASS, (0.80, 0, 0.04), (0.04, 0.30, 0.13)),
        _box(GLASS, (0.62, 0, 0.04), (0.13, 0.38, 0.12)),
        _box(DARK, (0.82, 0, -0.24), (0.02, 0.16, 0.08)),
        *_pair(lambda s: _ball(LAMP_YELLOW, (0.83, 0.26 * s, -0.24), (0.05, 0.09, 0.09))),
        *wheels,
    ]


def robot(main: Colour, second: Colour | None) -> list[Primitive]:
    head = second or STEEL
    return [
        _box(main, (0, 0, -0.12), (0.25, 0.36, 0.34)),
        _box(head, (0, 0, 0.50), (0.24, 0.28, 0.22)),
        _rod(DARK, (0, 0, 0.78), 0.03, 0.10),
        _ball(RED, (0, 0, 0.88), 0.07),
        _box(GLASS, (0.26, 0, -0.06), (0.02, 0.22, 0.16)),
        _box(DARK, (0.25, 0, 0.38), (0.02, 0.16, 0.04)),
        *_pair(lambda s: _ball(LAMP_YELLOW, (0.24, 0.13 * s, 0.56), 0.09)),
        *_pair(lambda s: _box(head, (0, 0.47 * s, -0.10), (0.10, 0.09, 0.32))),
        *_pair(lambda s: _box(DARK, (0.04, 0.19 * s, -0.66), (0.16, 0.12, 0.20))),
    ]


def penguin(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        _ball(main, (0, 0, -0.22), (0.42, 0.46, 0.60)),
        _ball(main, (0, 0, 0.50), 0.35),
        _ball(second or WHITE, (0.12, 0, -0.24), (0.35, 0.37, 0.52)),
        _ball(second or WHITE, (0.10, 0, 0.44), (0.28, 0.27, 0.22)),
        _rod(ORANGE, (0.46, 0, 0.44), 0.12, 0.17, (0, 90, 0), 0.0),
        *_pair(lambda s: _ball(BLACK, (0.32, 0.14 * s, 0.57), 0.065)),
        *_pair(lambda s: _ball(main, (0, 0.47 * s, -0.15), (0.16, 0.08, 0.40), (25 * s, 0, 0))),
        *_pair(lambda s: _ball(ORANGE, (0.20, 0.20 * s, -0.82), (0.26, 0.15, 0.07))),
    ]


def cat(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [_rod(main, (x, 0.17 * s, -0.56), 0.11, 0.24) for x in (-0.40, 0.22) for s in (1, -1)]
    return [
        _ball(main, (-0.10, 0, -0.20), (0.56, 0.30, 0.28)),
        _ball(main, (0.42, 0, 0.26), (0.32, 0.36, 0.32)),
        _rod(main, (-0.68, 0, 0.20), 0.08, 0.44, (0, -18, 0), 0.7),
        _ball(WHITE, (0.66, 0, 0.16), (0.13, 0.18, 0.12)),
        _ball(PINK, (0.78, 0, 0.20), (0.05, 0.07, 0.05)),
        *_pair(lambda s: _ball(BLACK, (0.67, 0.16 * s, 0.34), (0.07, 0.08, 0.08))),
        *_pair(lambda s: place(PYRAMID, main, (0.40, 0.22 * s, 0.60), (0.09, 0.13, 0.17), (-12 * s, 0, 0))),
        *legs,
    ]


def elephant(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [_rod(main, (x, 0.22 * s, -0.52), 0.15, 0.28) for x in (-0.50, 0.12) for s in (1, -1)]
    return [
        _ball(main, (-0.20, 0, -0.06), (0.56, 0.42, 0.42)),
        _ball(main, (0.40, 0, 0.30), (0.32, 0.32, 0.34)),
        _rod(main, (0.74, 0, -0.10), 0.09, 0.44, (0, -12, 0), 1.3),
        _rod(main, (-0.80, 0, -0.14), 0.04, 0.22, (0, 15, 0)),
        *_pair(lambda s: _ball(main, (0.28, 0.44 * s, 0.28), (0.08, 0.30, 0.36), (0, 0, 25 * s))),
        *_pair(lambda s: _ball(BLACK, (0.66, 0.19 * s, 0.42), 0.07)),
        *_pair(lambda s: _rod(WHITE, (0.74, 0.20 * s, 0.02), 0.06, 0.20, (0, 130, 0), 0.0)),
        *legs,
    ]


def train(main: Colour, second: Colour | None) -> list[Primitive]:
    wheels = [_rod(DARK, (x, 0.34 * s, -0.44), 0.18, 0.06, (90, 0, 0)) for x in (-0.52, -0.08, 0.36) for s in (1, -1)]
    return [
        _box(DARK, (0, 0, -0.34), (0.84, 0.30, 0.07)),
        _rod(main, (0.26, 0, 0.0), 0.31, 0.48, (0, 90, 0)),
        _box(main, (-0.52, 0, 0.14), (0.28, 0.37, 0.42)),
        _box(second or DARK, (-0.52, 0, 0.60), (0.36, 0.44, 0.06)),
        _box(GLASS, (-0.52, 0, 0.32), (0.16, 0.385, 0.14)),
        _rod(second or DARK, (0.50, 0, 0.46), 0.10, 0.22, top=1.5),
        _rod(STEEL, (0.75, 0, 0.0), 0.22, 0.02, (0, 90, 0)),
        _ball(LAMP_YELLOW, (0.78, 0, 0.0), (0.08, 0.12, 0.12)),
        place(PRISM, RED, (0.84, 0, -0.44), (0.10, 0.34, 0.12)),
        *wheels,
    ]


class Kind(NamedTuple):
    """A kind of object.

    Args:
        build: (main colour, second colour or None for the kind's default) -> primitives.
        front: whether it faces +x.
        part: what the second colour paints, "" where the kind takes none; a trailing "s" makes it a plural.
        natural: the main colour meant where a prompt names none, "" where it must.
        synonym: another word for it, or "".
        scale: applied to what `build` returns, so that it fits the radius.
    """

    build: Callable[[Colour, Colour | None], list[Primitive]]
    front: bool = False
    part: str = ""
    natural: str = ""
    synonym: str = ""
    scale: float = 1.0


KINDS: dict[str, Kind] = {
    "ball": Kind(lambda main, second: [_ball(main, (0, 0, 0), 0.85)], synonym="sphere"),
    "cube": Kind(lambda main, second: [_box(main, (0, 0, 0), (0.54, 0.54, 0.54))]),
    "cone": Kind(lambda main, second: [_rod(main, (0, 0, 0.05), 0.58, 0.78, top=0.0)]),
    "cylinder": Kind(lambda main, second: [_rod(main, (0, 0, 0), 0.48, 0.72)]),
    "ring": Kind(lambda main, second: [place(TORUS, main, (0, 0, 0), (0.68, 0.68, 0.68), param=0.37)], synonym="torus"),
    "pyramid": Kind(lambda main, second: [place(PYRAMID, main, (0, 0, 0.1), (0.62, 0.62, 0.58))]),
    "mushroom": Kind(mushroom, part="cap", natural="red"),
    "tree": Kind(tree, part="trunk", natural="green"),
    "table": Kind(table, part="legs"),
    "lamp": Kind(lamp, part="stand"),
    "house": Kind(house, True, "roof", scale=0.95),
    "chair": Kind(chair, True, "seat", scale=0.92),
    "mug": Kind(mug, True, synonym="cup"),
    "rocket": Kind(rocket, True, "fins"),
    "fish": Kind(fish, True, "fins", "orange"),
    "car": Kind(car, True, "roof", scale=0.96),
    "duck": Kind(duck, True, natural="yellow"),
    "snowman": Kind(snowman, True, "hat", "white"),
    "boat": Kind(boat, True, "sail", scale=0.92),
    "airplane": Kind(airplane, True, "wings", synonym="plane"),
    "truck": Kind(truck, True, "box", scale=0.93),
    "robot": Kind(robot, True, "head"),
    "penguin": Kind(penguin, True, natural="black"),
    "cat": Kind(cat, True, scale=0.92),
    "elephant": Kind(elephant, True, scale=0.92),
    "train": Kind(train, True, "roof", scale=0.83),
}
STACK_TOPS = ("cone", "pyramid", "ball", "cube", "ring")
STACK_BOTTOMS = ("cube", "cylinder", "ball")


def build(kind: str, main: Colour, second: Colour | None) -> list[Primitive]:
    """The primitives of one object, at its size."""
    entry = KINDS[kind]
    return [p._replace(matrix=p.matrix * entry.scale) for p in entry.build(main, second)]


def stack(top: str, top_colour: Colour, bottom: str, bottom_colour: Colour) -> list[Primitive]:
    """One shape of STACK_TOPS standing on another of STACK_BOTTOMS."""
    below = {
        "cube": _box(bottom_colour, (0, 0, -0.45), (0.39, 0.39, 0.39)),
        "cylinder": _rod(bottom_colour, (0, 0, -0.42), 0.36, 0.42),
        "ball": _ball(bottom_colour, (0, 0, -0.40), 0.45),
    }[bottom]
    level = -0.06 if bottom == "cube" else (0.0 if bottom == "cylinder" else 0.03)
    above = {
        "cone": _rod(top_colour, (0, 0, level + 0.42), 0.45, 0.42, top=0.0),
        "pyramid": place(PYRAMID, top_colour, (0, 0, level + 0.38), (0.48, 0.48, 0.38)),
        "ball": _ball(top_colour, (0, 0, level + 0.40), 0.40),
        "cube": _box(top_colour, (0, 0, level + 0.32), (0.32, 0.32, 0.32)),
        "ring": place(TORUS, top_colour, (0, 0, level + 0.13), (0.36, 0.36, 0.36), param=0.38),
    }[top]
    return [below, above]
