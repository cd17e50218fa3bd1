"""The vehicles of the toybox: from the main colour and the second one, or None, to primitives."""

import math

from asdkit.toybox import tints
from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import FRUSTUM, PRISM, PYRAMID, TORUS, Primitive, place
from asdkit.toybox.solids import ball, bar, box, pair, rod


def rocket(main: Colour, second: Colour | None) -> list[Primitive]:
    accent = second or tints.RED
    fins = []
    for angle in (0, 90, 180, 270):
        x, y = 0.40 * math.cos(math.radians(angle)), 0.40 * math.sin(math.radians(angle))
        fins.append(box(accent, (x, y, -0.55), (0.17, 0.05, 0.22), (0, 0, angle)))
    return [
        rod(main, (0, 0, -0.08), 0.32, 0.56),
        rod(accent, (0, 0, 0.69), 0.33, 0.24, top=0.0),
        rod(tints.DARK, (0, 0, -0.72), 0.20, 0.10, top=1.2),
        rod(tints.STEEL, (0.27, 0, 0.16), 0.22, 0.08, (0, 90, 0)),
        ball(tints.GLASS, (0.30, 0, 0.16), (0.12, 0.17, 0.17)),
        box(tints.DARK, (0.31, 0, -0.36), (0.04, 0.11, 0.20)),
        *fins,
    ]


def car(main: Colour, second: Colour | None) -> list[Primitive]:
    wheels = [rod(tints.BLACK, (x, 0.40 * s, -0.26), 0.20, 0.08, (90, 0, 0)) for x in (-0.48, 0.48) for s in (1, -1)]
    return [
        box(main, (0, 0, -0.10), (0.88, 0.40, 0.17)),
        box(second or main, (-0.18, 0, 0.29), (0.46, 0.36, 0.04)),
        box(tints.GLASS, (-0.18, 0, 0.16), (0.44, 0.345, 0.10)),
        box(main, (-0.20, 0, 0.16), (0.05, 0.36, 0.10)),
        box(main, (-0.62, 0, 0.16), (0.06, 0.36, 0.14)),
        box(tints.STEEL, (0.87, 0, -0.18), (0.04, 0.36, 0.06)),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.87, 0.27 * s, -0.03), (0.06, 0.10, 0.10))),
        *pair(lambda s: box(tints.RED, (-0.88, 0.30 * s, -0.04), (0.02, 0.07, 0.06))),
        *wheels,
    ]


def boat(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        place(FRUSTUM, main, (0.02, 0, -0.50), (0.60, 0.27, 0.26), param=1.5),
        place(TORUS, tints.WOOD, (0.02, 0, -0.24), (0.90, 0.405, 0.90), param=0.05),
        box(tints.CREAM, (0.30, 0, -0.18), (0.22, 0.24, 0.15)),
        box(tints.WOOD, (-0.84, 0, -0.46), (0.05, 0.05, 0.28)),
        *pair(lambda s: box(tints.DARK, (0.52, 0.12 * s, -0.14), (0.02, 0.08, 0.07))),
        *pair(lambda s: ball(tints.GLASS, (0.30, 0.24 * s, -0.14), (0.09, 0.03, 0.08))),
        bar(tints.WOOD, (-0.10, 0, -0.40), (-0.10, 0, 0.88), 0.045),
        place(PYRAMID, second or tints.WHITE, (-0.22, 0, 0.36), (0.56, 0.03, 0.46)),
        box(tints.RED, (0.0, 0, 0.82), (0.11, 0.015, 0.06)),
    ]


def airplane(main: Colour, second: Colour | None) -> list[Primitive]:
    wing = second or main
    return [
        ball(main, (0, 0, 0), (0.82, 0.20, 0.21)),
        box(wing, (0.12, 0, -0.04), (0.20, 0.90, 0.035)),
        box(wing, (-0.68, 0, 0.04), (0.12, 0.36, 0.03)),
        box(wing, (-0.70, 0, 0.24), (0.13, 0.035, 0.22)),
        ball(tints.GLASS, (0.36, 0, 0.16), (0.24, 0.14, 0.13)),
        ball(tints.DARK, (0.82, 0, 0), (0.10, 0.08, 0.08)),
        box(tints.DARK, (0.84, 0, 0), (0.02, 0.05, 0.34)),
    ]


def truck(main: Colour, second: Colour | None) -> list[Primitive]:
    wheels = [rod(tints.BLACK, (x, 0.34 * s, -0.46), 0.19, 0.08, (90, 0, 0)) for x in (-0.50, 0.46) for s in (1, -1)]
    return [
        box(tints.DARK, (0, 0, -0.38), (0.82, 0.30, 0.06)),
        box(main, (0.54, 0, -0.10), (0.28, 0.36, 0.32)),
        box(second or main, (-0.30, 0, 0.08), (0.52, 0.38, 0.46)),
        box(tints.GLASS, (0.80, 0, 0.04), (0.04, 0.30, 0.13)),
        box(tints.GLASS, (0.62, 0, 0.04), (0.13, 0.38, 0.12)),
        box(tints.DARK, (0.82, 0, -0.24), (0.02, 0.16, 0.08)),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.83, 0.26 * s, -0.24), (0.05, 0.09, 0.09))),
        *wheels,
    ]


def train(main: Colour, second: Colour | None) -> list[Primitive]:
    places = [(x, 0.34 * s, -0.44) for x in (-0.52, -0.08, 0.36) for s in (1, -1)]
    wheels = [rod(tints.DARK, place, 0.18, 0.06, (90, 0, 0)) for place in places]
    return [
        box(tints.DARK, (0, 0, -0.34), (0.84, 0.30, 0.07)),
        rod(main, (0.26, 0, 0.0), 0.31, 0.48, (0, 90, 0)),
        box(main, (-0.52, 0, 0.14), (0.28, 0.37, 0.42)),
        box(second or tints.DARK, (-0.52, 0, 0.60), (0.36, 0.44, 0.06)),
        box(tints.GLASS, (-0.52, 0, 0.32), (0.16, 0.385, 0.14)),
        rod(second or tints.DARK, (0.50, 0, 0.46), 0.10, 0.22, top=1.5),
        rod(tints.STEEL, (0.75, 0, 0.0), 0.22, 0.02, (0, 90, 0)),
        ball(tints.LAMP_YELLOW, (0.78, 0, 0.0), (0.08, 0.12, 0.12)),
        place(PRISM, tints.RED, (0.84, 0, -0.44), (0.10, 0.34, 0.12)),
        *wheels,
    ]


def monster_truck(main: Colour, second: Colour | None) -> list[Primitive]:
    corners = [(x, s) for x in (-0.52, 0.52) for s in (1, -1)]
    wheels = [rod(second or tints.BLACK, (x, 0.44 * s, -0.42), 0.36, 0.13, (90, 0, 0)) for x, s in corners]
    hubs = [rod(tints.STEEL, (x, 0.55 * s, -0.42), 0.17, 0.04, (90, 0, 0)) for x, s in corners]
    springs = [bar(tints.LAMP_YELLOW, (x, 0.26 * s, -0.42), (0.8 * x, 0.22 * s, 0.10), 0.05) for x, s in corners]
    return [
        box(main, (0, 0, 0.20), (0.84, 0.42, 0.20)),
        box(main, (0.0, 0, 0.70), (0.34, 0.40, 0.05)),
        box(tints.GLASS, (0.0, 0, 0.52), (0.32, 0.38, 0.14)),
        box(main, (-0.02, 0, 0.52), (0.06, 0.395, 0.14)),
        box(tints.DARK, (0, 0, -0.06), (0.70, 0.18, 0.08)),
        box(tints.STEEL, (0.84, 0, 0.08), (0.03, 0.36, 0.07)),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.84, 0.29 * s, 0.26), (0.05, 0.09, 0.09))),
        *wheels,
        *hubs,
        *springs,
    ]
