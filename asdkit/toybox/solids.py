"""The solids that the toybox's objects are made of."""

import math
from collections.abc import Callable

from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import BOX, ELLIPSOID, FRUSTUM, Primitive, place

Vec = tuple[float, float, float]


def ball(colour: Colour, centre: Vec, half: Vec | float, turn: Vec = (0, 0, 0)) -> Primitive:
    return place(ELLIPSOID, colour, centre, half if isinstance(half, tuple) else (half, half, half), turn)


def box(colour: Colour, centre: Vec, half: Vec, turn: Vec = (0, 0, 0)) -> Primitive:
    return place(BOX, colour, centre, half, turn)


def rod(colour: Colour, centre: Vec, radius: float, half: float, turn: Vec = (0, 0, 0), top: float = 1.0) -> Primitive:
    """A cylinder (top 1), a frustum or a cone (top 0) along z before it is turned."""
    return place(FRUSTUM, colour, centre, (radius, radius, half), turn, top)


def pair(make: Callable[[float], Primitive]) -> list[Primitive]:
    """What `make` returns for the left side (+1) and for the right side (-1)."""
    return [make(1.0), make(-1.0)]


def bar(colour: Colour, start: Vec, end: Vec, radius: float, top: float = 1.0) -> Primitive:
    """A rod from `start` to `end`; at the end its radius is `top` times that at the start."""
    dx, dy, dz = (e - s for s, e in zip(start, end, strict=True))
    length = math.hypot(dx, dy, dz)
    turn = (0.0, math.degrees(math.acos(dz / length)), math.degrees(math.atan2(dy, dx)))
    middle = (start[0] + dx / 2, start[1] + dy / 2, start[2] + dz / 2)
    return rod(colour, middle, radius, length / 2, turn, top)
