"""Where the cameras of a run stand, and how its views are rendered."""

from typing import Annotated

from asdkit.core.bounds import Between, Positive, Share, Whole, Within, settings
from asdkit.core.ramps import Ramp

Elevation = Annotated[float, Between(-90, 90)]


@settings
class Overhead:
    """The part of the random cameras that looks down on the object.

    Args:
        share: the share of the views that these cameras take; 0 for none.
        min_elevation_deg: the lowest elevation of these cameras in degrees.
        max_elevation_deg: the highest elevation of these cameras in degrees.
    """

    share: Share | Ramp = 0.1
    min_elevation_deg: Elevation | Ramp = 60.0
    max_elevation_deg: Elevation | Ramp = 85.0


@settings
class Orbit:
    """The path of cameras around the object along which `predict` renders a film.

    Args:
        views: the number of frames.
        elevation_deg: the elevation of the cameras in degrees.
        cameras: the file camera_path.json of nerfstudio, along which `predict` renders in place of the orbit.
    """

    views: Annotated[int, Within(1, 1000)] = 60
    elevation_deg: Elevation = 20.0
    cameras: str = ""


@settings
class Distance:
    """How far the cameras stand from the origin, in world units.

    Args:
        min: the smallest distance.
        max: the largest distance.
    """

    min: Positive | Ramp = 3.2
    max: Positive | Ramp = 3.6


@settings
class Rendering:
    """What stands behind the object, and how much memory the views of a step take.

    Args:
        background: the grey level of the plain background, which pictures and metrics have as well.
        random_background: the share of the iterations that have a random plain background instead of `background`.
        chunk: the number of views that are rendered, encoded and denoised at a time, a divisor of their total.
            Gradients add up, so a smaller chunk takes less memory and gives the same step. 0 does all at once, as is
            always done for images without cameras.
        rerender: whether to render a second time for the generator's gradient, instead of keeping the first rendering's
            intermediate results while the prior works. It saves memory for the price of one more render.
    """

    background: Share = 0.85
    random_background: Share = 0.0
    chunk: Whole = 0
    rerender: bool = False
