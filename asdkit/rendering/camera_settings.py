"""Where the cameras of a run stand."""

from dataclasses import dataclass
from typing import Annotated

from asdkit.core.bounds import Between, Positive, Share, Within, checked
from asdkit.core.ramps import Ramp

Elevation = Annotated[float, Between(-90, 90)]


@checked
@dataclass(frozen=True)
class Overhead:
    """Those of the random cameras that look down on the object.

    Args:
        share: share of the views that they take.
        min_elevation_deg: the lowest of them.
        max_elevation_deg: the highest of them.
    """

    share: Share | Ramp = 0.1
    min_elevation_deg: Elevation | Ramp = 60.0
    max_elevation_deg: Elevation | Ramp = 85.0


@checked
@dataclass(frozen=True)
class Orbit:
    """A film around the object.

    Args:
        views: its frames.
        elevation_deg: its height.
        cameras: nerfstudio's camera_path.json, a film along which `predict` renders in the place of the orbit.
    """

    views: Annotated[int, Within(1, 1000)] = 60
    elevation_deg: Elevation = 20.0
    cameras: str = ""


@checked
@dataclass(frozen=True)
class Distance:
    """How far cameras stand from the origin, in world units.

    Args:
        min: the nearest.
        max: the farthest.
    """

    min: Positive | Ramp = 3.2
    max: Positive | Ramp = 3.6


OVERHEAD, ORBIT, DISTANCE = Overhead(), Orbit(), Distance()
