"""What steps look at, as DataModules: random cameras, fixed novel views to judge by and an orbit; or a plain canvas."""

import logging
import math
from abc import ABC
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from asdkit.core.bounds import Between, MoreThan, Within, checked
from asdkit.core.parts import Part, require
from asdkit.core.ramps import Ramp, bounds, value_at
from asdkit.core.randomness import generator_for
from asdkit.core.text import local
from asdkit.formats.pictures import read_picture
from asdkit.formats.poses import read_camera_path
from asdkit.formats.prompts import read_prompts
from asdkit.formats.references import PosedPictures, References
from asdkit.generators.from_checkpoint import Saved, built
from asdkit.generators.gaussians import object_of
from asdkit.rendering.cameras import Batch, Views, orbit, ring
from asdkit.rendering.settings import Distance, Elevation, Orbit, Overhead

NOVEL_VIEWS = 16
_log = logging.getLogger(__name__)


Size = Annotated[int, Within(8, 4096)]
Number = Annotated[int, Within(1, 1024)]


class Prompts(Part, ABC):
    """Prompts for the samples of a step, which replace the run's: for generators that learn many prompts.

    The prompts of step k depend only on the run's seed, k and the rank.

    Args:
        texts: all prompts; a ValueError if there is none, or an empty one.
        per_step: the number of samples in a step; each gets a random prompt.
    """

    def __init__(self, texts: list[str], per_step: Number = 8) -> None:
        require(all(text.strip() for text in texts) and bool(texts), "data.prompts has no prompt, or an empty one.")
        self.texts, self.per_step = tuple(texts), per_step

    def sample(self, generator: torch.Generator) -> tuple[str, ...]:
        """The prompts of one step."""
        chosen = torch.randint(len(self.texts), (self.per_step,), generator=generator)
        return tuple(self.texts[i] for i in chosen.tolist())


class PromptList(Prompts):
    """Prompts that the recipe names one by one.

    Args:
        texts: the prompts.
        per_step: the number of samples in a step; each gets a random prompt.
    """


class PromptFile(Prompts):
    """The prompts of a text file, one on each line.

    Args:
        path: the file. Empty lines and lines that begin with # are left out.
        per_step: the number of samples in a step; each gets a random prompt.

    Raises:
        UsageError: it has none, or is no text in UTF-8.
    """

    def __init__(self, path: str, per_step: Number = 8) -> None:
        super().__init__(read_prompts(path), per_step)


@checked
class Cameras(pl.LightningDataModule):
    """Draws random cameras around the object for each step.

    The azimuths of a step are stratified: each view lies in its own sector of the circle, and all sectors turn by a
    random angle. The views of step k depend only on the run's seed, k and the rank, so that resuming is exact. Numbers
    may move with the iterations (Ramp); pictures and metrics are taken with their final values.

    Args:
        views_per_step: the number of cameras in each iteration; more give steadier gradients and slower steps.
        size: the height and width of the images in pixels. A size that moves changes in steps of 8.
        min_elevation_deg: the elevation of the lowest camera, in degrees.
        max_elevation_deg: the elevation of the highest camera that is not overhead, in degrees.
        overhead: the share and elevations of cameras that look down on the object.
        azimuth_range_deg: the width in degrees of the part of the circle, around the front, on which cameras stand.
        distance: how far cameras stand from the origin, in world units.
        fov_deg: the vertical field of view in degrees.
        orbit: the cameras of the film that `predict` renders, and of pictures.
        asset: a 3D object that methods of editing compare with, rendered from the step's cameras: a run folder, a
            checkpoint or a file of splats. Empty for none.
        references: pictures of the wanted object with known cameras: ReferenceView or PosedFolder.
        prompts: prompts that replace the run's, for an Amortized3D. `per_step` of them share the views of a step.

    Raises:
        ValueError: a minimum above its maximum, an asset or picture that is missing or broken, an asset that is no 3D
            object, or references beside `prompts`.
    """

    def __init__(
        self,
        views_per_step: Annotated[int, Within(1, 1024)] = 4,
        size: Size | Ramp = 128,
        min_elevation_deg: Elevation | Ramp = -10.0,
        max_elevation_deg: Elevation | Ramp = 60.0,
        overhead: Overhead = Overhead(),
        azimuth_range_deg: Annotated[float | Ramp, MoreThan(0, at_most=360)] = 360.0,
        distance: Distance = Distance(),
        fov_deg: Annotated[float | Ramp, Between(0, 180)] = 40.0,
        orbit: Orbit = Orbit(),
        asset: str = "",
        references: PosedPictures | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__()
        require(not (references and prompts), "data.references show one object, and data.prompts name several.")
        self.prompts = prompts
        self._numbers = {
            "size": size, "overhead_share": overhead.share, "azimuth_range_deg": azimuth_range_deg, "fov_deg": fov_deg,
            "min_elevation_deg": min_elevation_deg, "max_elevation_deg": max_elevation_deg,
            "min_overhead_deg": overhead.min_elevation_deg, "max_overhead_deg": overhead.max_elevation_deg,
            "min_distance": distance.min, "max_distance": distance.max,
        }  # fmt: skip
        for name in ("elevation_deg", "overhead_deg", "distance"):
            lows, highs = bounds(self._numbers[f"min_{name}"]), bounds(self._numbers[f"max_{name}"])
            for low, high in zip(lows, highs, strict=True):
                require(low <= high, f"data's {name} has its minimum above its maximum; got {low} and {high}.")
        self.size, self.views_per_step = int(bounds(size)[1]), views_per_step
        self.orbit = orbit
        self._settled = {name: bounds(number)[1] for name, number in self._numbers.items()}
        self.asset = object_of(local(asset)) if asset else None
        if self.asset is not None and self.asset.flat:
            raise ValueError(f"data.asset must be a 3D object, but {asset} is made of {type(self.asset).__name__}.")
        lens = self.size, self._middle_distance, self._settled["fov_deg"]
        self.references = references.read(*lens) if references else None

    def sample(self, generator: torch.Generator, step: int = 0) -> Views:
        """The random cameras of one step."""
        now = {name: value_at(number, step) for name, number in self._numbers.items()}
        draws = torch.rand(4, self.views_per_step, generator=generator)
        offset = torch.rand((), generator=generator)
        turn = ((torch.arange(self.views_per_step) + draws[0]) / self.views_per_step + offset) % 1
        if now["azimuth_range_deg"] < 360:
            turn = (turn - 0.5) * now["azimuth_range_deg"] / 360 % 1
        high, low = (_between(now, name, draws[2]) for name in ("overhead_deg", "elevation_deg"))
        elevation_deg = torch.where(draws[1] < now["overhead_share"], high, low)
        size = self.size if now["size"] == self.size else 8 * round(now["size"] / 8)
        place = 2 * math.pi * turn, elevation_deg.deg2rad(), _between(now, "distance", draws[3])
        return orbit(*place, math.radians(now["fov_deg"]), size, size)

    def novel_views(self) -> Views:
        """The fixed cameras that metrics are measured from: a spiral through the elevations, at the middle distance."""
        turns = torch.arange(NOVEL_VIEWS) * (5 / NOVEL_VIEWS)  # 5 and 16 share no factor: every sector is seen
        azimuth = 2 * math.pi * ((turns + 0.37 / NOVEL_VIEWS) % 1)
        distance = _between(self._settled, "distance", torch.full((NOVEL_VIEWS,), 0.5))
        elevation_deg = _between(self._settled, "elevation_deg", (torch.arange(NOVEL_VIEWS) + 0.5) / NOVEL_VIEWS)
        fov = math.radians(self._settled["fov_deg"])
        return orbit(azimuth, elevation_deg.deg2rad(), distance, fov, self.size, self.size)

    def ring(self, count: int, size: int = 0) -> Views:
        """`count` cameras evenly around the object from the front on, at the orbit's height; 0 is the usual size."""
        return ring(count, self.orbit.elevation_deg, self._middle_distance, self._settled["fov_deg"], size or self.size)

    @property
    def _middle_distance(self) -> float:
        return (self._settled["min_distance"] + self._settled["max_distance"]) / 2

    look = ring  # what pictures of the run are taken from

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless steps, from the trainer's current one on whenever an epoch begins."""
        return DataLoader(_Endless(self._steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([Batch(self.novel_views())], batch_size=None)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader[Batch]:
        frames = read_camera_path(self.orbit.cameras).views if self.orbit.cameras else self.ring(self.orbit.views)
        return DataLoader([Batch(frames[i : i + 1]) for i in range(len(frames))], batch_size=None)

    def _steps(self) -> Iterator[Batch]:
        trainer: Any = self.trainer
        module = trainer.lightning_module
        for step, random in _drawn_steps(trainer):
            views = self.sample(random("views"), step)
            batch = Batch(views)
            if self.asset is not None:  # what the cameras see of it is before the step's backdrop, too
                batch = batch.to(module.device)
                with torch.no_grad():
                    seen = self.asset.to(module.device).render(batch.views, module.backdrop(step))
                batch = batch._replace(source=seen.image)
            if self.references:
                near = self.references.near(views, module.backdrop(step), module.plain_background, step)
                batch = batch._replace(references=near)
            if self.prompts:
                drawn = self.prompts.sample(random("prompts"))
                batch = batch._replace(prompts=[drawn[i % len(drawn)] for i in range(len(views))])
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The asset and the pictures, for a checkpoint: their files may be gone when the run goes on."""
        asset = {} if self.asset is None else {"spec": self.asset.spec, "weights": self.asset.state_dict()}
        return asset | ({} if self.references is None else {"references": self.references.state_dict()})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.references is None and "references" in state_dict:
            self.references = References.of_state(state_dict["references"])
        if self.asset is None and "spec" in state_dict:
            self.asset = built(Saved(Path("data.asset"), {"generator": state_dict["spec"]}, state_dict["weights"]))


@checked
class Canvas(pl.LightningDataModule):
    """The data of generators that make images, which have no cameras. It may hold a source image or a list of prompts.

    Args:
        image: the picture file that methods of editing compare with. Its middle square is taken; empty for none.
        size: the height and width of the source image in pixels, the same as the generator's and the prior's.
        prompts: prompts that replace the run's, one for each sample of a step, for a Network.

    Raises:
        ValueError: a file that is missing, no picture, or smaller than 8 pixels.
    """

    def __init__(self, image: str = "", size: Size = 128, prompts: Prompts | None = None) -> None:
        super().__init__()
        self.size, self.prompts = size, prompts
        self.source: torch.Tensor | None = None
        if image:
            whole = read_picture(image)
            shape = f"{whole.shape[2]}x{whole.shape[1]}"
            require(min(whole.shape[1:]) >= 8, f"{image} has {shape} pixels; a source image needs 8 at least.")
            if whole.shape[1:] != (size, size):
                _log.warning("%s has %s pixels; its middle square is taken at %dx%d.", image, shape, size, size)
            self.source = read_picture(image, size)[None]

    def look(self, count: int, size: int = 0) -> None:
        """Pictures of the run need no cameras: they show all particles."""

    def novel_views(self) -> None:
        """Nor do metrics."""

    def train_dataloader(self) -> DataLoader[Batch]:
        """The same batch for ever but for its prompts, from the trainer's current step on whenever an epoch begins."""
        return DataLoader(_Endless(self._steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([Batch(None, self.source)], batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader

    def _steps(self) -> Iterator[Batch]:
        if self.prompts is None:
            yield from repeat(Batch(None, self.source))
            return
        for _, random in _drawn_steps(self.trainer):
            yield Batch(None, self.source, prompts=self.prompts.sample(random("prompts")))

    def state_dict(self) -> dict[str, Any]:
        """The source image, for a checkpoint: its file may be gone when the run goes on."""
        return {} if self.source is None else {"source": self.source}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.source = state_dict["source"] if self.source is None else self.source


class _Endless(IterableDataset[Batch]):
    """The batches of an endless iterator, which is made whenever an epoch begins."""

    def __init__(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


def _drawn_steps(trainer: Any) -> Iterator[tuple[int, Callable[[str], torch.Generator]]]:
    """The steps from the trainer's current one on, and what each draws from for a purpose."""
    for step in count(trainer.global_step):
        yield step, partial(generator_for, trainer.lightning_module.seed, step, rank=trainer.global_rank)


def _between(numbers: dict[str, float], name: str, share: torch.Tensor) -> torch.Tensor:
    """From `min_<name>` at share 0 to `max_<name>` at share 1."""
    low, high = numbers[f"min_{name}"], numbers[f"max_{name}"]
    return low + (high - low) * share
