"""Plants."""

import math

from asdkit.toybox.objects.building_blocks import (
    BRICK,
    CREAM,
    LAMP_YELLOW,
    PINK,
    WOOD,
    ellipsoid,
    pair,
    rod,
)
from asdkit.toybox.primitives import ELLIPSOID, FRUSTUM, Colour, Primitive, place


def mushroom(main: Colour, second: Colour | None) -> list[Primitive]:
    stalk, cap = (CREAM, main) if second is None else (main, second)
    dome = place(ELLIPSOID, cap, (0, 0, 0.25), (0.80, 0.80, 0.48))
    return [dome, rod(stalk, (0, 0, -0.36), 0.27, 0.50, top=0.75)]


def tree(main: Colour, second: Colour | None) -> list[Primitive]:
    blobs = [(0.0, 0.0, 0.50, 0.43), (0.30, 0.0, 0.18, 0.38), (-0.16, 0.27, 0.18, 0.38), (-0.16, -0.27, 0.18, 0.38)]
    return [rod(second or WOOD, (0, 0, -0.50), 0.16, 0.44)] + [ellipsoid(main, (x, y, z), r) for x, y, z, r in blobs]


def _pot(colour: Colour) -> list[Primitive]:
    """A flower pot with earth."""
    return [
        place(FRUSTUM, colour, (0, 0, -0.66), (0.26, 0.26, 0.22), param=1.35),
        rod(colour, (0, 0, -0.42), 0.40, 0.06),
        rod(WOOD, (0, 0, -0.37), 0.33, 0.02),
    ]


def cactus(main: Colour, second: Colour | None) -> list[Primitive]:
    arm = 0.13
    return [
        *_pot(second or BRICK),
        rod(main, (0, 0, 0.10), 0.20, 0.48),
        ellipsoid(main, (0, 0, 0.58), 0.20),
        rod(main, (0, 0.30, 0.02), arm, 0.16, (90, 0, 0)),
        ellipsoid(main, (0, 0.46, 0.02), arm),
        rod(main, (0, 0.46, 0.18), arm, 0.16),
        ellipsoid(main, (0, 0.46, 0.34), arm),
        rod(main, (0, -0.28, 0.22), arm, 0.14, (90, 0, 0)),
        ellipsoid(main, (0, -0.42, 0.22), arm),
        rod(main, (0, -0.42, 0.36), arm, 0.14),
        ellipsoid(main, (0, -0.42, 0.50), arm),
        ellipsoid(PINK, (0.04, 0, 0.79), (0.10, 0.10, 0.07)),
    ]


def ficus(main: Colour, second: Colour | None) -> list[Primitive]:
    leaves = []
    for k in range(14):
        turn, height = 2.399963 * k, -0.02 + 0.055 * k
        reach = 0.34 - 0.012 * k
        x, y = reach * math.cos(turn), reach * math.sin(turn)
        leaves.append(ellipsoid(main, (x, y, height), (0.24, 0.13, 0.07), (0, -28, math.degrees(turn))))
    return [
        *_pot(second or BRICK),
        rod(WOOD, (0, 0, 0.06), 0.06, 0.46, top=0.6),
        ellipsoid(main, (0, 0, 0.74), (0.15, 0.15, 0.20)),
        *leaves,
    ]


def flower(main: Colour, second: Colour | None) -> list[Primitive]:
    petals = []
    for k in range(7):
        turn = 2 * math.pi * k / 7
        petals.append(
            ellipsoid(
                main,
                (0.14, 0.34 * math.cos(turn), 0.46 + 0.34 * math.sin(turn)),
                (0.07, 0.19, 0.14),
                (math.degrees(turn), 0, 0),
            )
        )
    green = (0.16, 0.50, 0.16)
    return [
        ellipsoid(second or LAMP_YELLOW, (0.16, 0, 0.46), (0.12, 0.22, 0.22)),
        *petals,
        rod(green, (0, 0, -0.28), 0.05, 0.62, (0, 8, 0)),
        *pair(lambda s: ellipsoid(green, (0, 0.22 * s, -0.42), (0.06, 0.24, 0.10), (28 * s, 0, 0))),
        rod(green, (-0.06, 0, -0.87), 0.26, 0.04),
    ]
