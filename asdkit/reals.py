"""Where the real samples of Eq. 9 come from."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from asdkit.discriminator import Real
from asdkit.fields import CFG
from asdkit.pictures import read_picture
from asdkit.prior import Noised
from asdkit.prompts import Condition
from asdkit.sampling import ddim

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class SourceImage(Real):
    """The source image is the one real sample (Eq. 11)."""

    def draw(self, x: Noised, condition: Condition) -> Noised:
        return x.on_source()


class ImageFolder(Real):
    """Random pictures of a folder, the same ones in every run of the same seed.

    Args:
        path: the folder; pictures in its subfolders count, too. They are cropped to squares and resized.

    Raises:
        ValueError: the folder is missing or has no picture in it.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in _ENDINGS)
        if not self._files:
            raise ValueError(f"{path!r} is no folder with pictures ({', '.join(_ENDINGS)}); Eq. 9 needs real samples.")

    def draw(self, x: Noised, condition: Condition) -> Noised:
        size = x.prior.picture_size(x.x0)
        chosen = _chosen(x, len(self._files)).tolist()
        pictures = torch.stack([read_picture(self._files[i], size) for i in chosen])
        with torch.no_grad():
            return x.on(x.prior.encode(pictures.to(x.x0)))


class PriorSamples(Real):
    """Samples of the prior itself for the prompt, drawn once at the first step.

    Args:
        count: how many, at least 1.
        scale: their CFG scale.
        steps: DDIM steps, at least 1.

    Raises:
        ValueError: no samples or no steps.
    """

    def __init__(self, count: int = 32, scale: float = 3.0, steps: int = 25) -> None:
        super().__init__()
        if count < 1 or steps < 1:
            raise ValueError(f"PriorSamples needs at least one sample and one step; got {count} and {steps}.")
        self.count, self.scale, self.steps = count, scale, steps
        self._samples: dict[Condition, Tensor] = {}

    def draw(self, x: Noised, condition: Condition) -> Noised:
        if x.views is not None:
            raise ValueError("PriorSamples has no cameras; use it for images, or give real samples as a folder.")
        if condition not in self._samples:
            shape = (self.count, *x.x0.shape[1:])
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(x.x0)
            self._samples[condition] = ddim(x.prior, CFG(condition.text, self.scale), noise, self.steps)
        return x.on(self._samples[condition][_chosen(x, self.count)])


def _chosen(x: Noised, count: int) -> Int[Tensor, " B"]:
    """A random index below `count` for each sample of x; in half precision a uniform number may round to 1."""
    return (x.rand(len(x.t)) * count).long().clamp(max=count - 1)
