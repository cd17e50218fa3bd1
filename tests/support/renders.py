"""Priors whose samples are renders of the toybox and whose scores are exact."""

from collections.abc import Sequence

from asdkit.lab import FiniteSetPrior
from asdkit.rendering.cameras import ring
from asdkit.toybox import world
from asdkit.toybox.captions import thing_of


def prior_of_renders(captions: Sequence[str], views: int = 24, size: int = 32, nearest: int = 1) -> FiniteSetPrior:
    """The exact denoiser of renders of toybox things, whose captions have no view words, from cameras around them.

    A view-dependent prompt means its samples from the `nearest` cameras alone; 0 for all samples.
    """
    prior, cameras = FiniteSetPrior(nearest), ring(views, size=size)
    for caption in captions:
        prior.add(caption, world.render(thing_of(caption), cameras).image, cameras)
    return prior
