"""Simple shapes."""

from asdkit.toybox.objects.building_blocks import box, ellipsoid, rod
from asdkit.toybox.primitives import PYRAMID, TORUS, Colour, Primitive, place


def ball(main: Colour, second: Colour | None) -> list[Primitive]:
    return [ellipsoid(main, (0, 0, 0), 0.85)]


def cube(main: Colour, second: Colour | None) -> list[Primitive]:
    return [box(main, (0, 0, 0), (0.54, 0.54, 0.54))]


def cone(main: Colour, second: Colour | None) -> list[Primitive]:
    return [rod(main, (0, 0, 0.05), 0.58, 0.78, top=0.0)]


def cylinder(main: Colour, second: Colour | None) -> list[Primitive]:
    return [rod(main, (0, 0, 0), 0.48, 0.72)]


def ring(main: Colour, second: Colour | None) -> list[Primitive]:
    return [place(TORUS, main, (0, 0, 0), (0.68, 0.68, 0.68), param=0.37)]


def pyramid(main: Colour, second: Colour | None) -> list[Primitive]:
    return [place(PYRAMID, main, (0, 0, 0.1), (0.62, 0.62, 0.58))]
