"""Images as generators: pixels, or the latents of the prior; several particles at once."""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from asdkit.core.bounds import LearningRate, Within
from asdkit.core.unregistered import keep_unregistered
from asdkit.formats.pictures import read_picture, save_grid
from asdkit.generators.base import Generator, Render, Saturate, set_rates
from asdkit.rendering.cameras import Batch, Views
from asdkit.scores.prior import Prior

Number = Annotated[int, Within(1, 4096)]
Size = Annotated[int, Within(8, 4096)]
_PATCHES = 8


class Images(Generator):
    """What generators of images share: no cameras, and how they are written."""

    flat = True

    def export(self, folder: Path) -> list[Path]:
        """Writes `images/00.png` and so on."""
        with torch.no_grad():
            images = self.render(None).image
        paths = [folder / "images" / f"{i:02d}.png" for i in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            save_grid(image[None], path, columns=1)
        return paths


class Particles(Images):
    """What Pixels and Latents share: how many there are and where they start."""

    def __init__(self, init: str, count: int, size: int, lr: float, init_seed: int) -> None:
        super().__init__()
        self.init, self.count, self.size, self.lr, self.init_seed = init, count, size, lr, init_seed
        self._started = False

    def setup(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None = None) -> None:
        if not self._started:
            self.start(prior, source)
            self._started = True

    @abstractmethod
    def start(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None) -> None:
        """Fill in what is optimised, unless a checkpoint already has."""

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._started = True

    def initial_images(self, source: Float[Tensor, "1 3 H W"] | None) -> Float[Tensor, "N 3 H W"]:
        """The images that `init` means."""
        shape, random = (self.count, 3, self.size, self.size), torch.Generator().manual_seed(self.init_seed)
        if self.init == "grey":
            return torch.full(shape, 0.5)
        if self.init == "noise":
            return torch.rand(shape, generator=random)
        if self.init == "saturated":
            patches = torch.rand(self.count, 3, _PATCHES, _PATCHES, generator=random).round()
            return nn.functional.interpolate(patches, (self.size, self.size), mode="nearest")
        if self.init == "source":
            if source is None:
                raise ValueError("The generator starts from a source image, and there is none; give --data.image FILE.")
            return source.expand(shape).clone()
        return read_picture(Path(self.init), self.size).expand(shape).clone()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": name, "params": [values], "lr": self.lr} for name, values in self.named_parameters()]

    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        set_rates(optimizer, {name: self.lr for name, _ in self.named_parameters()})  # where a checkpoint has others


def opaque(images: Float[Tensor, "B 3 H W"]) -> Render:
    """Images that cover all that is behind them."""
    ones = torch.ones_like(images[:, :1])
    return Render(images, ones, torch.zeros_like(ones))


class Pixels(Particles):
    """Images whose pixels are optimised.

    Args:
        init: where the images start: "grey", "noise", "saturated" (random patches of pure colours), "source" (the
            source image) or a picture file.
        count: the number of particles, i.e. images that are optimised side by side.
        size: the height and width in pixels, which should be the prior's own size.
        lr: Adam's learning rate.
        init_seed: the seed of random starts.
    """

    def __init__(
        self, init: str = "grey", count: Number = 4, size: Size = 128, lr: LearningRate = 0.02, init_seed: int = 0
    ) -> None:
        super().__init__(init, count, size, lr, init_seed)
        self.pixels = nn.Parameter(torch.zeros(count, 3, size, size))

    def start(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None) -> None:
        self.pixels.data.copy_(self.initial_images(source))

    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        return opaque(Saturate.apply(self.pixels))


class Latents(Particles):
    """Images whose latents are optimised. The prior's decoder shows them, and no step goes through an autoencoder.

    Args:
        init: where the latents start: "normal" (standard normal latents), or from an image as for Pixels: "grey",
            "noise", "saturated", "source" or a picture file.
        count: the number of particles, i.e. images that are optimised side by side.
        size: the height and width of the images in pixels, which should be the prior's own size.
        lr: Adam's learning rate; 0.03 in ProlificDreamer's 2D experiments.
        init_seed: the seed of random starts.
    """

    prior: Prior

    def __init__(
        self, init: str = "normal", count: Number = 4, size: Size = 128, lr: LearningRate = 0.03, init_seed: int = 0
    ) -> None:
        super().__init__(init, count, size, lr, init_seed)
        self.latents = nn.Parameter(torch.zeros(0))

    def setup(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None = None) -> None:
        keep_unregistered(self, "prior", prior)
        super().setup(prior, source)

    def start(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None) -> None:
        normal = self.init == "normal"
        images = torch.zeros(1, 3, self.size, self.size) if normal else self.initial_images(source)
        with torch.no_grad():
            latents = prior.encode(images.to(prior.schedule.alphas.device))
        if normal:
            random = torch.Generator().manual_seed(self.init_seed)
            latents = torch.randn(self.count, *latents.shape[1:], generator=random)
        self.latents = nn.Parameter(latents.clone())

    def encoded(self, prior: Prior, batch: Batch, *how: Any) -> tuple[Float[Tensor, "B C h w"], None]:
        return self.latents, None

    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        return opaque(self.prior.decode(self.latents))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint may be loaded before there is a prior to say what shape latents have."""
        if not self._started:
            self.latents = nn.Parameter(torch.empty_like(state_dict[f"{prefix}latents"]))
        super()._load_from_state_dict(state_dict, prefix, *args)
