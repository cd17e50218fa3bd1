"""The kinds of object in the toybox: each a short function from its colours to primitives.

Objects are centred at the origin, stand along +z, fit within radius 0.95 and, where they have a front, face +x.
"""

from collections.abc import Callable
from typing import NamedTuple

from asdkit.toybox.objects.animals import (
    bear,
    cat,
    dog,
    duck,
    elephant,
    fish,
    flamingo,
    fox,
    frog,
    owl,
    penguin,
    pig,
    rabbit,
    rooster,
)
from asdkit.toybox.objects.building_blocks import box, ellipsoid, rod
from asdkit.toybox.objects.food import bread, cake, hamburger, pineapple
from asdkit.toybox.objects.household import castle, chair, guitar, house, lamp, mug, robot, snowman, table, teapot
from asdkit.toybox.objects.nature import cactus, ficus, flower, mushroom, tree
from asdkit.toybox.objects.simple import ball, cone, cube, cylinder, pyramid, ring
from asdkit.toybox.objects.vehicles import airplane, boat, bus, car, monster_truck, rocket, train, truck
from asdkit.toybox.primitives import PYRAMID, TORUS, Colour, Primitive, place


class Kind(NamedTuple):
    """A kind of object.

    Args:
        build: (main colour, second colour or None for the kind's default) -> primitives.
        front: whether it faces +x.
        part: what the second colour paints, "" where the kind takes none; a trailing "s" makes it a plural.
        natural: the main colour meant where a prompt names none, "" where it must.
        synonym: another word for it, or "".
        scale: applied to what `build` returns, so that it fits the radius.
        paint: what the natural colour looks like on this kind; None for the colour as it is on others.
    """

    build: Callable[[Colour, Colour | None], list[Primitive]]
    front: bool = False
    part: str = ""
    natural: str = ""
    synonym: str = ""
    scale: float = 1.0
    paint: Colour | None = None


KINDS: dict[str, Kind] = {
    "ball": Kind(ball, synonym="sphere"),
    "cube": Kind(cube),
    "cone": Kind(cone),
    "cylinder": Kind(cylinder),
    "ring": Kind(ring, synonym="torus"),
    "pyramid": Kind(pyramid),
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
    "dog": Kind(dog, True, "ears", "brown", "puppy", scale=0.92),
    "fox": Kind(fox, True, "tail", "orange", scale=0.92),
    "bear": Kind(bear, True, "belly", "brown", "teddy bear"),
    "frog": Kind(frog, True, "belly", "green"),
    "owl": Kind(owl, True, "belly", "brown"),
    "rooster": Kind(rooster, True, "tail", "white", "chicken", scale=0.92),
    "flamingo": Kind(flamingo, True, natural="pink", scale=0.97),
    "pig": Kind(pig, True, natural="pink", scale=0.95),
    "rabbit": Kind(rabbit, True, natural="white", synonym="bunny", scale=0.95),
    "castle": Kind(castle, True, "roof", scale=0.9),
    "teapot": Kind(teapot, True, "lid"),
    "guitar": Kind(guitar, True, "neck", scale=0.98),
    "cactus in a pot": Kind(cactus, natural="green", synonym="cactus"),
    "ficus in a pot": Kind(ficus, natural="green", synonym="ficus"),
    "flower": Kind(flower, True),
    "hamburger": Kind(hamburger, natural="brown", synonym="burger", paint=(0.80, 0.50, 0.22)),
    "pineapple": Kind(pineapple, natural="yellow", paint=(0.90, 0.66, 0.14)),
    "loaf of bread": Kind(bread, natural="brown", synonym="bread", paint=(0.76, 0.48, 0.22)),
    "cake": Kind(cake, part="icing"),
    "monster truck": Kind(monster_truck, True, scale=0.92),
    "bus": Kind(bus, True, scale=0.97),
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
        "cube": box(bottom_colour, (0, 0, -0.45), (0.39, 0.39, 0.39)),
        "cylinder": rod(bottom_colour, (0, 0, -0.42), 0.36, 0.42),
        "ball": ellipsoid(bottom_colour, (0, 0, -0.40), 0.45),
    }[bottom]
    level = -0.06 if bottom == "cube" else (0.0 if bottom == "cylinder" else 0.03)
    above = {
        "cone": rod(top_colour, (0, 0, level + 0.42), 0.45, 0.42, top=0.0),
        "pyramid": place(PYRAMID, top_colour, (0, 0, level + 0.38), (0.48, 0.48, 0.38)),
        "ball": ellipsoid(top_colour, (0, 0, level + 0.40), 0.40),
        "cube": box(top_colour, (0, 0, level + 0.32), (0.32, 0.32, 0.32)),
        "ring": place(TORUS, top_colour, (0, 0, level + 0.13), (0.36, 0.36, 0.36), param=0.38),
    }[top]
    return [below, above]
