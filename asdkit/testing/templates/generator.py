"""A generator of one's own: soft coloured balls, until you write something else."""

from typing import Any

import torch
from torch import Tensor, nn

from asdkit import Generator
from asdkit.core.bounds import Count, LearningRate
from asdkit.generators.base import Render, needs_cameras
from asdkit.rendering.cameras import Views
from asdkit.rendering.rays import Volume, march, rays_of, stratified

_HALF, _SAMPLES = 1.0, 32  # half the side of the box that holds the object, in world units; samples along a ray


class Template(Generator):
    """Soft balls in space, seen along rays.

    Args:
        count: how many.
        lr: Adam's learning rate.
    """

    def __init__(self, count: Count = 32, lr: LearningRate = 0.02) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.centres = nn.Parameter(0.3 * torch.randn(count, 3, generator=random))
        self.colours = nn.Parameter(torch.randn(count, 3, generator=random))
        self.radii = nn.Parameter(torch.full((count,), -1.5))
        self.lr = lr

    def radiance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] per world unit and colours [N,3] in [0,1] at points [N,3] in world units."""
        distances = torch.cdist(points.to(self.centres), self.centres) / self.radii.exp()
        shares = torch.exp(-distances.square())
        density = shares.sum(1)
        colours = shares @ self.colours.sigmoid() / (density[:, None] + 1e-6)
        return (20 * density).to(points), colours.to(points)

    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        views = needs_cameras(self, views).to(self.centres.device)
        rays = rays_of(views, _HALF)
        marched = march(self.radiance, rays, stratified(rays, _SAMPLES))
        shape = (len(views), views.height, views.width, -1)
        colour, alpha, depth = (values.view(shape).permute(0, 3, 1, 2) for values in marched[:3])
        behind = colour.new_ones(3) if background is None else background.to(colour)
        image = (colour + (1 - alpha) * behind.reshape(-1, 3, 1, 1)).clamp(0, 1)
        return Render(image, alpha, depth / alpha.clamp(min=1e-10))

    def volume(self) -> Volume:
        return Volume(_HALF, self.radiance)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "balls", "params": list(self.parameters()), "lr": self.lr}]
