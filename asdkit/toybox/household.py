"""Plants, food, buildings and what is in them: from the main colour and the second one, or None, to primitives."""

import math

from asdkit.toybox import tints
from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import ELLIPSOID, FRUSTUM, PRISM, PYRAMID, TORUS, Primitive, place
from asdkit.toybox.solids import ball, bar, box, pair, rod


def mushroom(main: Colour, second: Colour | None) -> list[Primitive]:
    stalk, cap = (tints.CREAM, main) if second is None else (main, second)
    dome = place(ELLIPSOID, cap, (0, 0, 0.25), (0.80, 0.80, 0.48))
    return [dome, rod(stalk, (0, 0, -0.36), 0.27, 0.50, top=0.75)]


def tree(main: Colour, second: Colour | None) -> list[Primitive]:
    blobs = [(0.0, 0.0, 0.50, 0.43), (0.30, 0.0, 0.18, 0.38), (-0.16, 0.27, 0.18, 0.38), (-0.16, -0.27, 0.18, 0.38)]
    return [rod(second or tints.WOOD, (0, 0, -0.50), 0.16, 0.44)] + [ball(main, (x, y, z), r) for x, y, z, r in blobs]


def table(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [box(second or main, (x, y, -0.15), (0.07, 0.07, 0.40)) for x in (-0.43, 0.43) for y in (-0.55, 0.55)]
    return [box(main, (0, 0, 0.30), (0.56, 0.70, 0.08)), *legs]


def lamp(main: Colour, second: Colour | None) -> list[Primitive]:
    stand = second or tints.WOOD
    shade = rod(main, (0, 0, 0.45), 0.58, 0.36, top=0.5)
    return [shade, rod(stand, (0, 0, -0.35), 0.08, 0.48), rod(stand, (0, 0, -0.78), 0.40, 0.07)]


def house(main: Colour, second: Colour | None) -> list[Primitive]:
    front = 0.56
    windows = pair(lambda s: box(tints.GLASS, (front, 0.34 * s, -0.05), (0.02, 0.12, 0.13)))
    return [
        box(main, (0, 0, -0.22), (0.55, 0.55, 0.40)),
        place(PRISM, second or tints.BRICK, (0, 0, 0.46), (0.64, 0.68, 0.28)),
        box(tints.WOOD, (front, 0, -0.36), (0.03, 0.14, 0.26)),
        box(tints.GREY, (-0.32, -0.32, 0.58), (0.10, 0.10, 0.26)),
        *windows,
    ]


def chair(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [box(main, (x, y, -0.50), (0.07, 0.07, 0.38)) for x in (-0.33, 0.33) for y in (-0.33, 0.33)]
    back = box(main, (-0.34, 0, 0.40), (0.07, 0.42, 0.48))
    return [box(second or main, (0, 0, -0.08), (0.42, 0.42, 0.08)), back, *legs]


def mug(main: Colour, second: Colour | None) -> list[Primitive]:
    x = -0.12
    return [
        place(FRUSTUM, main, (x, 0, 0), (0.50, 0.50, 0.60), open_top=True),
        place(FRUSTUM, second or main, (x, 0, 0.04), (0.42, 0.42, 0.56), open_top=True),
        place(TORUS, main, (x, 0, 0.60), (0.46, 0.46, 0.46), param=0.092),
        place(TORUS, main, (x + 0.54, 0, 0), (0.32, 0.32, 0.34), (90, 0, 0), param=0.27),
    ]


def snowman(main: Colour, second: Colour | None) -> list[Primitive]:
    hat = second or tints.BLACK
    buttons = [ball(tints.BLACK, (x, 0, z), 0.065) for x, z in ((0.31, 0.10), (0.33, -0.08))]
    return [
        ball(main, (0, 0, -0.53), 0.42),
        ball(main, (0, 0, 0.03), 0.33),
        ball(main, (0, 0, 0.44), 0.25),
        rod(hat, (0, 0, 0.64), 0.32, 0.03),
        rod(hat, (0, 0, 0.80), 0.20, 0.15),
        rod(tints.ORANGE, (0.40, 0, 0.43), 0.08, 0.20, (0, 90, 0), 0.0),
        *pair(lambda s: ball(tints.BLACK, (0.20, 0.12 * s, 0.53), 0.06)),
        *pair(lambda s: rod(tints.WOOD, (0, 0.50 * s, 0.14), 0.035, 0.24, (-60 * s, 0, 0))),
        *buttons,
    ]


def robot(main: Colour, second: Colour | None) -> list[Primitive]:
    head = second or tints.STEEL
    return [
        box(main, (0, 0, -0.12), (0.25, 0.36, 0.34)),
        box(head, (0, 0, 0.50), (0.24, 0.28, 0.22)),
        rod(tints.DARK, (0, 0, 0.78), 0.03, 0.10),
        ball(tints.RED, (0, 0, 0.88), 0.07),
        box(tints.GLASS, (0.26, 0, -0.06), (0.02, 0.22, 0.16)),
        box(tints.DARK, (0.25, 0, 0.38), (0.02, 0.16, 0.04)),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.24, 0.13 * s, 0.56), 0.09)),
        *pair(lambda s: box(main, (0, 0.47 * s, -0.10), (0.10, 0.09, 0.32))),
        *pair(lambda s: box(tints.DARK, (0.04, 0.19 * s, -0.66), (0.16, 0.12, 0.20))),
    ]


def hamburger(main: Colour, second: Colour | None) -> list[Primitive]:
    lettuce = [(0.74 * math.cos(a), 0.74 * math.sin(a)) for a in (0.0, 0.9, 1.8, 2.7, 3.6, 4.5, 5.4)]
    seeds = [(0, 0), (0.34, 0.1), (0, 0.36), (-0.36, 0), (0, -0.35), (0.5, 0.36), (-0.36, 0.5), (0.4, -0.5)]
    return [
        ball(main, (0, 0, 0.06), (0.84, 0.84, 0.54)),
        rod(main, (0, 0, -0.46), 0.72, 0.14, top=1.12),
        rod(tints.PATTY, (0, 0, -0.22), 0.86, 0.12),
        box(tints.CHEESE, (0, 0, -0.09), (0.67, 0.67, 0.035), (0, 0, 15)),
        *[ball(tints.LEAF, (x, y, 0.02), (0.24, 0.24, 0.07)) for x, y in lettuce],
        *[ball(tints.CREAM, (x, y, 0.05 + 0.54 * math.sqrt(1 - (x * x + y * y) / 0.7056)), 0.06) for x, y in seeds],
    ]


def pineapple(main: Colour, second: Colour | None) -> list[Primitive]:
    leaves = [bar(second or tints.LEAF, (0, 0, 0.26), (0, 0, 0.94), 0.14, 0.0)]
    for reach, top, angles in ((0.26, 0.86, (0, 90, 180, 270)), (0.46, 0.62, (36, 108, 180, 252, 324))):
        tips = [(reach * math.cos(math.radians(a)), reach * math.sin(math.radians(a)), top) for a in angles]
        leaves += [bar(second or tints.LEAF, (x / 5, y / 5, 0.24), (x, y, z), 0.13, 0.0) for x, y, z in tips]
    grooves = [place(TORUS, tints.GROOVE, (0, 0, 0), (1, 1, 1), (0, 52, a), param=0.035) for a in range(0, 360, 45)]
    body = place(ELLIPSOID, main, (0, 0, -0.34), (0.46, 0.46, 0.58))
    squeezed = [body.matrix[:, :3] @ p.matrix + body.matrix * (0, 0, 0, 1) for p in grooves]
    return [body, *[p._replace(matrix=m) for p, m in zip(grooves, squeezed, strict=True)], *leaves]


def loaf_of_bread(main: Colour, second: Colour | None) -> list[Primitive]:
    cuts = [ball(tints.CREAM, (x, 0, 0.37), (0.07, 0.30, 0.06), (0, 0, 25)) for x in (-0.54, -0.18, 0.18, 0.54)]
    return [
        box(main, (0, 0, -0.18), (0.82, 0.37, 0.26)),
        place(FRUSTUM, main, (0, 0, 0.10), (0.30, 0.46, 0.82), (0, 90, 0)),
        box(tints.CREAM, (0, 0, -0.16), (0.83, 0.32, 0.23)),
        place(FRUSTUM, tints.CREAM, (0, 0, 0.10), (0.25, 0.41, 0.83), (0, 90, 0)),
        *cuts,
    ]


def _pot(colour: Colour | None) -> list[Primitive]:
    clay = colour or tints.CLAY
    return [
        rod(clay, (0, 0, -0.66), 0.26, 0.24, top=1.3),
        rod(clay, (0, 0, -0.44), 0.38, 0.07),
        rod(tints.WOOD, (0, 0, -0.37), 0.32, 0.02),
    ]


def cactus(main: Colour, second: Colour | None) -> list[Primitive]:
    spines = [(0.23, 0.08, 0.10), (0.24, -0.06, 0.42), (0.2, 0.1, 0.66), (-0.23, 0.08, 0.2), (-0.23, -0.07, 0.5)]
    arms = []
    for s, low, high in ((1, -0.02, 0.44), (-1, 0.16, 0.62)):
        arms += [bar(main, (0, 0, low), (0, 0.52 * s, low), 0.13), ball(main, (0, 0.52 * s, low), 0.13)]
        arms += [bar(main, (0, 0.52 * s, low), (0, 0.52 * s, high), 0.13), ball(main, (0, 0.52 * s, high), 0.13)]
    return [
        *_pot(second),
        rod(main, (0, 0, 0.12), 0.23, 0.54),
        ball(main, (0, 0, 0.66), 0.23),
        ball(tints.PINK, (0, 0, 0.89), (0.11, 0.11, 0.06)),
        *arms,
        *[ball(tints.WHITE, spine, 0.04) for spine in spines],
    ]


def ficus(main: Colour, second: Colour | None) -> list[Primitive]:
    leaves = [ball(main, (0, 0, 0.30), 0.42), ball(main, (0, 0, 0.80), (0.13, 0.13, 0.14))]
    for height, reach, start, count in ((0.62, 0.39, 0, 4), (0.36, 0.45, 30, 6), (0.06, 0.46, 0, 6)):
        for angle in range(start, start + 360, 360 // count):
            x, y = reach * math.cos(math.radians(angle)), reach * math.sin(math.radians(angle))
            leaves.append(ball(main, (x, y, height), (0.26, 0.17, 0.08), (0, 42, angle)))
    return [*_pot(second), bar(tints.WOOD, (0, 0, -0.40), (0, 0, 0.20), 0.08), *leaves]


def castle(main: Colour, second: Colour | None) -> list[Primitive]:
    roof = second or tints.SLATE
    corners = [(x, y) for x in (-0.52, 0.52) for y in (-0.52, 0.52)]
    teeth = [(x, y) for x in (-0.56, 0.56) for y in (-0.22, 0.0, 0.22)]
    return [
        box(main, (0, 0, -0.42), (0.54, 0.54, 0.32)),
        box(main, (0, 0, 0.06), (0.25, 0.25, 0.36)),
        place(PYRAMID, roof, (0, 0, 0.64), (0.31, 0.31, 0.26)),
        *[rod(main, (x, y, -0.28), 0.21, 0.46) for x, y in corners],
        *[rod(roof, (x, y, 0.36), 0.27, 0.20, top=0.0) for x, y in corners],
        *[box(main, (x, y, -0.06), (0.06, 0.06, 0.07)) for x, y in teeth],
        box(tints.WOOD, (0.54, 0, -0.56), (0.02, 0.15, 0.18)),
        ball(tints.WOOD, (0.54, 0, -0.38), (0.02, 0.15, 0.15)),
        box(tints.DARK, (0.25, 0, 0.14), (0.02, 0.06, 0.12)),
    ]


def teapot(main: Colour, second: Colour | None) -> list[Primitive]:
    lid = second or main
    return [
        ball(main, (-0.04, 0, -0.12), (0.54, 0.54, 0.46)),
        rod(main, (-0.04, 0, -0.56), 0.34, 0.06),
        ball(lid, (-0.04, 0, 0.26), (0.34, 0.34, 0.15)),
        place(TORUS, main, (-0.04, 0, 0.25), (0.34, 0.34, 0.34), param=0.11),
        ball(lid, (-0.04, 0, 0.46), 0.10),
        bar(main, (0.38, 0, -0.24), (0.66, 0, 0.04), 0.17, 0.6),
        ball(main, (0.66, 0, 0.04), 0.10),
        bar(main, (0.66, 0, 0.03), (0.86, 0, 0.30), 0.10, 0.9),
        place(TORUS, main, (-0.56, 0, -0.06), (0.28, 0.28, 0.34), (90, 0, 0), param=0.24),
    ]


def guitar(main: Colour, second: Colour | None) -> list[Primitive]:
    neck, flat = second or tints.DARK, (0, 90, 0)
    return [
        place(FRUSTUM, main, (0, 0, -0.54), (0.38, 0.46, 0.13), flat),
        place(FRUSTUM, main, (0, 0, -0.06), (0.28, 0.34, 0.13), flat),
        box(main, (0, 0, -0.26), (0.13, 0.27, 0.16)),
        place(FRUSTUM, tints.CREAM, (0.01, 0, -0.22), (0.16, 0.16, 0.13), flat),
        place(FRUSTUM, tints.DARK, (0.02, 0, -0.22), (0.13, 0.13, 0.13), flat),
        box(tints.DARK, (0.12, 0, -0.62), (0.04, 0.17, 0.04)),
        box(neck, (0.12, 0, 0.32), (0.05, 0.07, 0.42)),
        box(neck, (0.10, 0, 0.80), (0.05, 0.12, 0.14)),
        *[box(tints.CREAM, (0.18, y, 0.08), (0.005, 0.01, 0.70)) for y in (-0.04, 0.0, 0.04)],
        *[ball(tints.STEEL, (0.10, 0.15 * s, z), 0.045) for z in (0.74, 0.86) for s in (1, -1)],
    ]
