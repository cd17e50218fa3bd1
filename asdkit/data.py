"""What steps look at, as DataModules: random cameras, fixed novel views to judge by and an orbit; or a plain canvas."""

import logging
import math
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from asdkit.pictures import read_picture
from asdkit.randomness import generator_for
from asdkit.views import Shot, Views, orbit, ring

NOVEL_VIEWS = 16
_log = logging.getLogger(__name__)


class Cameras(pl.LightningDataModule):
    """Random cameras around the object.

    The azimuths of a step are stratified: each view lies in its own sector of the circle, and all sectors turn by a
    random angle. The views of step k depend on the run's seed, k and the rank alone, so that resuming is exact.

    Args:
        views_per_step: cameras per iteration, 1 to 1024.
        size: height and width of the images in pixels, 8 to 4096; the prior's own size.
        min_elevation_deg: lowest camera, above -90.
        max_elevation_deg: highest camera that is not overhead, below 90.
        overhead_share: share of the views taken from overhead, in [0, 1].
        min_overhead_deg: lowest overhead camera, above -90.
        max_overhead_deg: highest overhead camera, below 90.
        min_distance: from the origin, in world units, > 0.
        max_distance: from the origin, in world units, at least `min_distance`.
        fov_deg: vertical field of view in degrees, within (0, 180).
        orbit_views: frames of the orbit that `predict` renders, 1 to 1000.
        orbit_elevation_deg: height of the orbit, within (-90, 90).

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        views_per_step: int = 4,
        size: int = 64,
        min_elevation_deg: float = -10.0,
        max_elevation_deg: float = 60.0,
        overhead_share: float = 0.1,
        min_overhead_deg: float = 60.0,
        max_overhead_deg: float = 85.0,
        min_distance: float = 3.2,
        max_distance: float = 3.6,
        fov_deg: float = 40.0,
        orbit_views: int = 60,
        orbit_elevation_deg: float = 20.0,
    ) -> None:
        super().__init__()
        _require(1 <= views_per_step <= 1024, f"data.views_per_step must be within 1 and 1024; got {views_per_step}.")
        _require(8 <= size <= 4096, f"data.size must be within 8 and 4096 pixels; got {size}.")
        _require(1 <= orbit_views <= 1000, f"data.orbit_views must be within 1 and 1000; got {orbit_views}.")
        _require(0 <= overhead_share <= 1, f"data.overhead_share must be within [0, 1]; got {overhead_share}.")
        _require(0 < fov_deg < 180, f"data.fov_deg must be within (0, 180); got {fov_deg}.")
        _require(
            0 < min_distance <= max_distance < math.inf,
            f"data.min_distance must be positive and at most max_distance; got {min_distance} and {max_distance}.",
        )
        ranges = {
            "elevation_deg": (min_elevation_deg, max_elevation_deg),
            "overhead_deg": (min_overhead_deg, max_overhead_deg),
            "orbit_elevation_deg": (orbit_elevation_deg, orbit_elevation_deg),
        }
        for name, (low, high) in ranges.items():
            _require(-90 < low <= high < 90, f"data's {name} must satisfy -90 < min <= max < 90; got {low} and {high}.")
        self.views_per_step, self.size, self.overhead_share = views_per_step, size, overhead_share
        self.elevation_deg, self.overhead_deg = ranges["elevation_deg"], ranges["overhead_deg"]
        self.distance, self.fov_deg = (min_distance, max_distance), fov_deg
        self.orbit_views, self.orbit_elevation_deg = orbit_views, orbit_elevation_deg

    def sample(self, generator: torch.Generator) -> Views:
        """The random cameras of one step."""
        draws = torch.rand(4, self.views_per_step, generator=generator)
        offset = torch.rand((), generator=generator)
        azimuth = (torch.arange(self.views_per_step) + draws[0]) / self.views_per_step + offset
        overhead = draws[1] < self.overhead_share
        elevation_deg = torch.where(overhead, _lerp(self.overhead_deg, draws[2]), _lerp(self.elevation_deg, draws[2]))
        return self._orbit(2 * math.pi * (azimuth % 1), elevation_deg, _lerp(self.distance, draws[3]))

    def novel_views(self) -> Views:
        """The fixed cameras that metrics are measured from: a spiral through the elevations, at the middle distance."""
        turns = torch.arange(NOVEL_VIEWS) * (5 / NOVEL_VIEWS)  # 5 and 16 share no factor: every sector is seen
        heights = (torch.arange(NOVEL_VIEWS) + 0.5) / NOVEL_VIEWS
        azimuth = 2 * math.pi * ((turns + 0.37 / NOVEL_VIEWS) % 1)
        distance = torch.full((NOVEL_VIEWS,), sum(self.distance) / 2)
        return self._orbit(azimuth, _lerp(self.elevation_deg, heights), distance)

    def ring(self, count: int, size: int = 0) -> Views:
        """`count` cameras evenly around the object from the front on, at the orbit's height; 0 is the usual size."""
        return ring(count, self.orbit_elevation_deg, sum(self.distance) / 2, self.fov_deg, size or self.size)

    def look(self, count: int) -> Views:
        """What pictures of the run are taken from: a ring of `count` cameras."""
        return self.ring(count)

    def train_dataloader(self) -> DataLoader:
        """Endless steps from the trainer's current one on."""
        trainer = self.trainer
        return DataLoader(
            _Steps(self, trainer.lightning_module.seed, trainer.global_step, trainer.global_rank), batch_size=None
        )

    def val_dataloader(self) -> DataLoader:
        """The novel views, in one batch."""
        return DataLoader([self.novel_views()], batch_size=None)

    def test_dataloader(self) -> DataLoader:
        """The novel views, in one batch."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """An orbit, one frame at a time."""
        frames = self.ring(self.orbit_views)
        return DataLoader([frames[i : i + 1] for i in range(len(frames))], batch_size=None)

    def _orbit(self, azimuth: torch.Tensor, elevation_deg: torch.Tensor, distance: torch.Tensor) -> Views:
        return orbit(azimuth, elevation_deg.deg2rad(), distance, math.radians(self.fov_deg), self.size, self.size)


class Canvas(pl.LightningDataModule):
    """No cameras: images, and a source image where there is one.

    Args:
        image: picture file that methods of editing compare with; its middle square is taken. Empty for none.
        size: height and width of the source image in pixels, 8 to 4096; that of the generator and of the prior.

    Raises:
        ValueError: a number out of its range, or a file that is missing, no picture, or smaller than 8 pixels.
    """

    def __init__(self, image: str = "", size: int = 64) -> None:
        super().__init__()
        _require(8 <= size <= 4096, f"data.size must be within 8 and 4096 pixels; got {size}.")
        self.size = size
        self.source: torch.Tensor | None = None
        if image:
            whole = read_picture(image)
            shape = f"{whole.shape[2]}x{whole.shape[1]}"
            _require(min(whole.shape[1:]) >= 8, f"{image} has {shape} pixels; a source image needs 8 at least.")
            if whole.shape[1:] != (size, size):
                _log.warning("%s has %s pixels; its middle square is taken at %dx%d.", image, shape, size, size)
            self.source = read_picture(image, size)[None]

    def look(self, count: int) -> None:
        """Pictures of the run need no cameras: they show all particles."""

    def novel_views(self) -> None:
        """Nor do metrics."""

    def train_dataloader(self) -> DataLoader:
        """The same shot for ever."""
        return DataLoader(_Forever(Shot(None, self.source)), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """The shot, once."""
        return DataLoader([Shot(None, self.source)], batch_size=None)

    def test_dataloader(self) -> DataLoader:
        """The shot, once."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The shot, once."""
        return self.val_dataloader()


class _Forever(IterableDataset):
    """One item, again and again."""

    def __init__(self, item: Shot) -> None:
        self.item = item

    def __iter__(self) -> Iterator[Shot]:
        while True:
            yield self.item


class _Steps(IterableDataset):
    """The cameras of steps first, first + 1, ..."""

    def __init__(self, cameras: Cameras, seed: int, first: int, rank: int) -> None:
        self.cameras, self.seed, self.first, self.rank = cameras, seed, first, rank

    def __iter__(self) -> Iterator[Views]:
        step = self.first
        while True:
            yield self.cameras.sample(generator_for(self.seed, step, "views", self.rank))
            step += 1


def _lerp(ends: tuple[float, float], share: torch.Tensor) -> torch.Tensor:
    return ends[0] + (ends[1] - ends[0]) * share


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
