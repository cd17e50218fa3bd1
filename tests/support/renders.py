"""Priors whose samples are renders of the toybox and whose scores are exact."""

from collections.abc import Sequence

from asdkit.lab import FiniteSetPrior
from asdkit.rendering.cameras import ring
from asdkit.toybox import world
from asdkit.toybox.captions import parse


def prior_of_renders(captions: Sequence[str], views: int = 24, size: int = 32, nearest: int = 1) -> FiniteSetPrior:
    """The exact denoiser of renders of toybox things from cameras around them.

    Args:
        captions: of toybox things, without view words.
        views: cameras of each caption's set.
        size: of the square renders, in pixels.
        nearest: a view-dependent prompt means its samples from the `nearest` cameras alone; 0 for all samples.

    Raises:
        ValueError: a caption that is no thing of the toybox.
    """
    prior, cameras = FiniteSetPrior(nearest), ring(views, size=size)
    for caption in captions:
        thing = parse(caption)
        if thing is None:
            raise ValueError(f"{caption!r} is no thing of the toybox.")
        prior.add(caption, world.render(thing, cameras).image, cameras)
    return prior
