"""Animals; each faces +x."""

from asdkit.toybox.objects.building_blocks import (
    BLACK,
    CREAM,
    DARK,
    LAMP_YELLOW,
    ORANGE,
    PINK,
    RED,
    WHITE,
    box,
    ellipsoid,
    pair,
    rod,
)
from asdkit.toybox.primitives import PRISM, PYRAMID, TORUS, Colour, Primitive, place


def duck(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ellipsoid(main, (-0.12, 0, -0.26), (0.60, 0.42, 0.36)),
        ellipsoid(main, (0.32, 0, 0.34), 0.33),
        rod(main, (-0.68, 0, -0.02), 0.20, 0.24, (0, -50, 0), 0.0),
        ellipsoid(second or ORANGE, (0.68, 0, 0.27), (0.22, 0.16, 0.08)),
        *pair(lambda s: ellipsoid(BLACK, (0.55, 0.19 * s, 0.44), 0.075)),
        *pair(lambda s: ellipsoid(main, (-0.20, 0.40 * s, -0.20), (0.32, 0.08, 0.20), (0, 15, 0))),
    ]


def fish(main: Colour, second: Colour | None) -> list[Primitive]:
    fin = second or main
    return [
        ellipsoid(main, (0.14, 0, 0), (0.62, 0.30, 0.40)),
        place(PYRAMID, fin, (-0.58, 0, 0), (0.34, 0.05, 0.30), (0, 90, 0)),
        place(PRISM, fin, (0.06, 0, 0.44), (0.04, 0.30, 0.20), (0, 0, 90)),
        ellipsoid(RED, (0.74, 0, -0.08), (0.06, 0.15, 0.06)),
        *pair(lambda s: ellipsoid(fin, (0.08, 0.33 * s, -0.12), (0.18, 0.06, 0.10), (0, 25, -25 * s))),
        *pair(lambda s: ellipsoid(WHITE, (0.50, 0.19 * s, 0.12), 0.12)),
        *pair(lambda s: ellipsoid(BLACK, (0.57, 0.24 * s, 0.13), 0.075)),
    ]


def penguin(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ellipsoid(main, (0, 0, -0.22), (0.42, 0.46, 0.60)),
        ellipsoid(main, (0, 0, 0.50), 0.35),
        ellipsoid(second or WHITE, (0.12, 0, -0.24), (0.35, 0.37, 0.52)),
        ellipsoid(second or WHITE, (0.10, 0, 0.44), (0.28, 0.27, 0.22)),
        rod(ORANGE, (0.46, 0, 0.44), 0.12, 0.17, (0, 90, 0), 0.0),
        *pair(lambda s: ellipsoid(BLACK, (0.32, 0.14 * s, 0.57), 0.065)),
        *pair(lambda s: ellipsoid(main, (0, 0.47 * s, -0.15), (0.16, 0.08, 0.40), (25 * s, 0, 0))),
        *pair(lambda s: ellipsoid(ORANGE, (0.20, 0.20 * s, -0.82), (0.26, 0.15, 0.07))),
    ]


def cat(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [rod(main, (x, 0.17 * s, -0.56), 0.11, 0.24) for x in (-0.40, 0.22) for s in (1, -1)]
    return [
        ellipsoid(main, (-0.10, 0, -0.20), (0.56, 0.30, 0.28)),
        ellipsoid(main, (0.42, 0, 0.26), (0.32, 0.36, 0.32)),
        rod(main, (-0.68, 0, 0.20), 0.08, 0.44, (0, -18, 0), 0.7),
        ellipsoid(WHITE, (0.66, 0, 0.16), (0.13, 0.18, 0.12)),
        ellipsoid(PINK, (0.78, 0, 0.20), (0.05, 0.07, 0.05)),
        *pair(lambda s: ellipsoid(BLACK, (0.67, 0.16 * s, 0.34), (0.07, 0.08, 0.08))),
        *pair(lambda s: place(PYRAMID, main, (0.40, 0.22 * s, 0.60), (0.09, 0.13, 0.17), (-12 * s, 0, 0))),
        *legs,
    ]


def elephant(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [rod(main, (x, 0.22 * s, -0.52), 0.15, 0.28) for x in (-0.50, 0.12) for s in (1, -1)]
    return [
        ellipsoid(main, (-0.20, 0, -0.06), (0.56, 0.42, 0.42)),
        ellipsoid(main, (0.40, 0, 0.30), (0.32, 0.32, 0.34)),
        rod(main, (0.74, 0, -0.10), 0.09, 0.44, (0, -12, 0), 1.3),
        rod(main, (-0.80, 0, -0.14), 0.04, 0.22, (0, 15, 0)),
        *pair(lambda s: ellipsoid(main, (0.28, 0.44 * s, 0.28), (0.08, 0.30, 0.36), (0, 0, 25 * s))),
        *pair(lambda s: ellipsoid(BLACK, (0.66, 0.19 * s, 0.42), 0.07)),
        *pair(lambda s: rod(WHITE, (0.74, 0.20 * s, 0.02), 0.06, 0.20, (0, 130, 0), 0.0)),
        *legs,
    ]


def _eyes(x: float, y: float, z: float, size: float) -> list[Primitive]:
    """Two black eyes at (x, +-y, z), each with a small white highlight in front."""
    pupils = pair(lambda s: ellipsoid(BLACK, (x, y * s, z), size))
    return [
        *pupils,
        *pair(lambda s: ellipsoid(WHITE, (x + 0.75 * size, (y + 0.2 * size) * s, z + 0.4 * size), 0.35 * size)),
    ]


def _legs(colour: Colour, xs: tuple[float, float], y: float, z: float, radius: float, half: float) -> list[Primitive]:
    """Four straight legs."""
    return [rod(colour, (x, y * s, z), radius, half) for x in xs for s in (1, -1)]


def dog(main: Colour, second: Colour | None) -> list[Primitive]:
    ears = second or DARK
    return [
        ellipsoid(main, (-0.14, 0, -0.18), (0.54, 0.29, 0.29)),
        ellipsoid(main, (0.40, 0, 0.26), (0.30, 0.30, 0.30)),
        ellipsoid(main, (0.66, 0, 0.14), (0.22, 0.16, 0.14)),
        ellipsoid(BLACK, (0.86, 0, 0.20), (0.07, 0.09, 0.07)),
        rod(main, (-0.72, 0, 0.10), 0.07, 0.26, (0, -35, 0), 0.5),
        rod(RED, (0.26, 0, 0.04), 0.25, 0.05, (0, 35, 0)),
        ellipsoid(LAMP_YELLOW, (0.44, 0, -0.10), 0.07),
        *pair(lambda s: ellipsoid(ears, (0.34, 0.31 * s, 0.22), (0.13, 0.07, 0.27), (12 * s, 0, 0))),
        *_eyes(0.63, 0.13, 0.36, 0.065),
        *_legs(main, (-0.46, 0.20), 0.17, -0.56, 0.105, 0.26),
    ]


def fox(main: Colour, second: Colour | None) -> list[Primitive]:
    tip = second or WHITE
    return [
        ellipsoid(main, (-0.06, 0, -0.20), (0.48, 0.25, 0.25)),
        ellipsoid(tip, (0.30, 0, -0.16), (0.16, 0.17, 0.22)),
        ellipsoid(main, (0.42, 0, 0.24), (0.28, 0.31, 0.26)),
        rod(tip, (0.70, 0, 0.14), 0.17, 0.20, (0, 90, 0), 0.25),
        ellipsoid(BLACK, (0.90, 0, 0.14), 0.06),
        ellipsoid(main, (-0.60, 0, 0.02), (0.36, 0.19, 0.20), (0, 45, 0)),
        ellipsoid(tip, (-0.80, 0, 0.24), (0.16, 0.12, 0.14), (0, 45, 0)),
        *pair(lambda s: place(PYRAMID, main, (0.36, 0.20 * s, 0.58), (0.09, 0.14, 0.20), (-10 * s, 0, 0))),
        *pair(lambda s: place(PYRAMID, DARK, (0.38, 0.20 * s, 0.66), (0.06, 0.09, 0.14), (-10 * s, 0, 0))),
        *_eyes(0.62, 0.15, 0.32, 0.06),
        *_legs(DARK, (-0.34, 0.22), 0.14, -0.56, 0.085, 0.26),
    ]


def bear(main: Colour, second: Colour | None) -> list[Primitive]:
    belly = second or CREAM
    return [
        ellipsoid(main, (0, 0, -0.26), (0.42, 0.46, 0.48)),
        ellipsoid(belly, (0.14, 0, -0.26), (0.33, 0.34, 0.38)),
        ellipsoid(main, (0.04, 0, 0.44), (0.36, 0.40, 0.36)),
        ellipsoid(belly, (0.36, 0, 0.36), (0.15, 0.18, 0.14)),
        ellipsoid(BLACK, (0.50, 0, 0.41), (0.06, 0.08, 0.06)),
        *pair(lambda s: ellipsoid(main, (0, 0.31 * s, 0.74), (0.10, 0.15, 0.15))),
        *pair(lambda s: ellipsoid(belly, (0.08, 0.31 * s, 0.74), (0.06, 0.09, 0.09))),
        *pair(lambda s: ellipsoid(main, (0.18, 0.48 * s, -0.12), (0.15, 0.14, 0.28), (30 * s, -25, 0))),
        *pair(lambda s: ellipsoid(main, (0.26, 0.28 * s, -0.70), (0.26, 0.17, 0.17))),
        *pair(lambda s: ellipsoid(belly, (0.50, 0.28 * s, -0.70), (0.05, 0.11, 0.11))),
        *_eyes(0.34, 0.16, 0.54, 0.06),
    ]


def frog(main: Colour, second: Colour | None) -> list[Primitive]:
    belly = second or CREAM
    return [
        ellipsoid(main, (-0.08, 0, -0.22), (0.58, 0.48, 0.38), (0, -18, 0)),
        ellipsoid(belly, (0.20, 0, -0.30), (0.36, 0.36, 0.28)),
        ellipsoid(main, (0.34, 0, 0.06), (0.38, 0.44, 0.26)),
        ellipsoid(RED, (0.40, 0, -0.04), (0.335, 0.37, 0.035)),
        *pair(lambda s: ellipsoid(main, (0.34, 0.26 * s, 0.30), 0.18)),
        *pair(lambda s: ellipsoid(WHITE, (0.42, 0.28 * s, 0.33), 0.14)),
        *pair(lambda s: ellipsoid(BLACK, (0.51, 0.30 * s, 0.35), 0.08)),
        *pair(lambda s: ellipsoid(main, (-0.36, 0.50 * s, -0.32), (0.38, 0.16, 0.22), (0, 25, 20 * s))),
        *pair(lambda s: ellipsoid(main, (-0.02, 0.62 * s, -0.54), (0.30, 0.14, 0.07), (0, 0, 20 * s))),
        *pair(lambda s: rod(main, (0.44, 0.34 * s, -0.42), 0.09, 0.18)),
        *pair(lambda s: ellipsoid(main, (0.54, 0.36 * s, -0.57), (0.19, 0.13, 0.05))),
    ]


def owl(main: Colour, second: Colour | None) -> list[Primitive]:
    belly = second or CREAM
    return [
        ellipsoid(main, (0, 0, -0.12), (0.46, 0.50, 0.66)),
        ellipsoid(belly, (0.14, 0, -0.26), (0.38, 0.38, 0.46)),
        ellipsoid(main, (0.04, 0, 0.40), (0.42, 0.48, 0.36)),
        rod(ORANGE, (0.50, 0, 0.32), 0.08, 0.11, (0, 125, 0), 0.0),
        *pair(lambda s: ellipsoid(WHITE, (0.34, 0.20 * s, 0.44), (0.12, 0.20, 0.20))),
        *pair(lambda s: ellipsoid(LAMP_YELLOW, (0.40, 0.20 * s, 0.44), (0.085, 0.14, 0.14))),
        *pair(lambda s: ellipsoid(BLACK, (0.45, 0.20 * s, 0.44), (0.06, 0.08, 0.08))),
        *pair(lambda s: place(PYRAMID, main, (0.10, 0.30 * s, 0.74), (0.10, 0.13, 0.18), (-18 * s, 0, 0))),
        *pair(lambda s: ellipsoid(main, (-0.06, 0.50 * s, -0.16), (0.30, 0.09, 0.46), (8 * s, 0, 0))),
        *pair(lambda s: ellipsoid(ORANGE, (0.24, 0.18 * s, -0.76), (0.18, 0.11, 0.06))),
        box(main, (-0.44, 0, -0.56), (0.06, 0.20, 0.26), (0, 25, 0)),
    ]


def rooster(main: Colour, second: Colour | None) -> list[Primitive]:
    tail = second or DARK
    feathers = [
        ellipsoid(tail, (-0.60, 0.10 * k, 0.22 + 0.06 * (k == 0)), (0.14, 0.06, 0.44), (0, -38 + 6 * abs(k), 0))
        for k in (-1, 0, 1)
    ]
    return [
        ellipsoid(main, (-0.08, 0, -0.14), (0.52, 0.35, 0.36), (0, -12, 0)),
        rod(main, (0.34, 0, 0.20), 0.22, 0.28, (0, 18, 0), 0.75),
        ellipsoid(main, (0.44, 0, 0.48), 0.22),
        rod(LAMP_YELLOW, (0.70, 0, 0.46), 0.09, 0.14, (0, 90, 0), 0.0),
        *[ellipsoid(RED, (0.34 + 0.13 * k, 0, 0.70 + 0.04 * (k == 1)), (0.09, 0.05, 0.13)) for k in range(3)],
        ellipsoid(RED, (0.60, 0, 0.28), (0.06, 0.06, 0.12)),
        *feathers,
        *pair(lambda s: ellipsoid(tail, (-0.14, 0.33 * s, -0.12), (0.30, 0.08, 0.20), (0, 12, 0))),
        *pair(lambda s: rod(LAMP_YELLOW, (0.02, 0.14 * s, -0.60), 0.045, 0.22)),
        *pair(lambda s: box(LAMP_YELLOW, (0.10, 0.14 * s, -0.82), (0.16, 0.08, 0.025))),
        *_eyes(0.58, 0.14, 0.53, 0.05),
    ]


def flamingo(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = second or PINK
    return [
        ellipsoid(main, (-0.16, 0, 0.02), (0.44, 0.27, 0.25), (0, -8, 0)),
        place(PYRAMID, main, (-0.62, 0, -0.02), (0.20, 0.14, 0.16), (0, -100, 0)),
        rod(main, (0.28, 0, 0.22), 0.085, 0.22, (0, 40, 0)),
        rod(main, (0.34, 0, 0.52), 0.075, 0.22, (0, -18, 0)),
        ellipsoid(main, (0.36, 0, 0.76), (0.17, 0.13, 0.13)),
        rod(DARK, (0.58, 0, 0.66), 0.075, 0.17, (0, 125, 0), 0.25),
        *pair(lambda s: ellipsoid(main, (-0.20, 0.25 * s, 0.06), (0.34, 0.07, 0.17), (0, -12, 0))),
        *pair(lambda s: rod(legs, (-0.06, 0.10 * s, -0.54), 0.04, 0.36)),
        *pair(lambda s: ellipsoid(legs, (0.02, 0.10 * s, -0.89), (0.15, 0.08, 0.03))),
        *_eyes(0.46, 0.09, 0.80, 0.04),
    ]


def pig(main: Colour, second: Colour | None) -> list[Primitive]:
    snout = second or (0.90, 0.48, 0.56)
    return [
        ellipsoid(main, (-0.12, 0, -0.10), (0.58, 0.42, 0.40)),
        ellipsoid(main, (0.42, 0, 0.12), (0.32, 0.34, 0.32)),
        rod(snout, (0.74, 0, 0.06), 0.15, 0.09, (0, 90, 0)),
        place(TORUS, main, (-0.74, 0, 0.04), (0.09, 0.09, 0.12), (90, 0, 0), param=0.3),
        *pair(lambda s: ellipsoid(BLACK, (0.83, 0.055 * s, 0.06), (0.02, 0.03, 0.045))),
        *pair(lambda s: place(PYRAMID, snout, (0.40, 0.22 * s, 0.44), (0.10, 0.11, 0.15), (-25 * s, 20, 0))),
        *_eyes(0.68, 0.15, 0.22, 0.055),
        *_legs(main, (-0.44, 0.20), 0.20, -0.52, 0.12, 0.22),
    ]


def rabbit(main: Colour, second: Colour | None) -> list[Primitive]:
    inner = second or PINK
    return [
        ellipsoid(main, (-0.14, 0, -0.42), (0.48, 0.36, 0.38), (0, -15, 0)),
        ellipsoid(main, (0.28, 0, 0.06), (0.30, 0.29, 0.28)),
        ellipsoid(WHITE, (-0.62, 0, -0.46), 0.15),
        ellipsoid(inner, (0.57, 0, 0.08), (0.05, 0.06, 0.045)),
        *pair(lambda s: ellipsoid(main, (0.16, 0.14 * s, 0.56), (0.08, 0.11, 0.36), (-8 * s, -8, 0))),
        *pair(lambda s: ellipsoid(inner, (0.22, 0.14 * s, 0.56), (0.05, 0.06, 0.28), (-8 * s, -8, 0))),
        *pair(lambda s: ellipsoid(WHITE, (0.50, 0.08 * s, -0.01), (0.10, 0.10, 0.08))),
        *pair(lambda s: ellipsoid(main, (-0.10, 0.30 * s, -0.60), (0.30, 0.13, 0.20), (0, -15, 0))),
        *pair(lambda s: rod(main, (0.24, 0.15 * s, -0.52), 0.09, 0.24, (0, -10, 0))),
        *pair(lambda s: ellipsoid(main, (0.32, 0.16 * s, -0.76), (0.15, 0.10, 0.07))),
        *_eyes(0.49, 0.15, 0.14, 0.06),
    ]
