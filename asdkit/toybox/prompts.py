"""The prompts of the toybox, for generators that make something of each."""

from asdkit.data import Number, Prompts
from asdkit.toybox.things import things


class ToyboxPrompts(Prompts):
    """The prompts of things that the toybox's prior has seen, or of the things that were held out.

    Args:
        per_step: the number of samples in a step.
        two_colours: whether to include things of two colours and stacks.
        held_out: whether to take the compositions that training has never seen, instead of the others.
        textured: whether to include things of a material.
    """

    def __init__(
        self, per_step: Number = 8, two_colours: bool = False, held_out: bool = False, textured: bool = False
    ) -> None:
        drawn = [thing for thing in things(held_out) if textured or not thing.material]
        super().__init__([thing.prompt for thing in drawn if two_colours or thing.second is None], per_step)
