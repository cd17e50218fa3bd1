"""Buildings, furniture and toys."""

from asdkit.toybox.objects.building_blocks import (
    BLACK,
    BRICK,
    DARK,
    GLASS,
    GREY,
    LAMP_YELLOW,
    ORANGE,
    RED,
    STEEL,
    WOOD,
    box,
    ellipsoid,
    pair,
    rod,
)
from asdkit.toybox.primitives import FRUSTUM, PRISM, PYRAMID, TORUS, Colour, Primitive, place


def table(main: Colour, second: Colour | None) -> list[Primitive]:
    legs = [box(second or main, (x, y, -0.15), (0.07, 0.07, 0.40)) for x in (-0.43, 0.43) for y in (-0.55, 0.55)]
    return [box(main, (0, 0, 0.30), (0.56, 0.70, 0.08)), *legs]


def lamp(main: Colour, second: Colour | None) -> list[Primitive]:
    stand = second or WOOD
    shade = rod(main, (0, 0, 0.45), 0.58, 0.36, top=0.5)
    return [shade, rod(stand, (0, 0, -0.35), 0.08, 0.48), rod(stand, (0, 0, -0.78), 0.40, 0.07)]


def house(main: Colour, second: Colour | None) -> list[Primitive]:
    front = 0.56
    windows = pair(lambda s: box(GLASS, (front, 0.34 * s, -0.05), (0.02, 0.12, 0.13)))
    return [
        box(main, (0, 0, -0.22), (0.55, 0.55, 0.40)),
        place(PRISM, second or BRICK, (0, 0, 0.46), (0.64, 0.68, 0.28)),
        box(WOOD, (front, 0, -0.36), (0.03, 0.14, 0.26)),
        box(GREY, (-0.32, -0.32, 0.58), (0.10, 0.10, 0.26)),
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


def robot(main: Colour, second: Colour | None) -> list[Primitive]:
    head = second or STEEL
    return [
        box(main, (0, 0, -0.12), (0.25, 0.36, 0.34)),
        box(head, (0, 0, 0.50), (0.24, 0.28, 0.22)),
        rod(DARK, (0, 0, 0.78), 0.03, 0.10),
        ellipsoid(RED, (0, 0, 0.88), 0.07),
        box(GLASS, (0.26, 0, -0.06), (0.02, 0.22, 0.16)),
        box(DARK, (0.25, 0, 0.38), (0.02, 0.16, 0.04)),
        *pair(lambda s: ellipsoid(LAMP_YELLOW, (0.24, 0.13 * s, 0.56), 0.09)),
        *pair(lambda s: box(head, (0, 0.47 * s, -0.10), (0.10, 0.09, 0.32))),
        *pair(lambda s: box(DARK, (0.04, 0.19 * s, -0.66), (0.16, 0.12, 0.20))),
    ]


def snowman(main: Colour, second: Colour | None) -> list[Primitive]:
    hat = second or BLACK
    buttons = [ellipsoid(BLACK, (x, 0, z), 0.065) for x, z in ((0.31, 0.10), (0.33, -0.08))]
    return [
        ellipsoid(main, (0, 0, -0.53), 0.42),
        ellipsoid(main, (0, 0, 0.03), 0.33),
        ellipsoid(main, (0, 0, 0.44), 0.25),
        rod(hat, (0, 0, 0.64), 0.32, 0.03),
        rod(hat, (0, 0, 0.80), 0.20, 0.15),
        rod(ORANGE, (0.40, 0, 0.43), 0.08, 0.20, (0, 90, 0), 0.0),
        *pair(lambda s: ellipsoid(BLACK, (0.20, 0.12 * s, 0.53), 0.06)),
        *pair(lambda s: rod(WOOD, (0, 0.50 * s, 0.14), 0.035, 0.24, (-60 * s, 0, 0))),
        *buttons,
    ]


def castle(main: Colour, second: Colour | None) -> list[Primitive]:
    roof = second or RED
    corners = [(x, y) for x in (-0.50, 0.50) for y in (-0.50, 0.50)]
    crenels = [
        box(main, (0.50 * a, 0.50 * b, 0.10), (0.07, 0.07, 0.07))
        for a, b in ((1, 0.35), (1, -0.35), (-1, 0.35), (-1, -0.35), (0.35, 1), (-0.35, 1), (0.35, -1), (-0.35, -1))
    ]
    return [
        box(main, (0, 0, -0.36), (0.50, 0.50, 0.40)),
        box(main, (0, 0, 0.16), (0.24, 0.24, 0.34)),
        place(PYRAMID, roof, (0, 0, 0.70), (0.30, 0.30, 0.22)),
        box(WOOD, (0.50, 0, -0.50), (0.03, 0.16, 0.26)),
        rod(WOOD, (0.50, 0, -0.24), 0.16, 0.03, (0, 90, 0)),
        box(DARK, (0.245, 0, 0.30), (0.01, 0.07, 0.10)),
        *[rod(main, (x, y, -0.24), 0.19, 0.52) for x, y in corners],
        *[rod(roof, (x, y, 0.46), 0.24, 0.18, top=0.0) for x, y in corners],
        *crenels,
    ]


def teapot(main: Colour, second: Colour | None) -> list[Primitive]:
    lid = second or main
    return [
        ellipsoid(main, (-0.02, 0, -0.14), (0.56, 0.56, 0.46)),
        rod(main, (-0.02, 0, -0.58), 0.34, 0.04),
        rod(main, (0.60, 0, 0.02), 0.15, 0.28, (0, 50, 0), 0.5),
        ellipsoid(lid, (-0.02, 0, 0.26), (0.33, 0.33, 0.13)),
        ellipsoid(lid, (-0.02, 0, 0.44), 0.10),
        place(TORUS, main, (-0.60, 0, -0.08), (0.25, 0.25, 0.30), (90, 0, 0), param=0.24),
    ]


def guitar(main: Colour, second: Colour | None) -> list[Primitive]:
    neck = second or WOOD
    strings = [box(STEEL, (0.150, y, -0.02), (0.006, 0.008, 0.66)) for y in (-0.035, 0.0, 0.035)]
    return [
        rod(main, (0, 0, -0.50), 0.40, 0.11, (0, 90, 0)),
        rod(main, (0, 0, -0.08), 0.30, 0.11, (0, 90, 0)),
        box(main, (0, 0, -0.28), (0.11, 0.24, 0.16)),
        rod(DARK, (0.06, 0, -0.22), 0.13, 0.055, (0, 90, 0)),
        box(neck, (0.08, 0, 0.38), (0.05, 0.065, 0.38)),
        box(neck, (0.07, 0, 0.82), (0.04, 0.10, 0.11)),
        box(DARK, (0.12, 0, -0.62), (0.025, 0.15, 0.03)),
        *strings,
        *pair(lambda s: rod(STEEL, (0.07, 0.13 * s, 0.80), 0.03, 0.04, (90, 0, 0))),
        *pair(lambda s: rod(STEEL, (0.07, 0.13 * s, 0.88), 0.03, 0.04, (90, 0, 0))),
    ]
