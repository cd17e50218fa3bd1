"""Things to eat."""

import math

from asdkit.toybox.objects.building_blocks import (
    CREAM,
    LAMP_YELLOW,
    RED,
    STEEL,
    WHITE,
    box,
    ellipsoid,
    pair,
    rod,
)
from asdkit.toybox.primitives import FRUSTUM, Colour, Primitive, place


def hamburger(main: Colour, second: Colour | None) -> list[Primitive]:
    green, meat, cheese = (0.30, 0.66, 0.18), (0.34, 0.17, 0.09), (1.0, 0.78, 0.16)
    seeds = []
    for k in range(13):
        turn, tilt = 2.399963 * k, 0.16 + 0.055 * k
        x, y, z = math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn), math.cos(tilt)
        seeds.append(
            ellipsoid(CREAM, (0.72 * x, 0.72 * y, 0.10 + 0.45 * z), (0.045, 0.03, 0.03), (0, 0, math.degrees(turn)))
        )
    return [
        ellipsoid(main, (0, 0, 0.08), (0.74, 0.74, 0.46)),
        rod(green, (0, 0, 0.02), 0.80, 0.05),
        rod(second or RED, (0, 0, -0.06), 0.74, 0.05),
        box(cheese, (0, 0, -0.14), (0.60, 0.60, 0.03), (0, 0, 45)),
        rod(meat, (0, 0, -0.26), 0.76, 0.11),
        rod(main, (0, 0, -0.48), 0.62, 0.13, top=1.18),
        *seeds,
    ]


def pineapple(main: Colour, second: Colour | None) -> list[Primitive]:
    crown = second or (0.16, 0.50, 0.16)
    eyes = []
    for k in range(60):
        z = -0.92 + 1.84 * k / 59
        turn, radius = 2.399963 * k, math.sqrt(max(0.0, 1 - z * z))
        eyes.append(
            ellipsoid(main, (0.40 * radius * math.cos(turn), 0.40 * radius * math.sin(turn), -0.34 + 0.52 * z), 0.085)
        )
    leaves = []
    for k in range(9):
        turn, lean = 2.399963 * k, 42 - 4 * k
        reach = math.sin(math.radians(lean)) * 0.24
        leaves.append(
            place(
                FRUSTUM,
                crown,
                (reach * math.cos(turn), reach * math.sin(turn), 0.42 + 0.03 * k),
                (0.10, 0.045, 0.26),
                (0, lean, math.degrees(turn)),
                0.0,
            )
        )
    return [ellipsoid(main, (0, 0, -0.34), (0.41, 0.41, 0.53)), *eyes, *leaves]


def bread(main: Colour, second: Colour | None) -> list[Primitive]:
    cuts = [ellipsoid(second or CREAM, (0, 0.40 * k, 0.235), (0.27, 0.055, 0.05), (0, 0, 22)) for k in (-1, 0, 1)]
    return [
        ellipsoid(main, (0, 0, 0.02), (0.42, 0.88, 0.26)),
        box(main, (0, 0, -0.12), (0.34, 0.66, 0.14)),
        *pair(lambda s: rod(main, (0, 0.66 * s, -0.12), 0.34, 0.14)),
        *cuts,
    ]


def cake(main: Colour, second: Colour | None) -> list[Primitive]:
    icing = second or WHITE
    drops = [
        ellipsoid(icing, (0.62 * math.cos(a), 0.62 * math.sin(a), 0.02), (0.09, 0.09, 0.15))
        for a in (2 * math.pi * k / 12 for k in range(12))
    ]
    cherries = [
        ellipsoid(RED, (0.42 * math.cos(a), 0.42 * math.sin(a), 0.24), 0.08)
        for a in (2 * math.pi * k / 6 for k in range(6))
    ]
    return [
        rod(STEEL, (0, 0, -0.46), 0.84, 0.03),
        rod(main, (0, 0, -0.18), 0.66, 0.26),
        rod(icing, (0, 0, 0.12), 0.68, 0.06),
        rod(main, (0, 0, 0.30), 0.05, 0.20),
        ellipsoid(LAMP_YELLOW, (0, 0, 0.58), (0.05, 0.05, 0.09)),
        *drops,
        *cherries,
    ]
