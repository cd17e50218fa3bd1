"""The prompts of the toybox, for generators that make something of each."""

from asdkit.data import Number, Prompts
from asdkit.toybox.things import things


class ToyboxPrompts(Prompts):
    """The things that the toybox's prior has seen, or those that were held out.

    Args:
        per_step: samples per step.
        two_colours: those of two colours and the stacks as well.
        held_out: the compositions that training has never seen, in the place of the others.
        textured: the things of a material as well.
    """

    def __init__(
        self, per_step: Number = 8, two_colours: bool = False, held_out: bool = False, textured: bool = False
    ) -> None:
        drawn = [thing for thing in things(held_out) if textured or not thing.material]
        super().__init__([thing.prompt for thing in drawn if two_colours or thing.second is None], per_step)
