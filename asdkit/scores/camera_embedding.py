"""A camera as a network input: an offset of a denoiser's time embedding."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.rendering.cameras import Views


def camera_features(views: Views) -> Float[Tensor, "B 7"]:
    """Two harmonics of the azimuth, one of the elevation, and the logarithm of the distance."""
    a, e = views.azimuth, views.elevation
    return torch.stack([a.sin(), a.cos(), (2 * a).sin(), (2 * a).cos(), e.sin(), e.cos(), views.distance.log()], dim=1)


class CameraEmbedding(nn.Module):
    """A small network from a camera to an offset of the time embedding of size `width`; starts as exactly zero."""

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Linear(7, hidden)  # the features of a camera
        self.out = nn.Linear(hidden, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, views: Views) -> Float[Tensor, "B width"]:
        offset: Tensor = self.out(nn.functional.silu(self.hidden(camera_features(views))))
        return offset
