"""The animals of the toybox: from the main colour and the second one, or None, to primitives."""

import math
from itertools import pairwise

from asdkit.toybox import tints
from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import PRISM, PYRAMID, TORUS, Primitive, place
from asdkit.toybox.solids import ball, bar, pair, rod


def fish(main: Colour, second: Colour | None) -> list[Primitive]:
    fin = second or main
    return [
        ball(main, (0.14, 0, 0), (0.62, 0.30, 0.40)),
        place(PYRAMID, fin, (-0.58, 0, 0), (0.34, 0.05, 0.30), (0, 90, 0)),
        place(PRISM, fin, (0.06, 0, 0.44), (0.04, 0.30, 0.20), (0, 0, 90)),
        ball(tints.RED, (0.74, 0, -0.08), (0.06, 0.15, 0.06)),
        *pair(lambda s: ball(fin, (0.08, 0.33 * s, -0.12), (0.18, 0.06, 0.10), (0, 25, -25 * s))),
        *pair(lambda s: ball(tints.WHITE, (0.50, 0.19 * s, 0.12), 0.12)),
        *pair(lambda s: ball(tints.BLACK, (0.57, 0.24 * s, 0.13), 0.075)),
    ]


def duck(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ball(main, (-0.12, 0, -0.26), (0.60, 0.42, 0.36)),
        ball(main, (0.32, 0, 0.34), 0.33),
        rod(main, (-0.68, 0, -0.02), 0.20, 0.24, (0, -50, 0), 0.0),
        ball(second or tints.ORANGE, (0.68, 0, 0.27), (0.22, 0.16, 0.08)),
        *pair(lambda s: ball(tints.BLACK, (0.55, 0.19 * s, 0.44), 0.075)),
        *pair(lambda s: ball(main, (-0.20, 0.40 * s, -0.20), (0.32, 0.08, 0.20), (0, 15, 0))),
    ]


def penguin(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ball(main, (0, 0, -0.22), (0.42, 0.46, 0.60)),
        ball(main, (0, 0, 0.50), 0.35),
        ball(second or tints.WHITE, (0.12, 0, -0.24), (0.35, 0.37, 0.52)),
        ball(second or tints.WHITE, (0.10, 0, 0.44), (0.28, 0.27, 0.22)),
        rod(tints.ORANGE, (0.46, 0, 0.44), 0.12, 0.17, (0, 90, 0), 0.0),
        *pair(lambda s: ball(tints.BLACK, (0.32, 0.14 * s, 0.57), 0.065)),
        *pair(lambda s: ball(main, (0, 0.47 * s, -0.15), (0.16, 0.08, 0.40), (25 * s, 0, 0))),
        *pair(lambda s: ball(tints.ORANGE, (0.20, 0.20 * s, -0.82), (0.26, 0.15, 0.07))),
    ]


def cat(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [rod(main, (x, 0.17 * s, -0.56), 0.11, 0.24) for x in (-0.40, 0.22) for s in (1, -1)]
    return [
        ball(main, (-0.10, 0, -0.20), (0.56, 0.30, 0.28)),
        ball(main, (0.42, 0, 0.26), (0.32, 0.36, 0.32)),
        rod(main, (-0.68, 0, 0.20), 0.08, 0.44, (0, -18, 0), 0.7),
        ball(tints.WHITE, (0.66, 0, 0.16), (0.13, 0.18, 0.12)),
        ball(tints.PINK, (0.78, 0, 0.20), (0.05, 0.07, 0.05)),
        *pair(lambda s: ball(tints.BLACK, (0.67, 0.16 * s, 0.34), (0.07, 0.08, 0.08))),
        *pair(lambda s: place(PYRAMID, main, (0.40, 0.22 * s, 0.60), (0.09, 0.13, 0.17), (-12 * s, 0, 0))),
        *legs,
    ]


def elephant(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [rod(main, (x, 0.22 * s, -0.52), 0.15, 0.28) for x in (-0.50, 0.12) for s in (1, -1)]
    return [
        ball(main, (-0.20, 0, -0.06), (0.56, 0.42, 0.42)),
        ball(main, (0.40, 0, 0.30), (0.32, 0.32, 0.34)),
        rod(main, (0.74, 0, -0.10), 0.09, 0.44, (0, -12, 0), 1.3),
        rod(main, (-0.80, 0, -0.14), 0.04, 0.22, (0, 15, 0)),
        *pair(lambda s: ball(main, (0.28, 0.44 * s, 0.28), (0.08, 0.30, 0.36), (0, 0, 25 * s))),
        *pair(lambda s: ball(tints.BLACK, (0.66, 0.19 * s, 0.42), 0.07)),
        *pair(lambda s: rod(tints.WHITE, (0.74, 0.20 * s, 0.02), 0.06, 0.20, (0, 130, 0), 0.0)),
        *legs,
    ]


def dog(main: Colour, second: Colour | None) -> list[Primitive]:
    ear = second or tints.UMBER
    legs = [rod(main, (x, 0.19 * s, -0.50), 0.12, 0.26) for x in (-0.48, 0.16) for s in (1, -1)]
    return [
        ball(main, (-0.16, 0, -0.16), (0.54, 0.32, 0.30)),
        bar(main, (0.14, 0, -0.14), (0.38, 0, 0.36), 0.28, 0.75),
        ball(main, (0.40, 0, 0.44), (0.30, 0.31, 0.29)),
        ball(main, (0.68, 0, 0.34), (0.25, 0.17, 0.15)),
        ball(tints.BLACK, (0.90, 0, 0.40), (0.08, 0.09, 0.07)),
        ball(tints.RED, (0.78, 0, 0.20), (0.08, 0.07, 0.09)),
        place(TORUS, tints.RED, (0.26, 0, 0.12), (0.25, 0.25, 0.32), (0, 25, 0), param=0.18),
        bar(main, (-0.60, 0, -0.06), (-0.84, 0, 0.42), 0.11, 0.5),
        *pair(lambda s: ball(ear, (0.34, 0.33 * s, 0.36), (0.16, 0.09, 0.30), (10 * s, 0, 0))),
        *pair(lambda s: ball(tints.WHITE, (0.60, 0.14 * s, 0.56), 0.085)),
        *pair(lambda s: ball(tints.BLACK, (0.65, 0.15 * s, 0.57), 0.06)),
        *legs,
    ]


def frog(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ball(main, (-0.16, 0, -0.18), (0.58, 0.46, 0.34), (0, -20, 0)),
        ball(main, (0.34, 0, 0.08), (0.40, 0.48, 0.26)),
        ball(tints.DARK, (0.35, 0, 0.02), (0.395, 0.475, 0.025)),
        ball(second or tints.LIME, (0.26, 0, -0.24), (0.30, 0.36, 0.27)),
        *pair(lambda s: ball(main, (0.28, 0.27 * s, 0.34), 0.19)),
        *pair(lambda s: ball(tints.WHITE, (0.36, 0.30 * s, 0.38), 0.145)),
        *pair(lambda s: ball(tints.BLACK, (0.45, 0.33 * s, 0.40), 0.085)),
        *pair(lambda s: ball(main, (-0.30, 0.46 * s, -0.32), (0.42, 0.19, 0.25), (0, -25, 0))),
        *pair(lambda s: ball(main, (-0.04, 0.54 * s, -0.55), (0.36, 0.17, 0.08), (0, 0, 20 * s))),
        *pair(lambda s: bar(main, (0.34, 0.34 * s, -0.10), (0.46, 0.44 * s, -0.56), 0.10)),
        *pair(lambda s: ball(main, (0.58, 0.46 * s, -0.57), (0.20, 0.16, 0.06), (0, 0, 20 * s))),
    ]


def fox(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [rod(tints.DARK, (x, 0.15 * s, -0.56), 0.085, 0.26) for x in (-0.36, 0.24) for s in (1, -1)]
    return [
        ball(main, (-0.06, 0, -0.18), (0.48, 0.27, 0.26)),
        bar(main, (0.18, 0, -0.14), (0.40, 0, 0.28), 0.24, 0.8),
        ball(tints.WHITE, (0.32, 0, -0.10), (0.17, 0.20, 0.25)),
        ball(main, (0.42, 0, 0.32), (0.26, 0.31, 0.24)),
        bar(tints.WHITE, (0.52, 0, 0.24), (0.92, 0, 0.17), 0.17, 0.3),
        bar(main, (0.52, 0, 0.32), (0.86, 0, 0.20), 0.14, 0.4),
        ball(tints.BLACK, (0.92, 0, 0.19), 0.065),
        ball(second or main, (-0.64, 0, 0.06), (0.38, 0.19, 0.19), (0, 38, 0)),
        ball(tints.WHITE, (-0.83, 0, 0.21), (0.18, 0.145, 0.145), (0, 38, 0)),
        *pair(lambda s: ball(tints.WHITE, (0.52, 0.19 * s, 0.22), (0.15, 0.14, 0.11))),
        *pair(lambda s: ball(tints.BLACK, (0.63, 0.14 * s, 0.39), 0.055)),
        *pair(lambda s: place(PYRAMID, main, (0.36, 0.22 * s, 0.66), (0.08, 0.16, 0.26), (-10 * s, 0, 0))),
        *pair(lambda s: place(PYRAMID, tints.DARK, (0.36, 0.245 * s, 0.81), (0.04, 0.08, 0.125), (-10 * s, 0, 0))),
        *legs,
    ]


def owl(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ball(main, (0, 0, -0.20), (0.46, 0.50, 0.64)),
        ball(main, (0, 0, 0.40), (0.42, 0.52, 0.38)),
        ball(second or tints.CREAM, (0.16, 0, -0.28), (0.36, 0.38, 0.46)),
        bar(tints.ORANGE, (0.42, 0, 0.38), (0.56, 0, 0.16), 0.09, 0.0),
        *pair(lambda s: ball(tints.CREAM, (0.31, 0.21 * s, 0.44), (0.12, 0.24, 0.24), (0, 0, 22 * s))),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.37, 0.21 * s, 0.45), (0.12, 0.16, 0.16), (0, 0, 22 * s))),
        *pair(lambda s: ball(tints.BLACK, (0.44, 0.22 * s, 0.45), (0.09, 0.09, 0.09))),
        *pair(lambda s: bar(main, (0.08, 0.30 * s, 0.62), (0.04, 0.46 * s, 0.94), 0.15, 0.0)),
        *pair(lambda s: ball(main, (-0.06, 0.47 * s, -0.22), (0.30, 0.11, 0.48), (8 * s, -12, 0))),
        *pair(lambda s: ball(tints.ORANGE, (0.20, 0.19 * s, -0.82), (0.20, 0.15, 0.07))),
        ball(main, (-0.36, 0, -0.66), (0.16, 0.24, 0.30), (0, 40, 0)),
    ]


def rooster(main: Colour, second: Colour | None) -> list[Primitive]:
    tail = second or tints.PINE
    feathers = []
    for angle in (85, 110, 135, 160):
        x, z = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        feathers.append(ball(tail, (-0.36 + 0.34 * x, 0, -0.06 + 0.34 * z), (0.38, 0.09, 0.13), (0, -angle, 0)))
    comb = [
        ball(tints.RED, (x, 0, z), (r, 0.06, r + 0.03))
        for x, z, r in ((0.54, 0.72, 0.09), (0.40, 0.78, 0.11), (0.25, 0.71, 0.1))
    ]
    return [
        ball(main, (-0.06, 0, -0.20), (0.48, 0.33, 0.33), (0, -15, 0)),
        bar(main, (0.16, 0, -0.10), (0.38, 0, 0.46), 0.30, 0.55),
        ball(main, (0.40, 0, 0.50), 0.21),
        bar(tints.LAMP_YELLOW, (0.56, 0, 0.52), (0.82, 0, 0.44), 0.10, 0.0),
        ball(tints.RED, (0.60, 0, 0.30), (0.07, 0.10, 0.14)),
        *comb,
        *feathers,
        *pair(lambda s: ball(tints.BLACK, (0.53, 0.14 * s, 0.56), 0.055)),
        *pair(lambda s: ball(main, (-0.12, 0.31 * s, -0.16), (0.32, 0.09, 0.19), (0, -10, 0))),
        *pair(lambda s: rod(tints.LAMP_YELLOW, (0, 0.14 * s, -0.66), 0.045, 0.24)),
        *pair(lambda s: ball(tints.LAMP_YELLOW, (0.07, 0.15 * s, -0.88), (0.18, 0.11, 0.04))),
    ]


def bear(main: Colour, second: Colour | None) -> list[Primitive]:
    return [
        ball(main, (-0.10, 0, -0.32), (0.46, 0.50, 0.52)),
        ball(second or tints.TAN, (0.10, 0, -0.32), (0.31, 0.36, 0.40)),
        ball(main, (0, 0, 0.40), (0.38, 0.42, 0.38)),
        ball(tints.TAN, (0.34, 0, 0.31), (0.19, 0.19, 0.16)),
        ball(tints.BLACK, (0.52, 0, 0.37), (0.06, 0.09, 0.06)),
        *pair(lambda s: ball(main, (-0.04, 0.35 * s, 0.71), (0.11, 0.18, 0.18))),
        *pair(lambda s: ball(tints.TAN, (0.04, 0.35 * s, 0.71), (0.07, 0.11, 0.11))),
        *pair(lambda s: ball(tints.BLACK, (0.35, 0.16 * s, 0.50), 0.06)),
        *pair(lambda s: bar(main, (0.0, 0.42 * s, 0.0), (0.36, 0.58 * s, -0.34), 0.15)),
        *pair(lambda s: ball(main, (0.38, 0.58 * s, -0.36), 0.165)),
        *pair(lambda s: bar(main, (0.0, 0.28 * s, -0.66), (0.58, 0.38 * s, -0.66), 0.18)),
        *pair(lambda s: ball(tints.TAN, (0.60, 0.39 * s, -0.64), (0.10, 0.19, 0.21))),
    ]


def flamingo(main: Colour, second: Colour | None) -> list[Primitive]:
    neck = [(0.14, 0, 0.06), (0.36, 0, 0.16), (0.44, 0, 0.34), (0.34, 0, 0.52), (0.32, 0, 0.70), (0.42, 0, 0.83)]
    return [
        ball(main, (-0.18, 0, 0.02), (0.48, 0.29, 0.28), (0, 12, 0)),
        bar(main, (-0.44, 0, 0.06), (-0.84, 0, -0.04), 0.20, 0.2),
        *[bar(main, start, end, 0.085) for start, end in pairwise(neck)],
        *[ball(main, centre, 0.085) for centre in neck[1:5]],
        ball(main, (0.46, 0, 0.82), (0.16, 0.13, 0.12)),
        bar(tints.CREAM, (0.56, 0, 0.80), (0.74, 0, 0.70), 0.085, 0.8),
        bar(tints.BLACK, (0.73, 0, 0.72), (0.74, 0, 0.50), 0.085, 0.2),
        *pair(lambda s: ball(tints.BLACK, (0.53, 0.11 * s, 0.86), 0.035)),
        *pair(lambda s: ball(second or main, (-0.26, 0.26 * s, 0.05), (0.40, 0.09, 0.20), (0, 8, 0))),
        bar(main, (-0.10, -0.10, -0.16), (-0.08, -0.10, -0.90), 0.045),
        ball(main, (0, -0.10, -0.90), (0.16, 0.09, 0.03)),
        bar(main, (-0.10, 0.12, -0.16), (0.06, 0.12, -0.52), 0.045),
        bar(main, (0.06, 0.12, -0.52), (-0.24, 0.06, -0.58), 0.045),
    ]
