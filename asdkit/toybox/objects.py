"""The kinds of object in the toybox: each a short function from its colours to primitives.

Objects are centred at the origin, stand along +z, fit within radius 0.95 and, where they have a front, face +x.
"""

from collections.abc import Callable
from typing import NamedTuple

from asdkit.toybox import animals, household, vehicles
from asdkit.toybox.materials import Colour
from asdkit.toybox.raycaster import PYRAMID, TORUS, Primitive, place
from asdkit.toybox.solids import ball, box, rod


class Kind(NamedTuple):
    """A kind of object."""

    build: Callable[[Colour, Colour | None], list[Primitive]]  # of its main and its second colour, None for the default
    front: bool = False  # whether it faces +x
    part: str = ""  # what the second colour paints, "" where the kind takes none; a trailing "s" makes it a plural
    natural: str = ""  # the main colour meant where a prompt names none, "" where it must
    synonym: str = ""  # another word for it, or ""
    scale: float = 1.0  # applied to what `build` returns, so that it fits the radius


KINDS: dict[str, Kind] = {
    "ball": Kind(lambda main, second: [ball(main, (0, 0, 0), 0.85)], synonym="sphere"),
    "cube": Kind(lambda main, second: [box(main, (0, 0, 0), (0.54, 0.54, 0.54))]),
    "cone": Kind(lambda main, second: [rod(main, (0, 0, 0.05), 0.58, 0.78, top=0.0)]),
    "cylinder": Kind(lambda main, second: [rod(main, (0, 0, 0), 0.48, 0.72)]),
    "ring": Kind(lambda main, second: [place(TORUS, main, (0, 0, 0), (0.68, 0.68, 0.68), param=0.37)], synonym="torus"),
    "pyramid": Kind(lambda main, second: [place(PYRAMID, main, (0, 0, 0.1), (0.62, 0.62, 0.58))]),
    "mushroom": Kind(household.mushroom, part="cap", natural="red"),
    "tree": Kind(household.tree, part="trunk", natural="green"),
    "table": Kind(household.table, part="legs"),
    "lamp": Kind(household.lamp, part="stand"),
    "house": Kind(household.house, True, "roof", scale=0.95),
    "chair": Kind(household.chair, True, "seat", scale=0.92),
    "mug": Kind(household.mug, True, synonym="cup"),
    "rocket": Kind(vehicles.rocket, True, "fins"),
    "fish": Kind(animals.fish, True, "fins", "orange"),
    "car": Kind(vehicles.car, True, "roof", scale=0.96),
    "duck": Kind(animals.duck, True, natural="yellow"),
    "snowman": Kind(household.snowman, True, "hat", "white"),
    "boat": Kind(vehicles.boat, True, "sail", scale=0.86),
    "airplane": Kind(vehicles.airplane, True, "wings", synonym="plane"),
    "truck": Kind(vehicles.truck, True, "box", scale=0.93),
    "robot": Kind(household.robot, True, "head"),
    "penguin": Kind(animals.penguin, True, natural="black"),
    "cat": Kind(animals.cat, True, scale=0.92),
    "elephant": Kind(animals.elephant, True, scale=0.92),
    "train": Kind(vehicles.train, True, "roof", scale=0.83),
    "dog": Kind(animals.dog, True, "ears", "brown", "puppy", 0.92),
    "frog": Kind(animals.frog, True, "belly", "green", scale=0.89),
    "fox": Kind(animals.fox, True, "tail", "orange", scale=0.92),
    "owl": Kind(animals.owl, True, "belly", "brown", scale=0.92),
    "rooster": Kind(animals.rooster, True, "tail", "brown", "cockerel", 0.92),
    "bear": Kind(animals.bear, True, "belly", "brown", "teddy bear", 0.86),
    "flamingo": Kind(animals.flamingo, True, "wings", "pink", scale=0.91),
    "hamburger": Kind(household.hamburger, natural="orange", synonym="burger"),
    "pineapple": Kind(household.pineapple, part="leaves", natural="yellow"),
    "loaf of bread": Kind(household.loaf_of_bread, natural="brown", synonym="bread", scale=0.97),
    "cactus": Kind(household.cactus, part="pot", natural="green"),
    "ficus": Kind(household.ficus, part="pot", natural="green", synonym="houseplant"),
    "castle": Kind(household.castle, True, "roofs", scale=0.83),
    "teapot": Kind(household.teapot, True, "lid"),
    "guitar": Kind(household.guitar, True, "neck", "brown"),
    "monster truck": Kind(vehicles.monster_truck, True, "wheels", scale=0.84),
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
        "ball": ball(bottom_colour, (0, 0, -0.40), 0.45),
    }[bottom]
    level = -0.06 if bottom == "cube" else (0.0 if bottom == "cylinder" else 0.03)
    above = {
        "cone": rod(top_colour, (0, 0, level + 0.42), 0.45, 0.42, top=0.0),
        "pyramid": place(PYRAMID, top_colour, (0, 0, level + 0.38), (0.48, 0.48, 0.38)),
        "ball": ball(top_colour, (0, 0, level + 0.40), 0.40),
        "cube": box(top_colour, (0, 0, level + 0.32), (0.32, 0.32, 0.32)),
        "ring": place(TORUS, top_colour, (0, 0, level + 0.13), (0.36, 0.36, 0.36), param=0.38),
    }[top]
    return [below, above]
