"""Where the real samples of Eq. 9 come from."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor, nn

from asdkit.core.bounds import Between, Count, Weight, Within
from asdkit.core.parts import Part, require
from asdkit.core.randomness import to_device
from asdkit.core.text import local
from asdkit.formats.pictures import read_picture
from asdkit.rendering.cameras import Posed, ring
from asdkit.scores.fields import CFG, ddim
from asdkit.scores.prior import Condition, Noised, Samples

Elevation = Annotated[float, Between(-90, 90)]
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class RealSamples(Part, nn.Module, ABC):
    """A source of the real samples that Eq. 9 learns from."""

    @abstractmethod
    def draw(self, x: Noised, condition: Condition) -> Noised:
        """Real samples of the condition at x's t and eps: one for each of the samples that `rows` names."""

    def rows(self, x: Noised) -> Samples:
        """Which samples of x have a real one: all of them, unless this says less. The others learn by Eq. 10 alone."""
        return slice(None)


class SourceImage(RealSamples):
    """Takes the source image as the only real sample (Eq. 11)."""

    def draw(self, x: Noised, condition: Condition) -> Noised:
        return x.on_source()


class ImageFolder(RealSamples):
    """Takes random pictures of a folder as real samples. Runs of the same seed take the same ones.

    Args:
        path: the folder; pictures in its subfolders count, too. They are cropped to squares and resized.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._files = sorted(file for file in local(path).rglob("*") if file.suffix.lower() in _ENDINGS)
        if not self._files:
            raise ValueError(f"{path!r} is no folder with pictures ({', '.join(_ENDINGS)}); Eq. 9 needs real samples.")

    def draw(self, x: Noised, condition: Condition) -> Noised:
        size = x.prior.decode(x.x0[:1].detach()).shape[-2]  # of the pictures whose x0 these are
        pictures = torch.stack([read_picture(self._files[i], size) for i in _chosen(x, len(self._files)).tolist()])
        with torch.no_grad():
            return x.on(x.prior.encode(to_device(pictures, x.x0.device).to(x.x0)))


class NearestReference(RealSamples):
    """Takes the posed pictures of `data.references` as real samples: each sample gets the one with the nearest camera.

    e_y and e_phi judge a picture with the words of its own camera. A picture with a mask stands before the backdrop.

    Args:
        within_deg: the largest angle in degrees, seen from the origin, between a sample's camera and the picture's.
            Samples that are farther from all pictures have no real sample.
    """

    def __init__(self, within_deg: Annotated[float, Within(0, 180)] = 30.0) -> None:
        super().__init__()
        self.within_deg = within_deg

    def rows(self, x: Noised) -> Tensor:
        require(not x.prior.sharded, "Ranks that share a network can't have posed real samples; take strategy=ddp.")
        return (_posed(x).angle_deg <= self.within_deg).nonzero().flatten()

    def draw(self, x: Noised, condition: Condition) -> Noised:
        posed, rows = _posed(x), self.rows(x)
        if not len(rows):
            return x.some(rows, x.x0[:0], None)
        distinct, place = (to_device(which, x.x0.device) for which in posed.nearest[rows].unique(return_inverse=True))
        with torch.no_grad():
            x0 = x.prior.encode(posed.image[distinct]).to(x.x0)
        return x.some(rows, x0[place], posed.views[distinct][place])


class PriorSamples(RealSamples):
    """Takes the prior's own samples of the prompt as real samples. They are drawn once, at the first step.

    Where the generator has cameras, the samples' cameras stand evenly around the object. Each sample is drawn, and
    judged by e_y and e_phi, with the words of its own camera.

    Args:
        count: the number of samples.
        scale: the CFG scale at which they are drawn.
        steps: the number of DDIM steps that draw them.
        elevation_deg: the elevation of their cameras in degrees.
    """

    def __init__(
        self, count: Count = 32, scale: Weight = 3.0, steps: Count = 25, elevation_deg: Elevation = 20.0
    ) -> None:
        super().__init__()
        self.count, self.scale, self.steps, self.elevation_deg = count, scale, steps, elevation_deg
        self._samples: dict[Condition, Tensor] = {}

    def draw(self, x: Noised, condition: Condition) -> Noised:
        views = x.views and ring(self.count, self.elevation_deg, size=x.views.height).to(x.x0.device)
        for own in x.own(condition):
            if own not in self._samples:
                noise = torch.randn((self.count, *x.x0.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x.x0)
                self._samples[own] = ddim(x.prior, CFG(own.text, self.scale), noise, self.steps, views)
        chosen = to_device(_chosen(x, self.count), x.x0.device)
        x0 = x.by_own(condition, lambda own, rows: {"x0": self._samples[own][chosen[rows]]})["x0"]
        return x.like(x0, x.t, x.eps, views and views[chosen])


def _posed(x: Noised) -> Posed:
    if x.references is None:
        option = "--data.references=ReferenceView --data.references.file FILE"
        raise ValueError(f"NearestReference needs a picture whose camera is known; give one by {option}.")
    return x.references


def _chosen(x: Noised, count: int) -> Int[Tensor, " B"]:
    """A random index below `count` for each sample of x, on the CPU; a uniform number times it may round up to it."""
    return (torch.rand(len(x.t), generator=x.random) * count).long().clamp(max=count - 1)
