"""A neural radiance field as a generator."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from asdkit.core.parts import require
from asdkit.core.ramps import Ramp, ends, value_at
from asdkit.core.randomness import generator_for, to_device
from asdkit.generators import nerf_penalties as penalties
from asdkit.generators.base import Generator, Render, Saturate
from asdkit.generators.nerf_encodings import Encoding, Voxels
from asdkit.rendering.cameras import Views
from asdkit.rendering.projection import spherical_harmonics
from asdkit.rendering.rays import Rays, Seen, Volume, march, rays_of, refined, stratified

_CELLS = 32  # of the occupancy grid, along each axis
_KEPT = 0.8  # share of a cell's density that is remembered from one look to the next
_SKY_DEGREE = 2  # of the spherical harmonics of a learned background
_EMPTY = 0.01  # density below which a cell is skipped


class NeRF(Generator):
    """A radiance field in a box: density and colour at every point, seen by volume rendering.

    Args:
        encoding: where features are kept: Voxels when left out, or TriPlane, HashGrid.
        half: half the side of the box in world units, > 0.
        hidden: width of the network that turns features into density and colour; 0 for a linear map.
        samples: samples along each ray, 2 to 1024.
        importance: further samples where the first ones have found something, 0 to 1024.
        blob: density bias at the centre, which falls to 0 at `blob_radius`: something to start from.
        blob_radius: in world units, > 0.
        background: grey level in [0,1] behind the field when the caller gives none.
        lr: learning rate of the encoding, > 0; like all rates and weights it may move with the iterations.
        network_lr: learning rate of the network, > 0.
        opacity_weight: of opacity, against fog; like the other weights' terms it is summed over the rays of an image,
            as Eq. 7's residual is summed over its latents, so that weights keep their meaning at other sizes.
        entropy_weight: of the binary entropy of opacity, against what is neither there nor not.
        z_variance_weight: of the variance of depth along a ray (HiFA), for thin surfaces.
        orientation_weight: of surfaces that face away from the camera (Ref-NeRF); costs six more looks at the field
            for each visible sample.
        sky_lr: learning rate of a background that depends on the direction of view and is seen wherever a step has no
            random background; 0 for the plain background alone.
        occupancy_every: iterations between two looks at which cells are empty and skipped; 0 for no skipping.

    Raises:
        ValueError: an argument out of its range.
    """

    occupancy: Float[Tensor, "G G G"]
    iteration: Tensor

    def __init__(
        self,
        encoding: Encoding | None = None,
        half: float = 1.0,
        hidden: int = 32,
        samples: int = 32,
        importance: int = 0,
        blob: float = 5.0,
        blob_radius: float = 0.5,
        background: float = 1.0,
        lr: float | Ramp = 0.02,
        network_lr: float | Ramp = 0.002,
        opacity_weight: float | Ramp = 0.06,
        entropy_weight: float | Ramp = 0.0,
        z_variance_weight: float | Ramp = 0.0,
        orientation_weight: float | Ramp = 0.0,
        sky_lr: float | Ramp = 0.0,
        occupancy_every: int = 16,
    ) -> None:
        super().__init__()
        positive = {"half": half, "blob_radius": blob_radius, "lr": lr, "network_lr": network_lr}
        for name, number in positive.items():
            require(min(ends(number)) > 0, f"{name} must be positive, not {min(ends(number))}.")
        weights = {
            "opacity_weight": opacity_weight, "entropy_weight": entropy_weight, "z_variance_weight": z_variance_weight,
            "orientation_weight": orientation_weight,
        }  # fmt: skip
        for name, number in (weights | {"sky_lr": sky_lr}).items():
            require(min(ends(number)) >= 0, f"{name} can't be negative; got {min(ends(number))}.")
        require(2 <= samples <= 1024, f"samples must be within 2 and 1024, not {samples}.")
        require(0 <= importance <= 1024, f"importance must be within 0 and 1024, not {importance}.")
        require(0 <= background <= 1, f"background must be within [0,1], not {background}.")
        require(min(hidden, occupancy_every) >= 0, "hidden and occupancy_every can't be negative.")
        self.encoding = encoding or Voxels()
        self.half, self.samples, self.importance = half, samples, importance
        self.blob, self.blob_radius, self.background = blob, blob_radius, background
        self.rates = {"encoding": lr, "network": network_lr, "sky": sky_lr}
        self.weights, self.occupancy_every = weights, occupancy_every
        self.owns_background = max(ends(sky_lr)) > 0
        generator = torch.Generator().manual_seed(0)
        self.network = _network(self.encoding.width, hidden, generator)
        self.sky = nn.Parameter(torch.zeros((_SKY_DEGREE + 1) ** 2, 3), requires_grad=self.owns_background)
        self.register_buffer("occupancy", torch.zeros(_CELLS, _CELLS, _CELLS))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self._step = 0  # what `iteration` holds, for a GPU would have to be waited for
        self._seen: tuple[Seen, Rays, int] | None = None
        self._look(generator)

    def radiance(self, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Density per world unit and colour in [0,1] at points in world units."""
        raw = self.network(self.encoding(points / self.half))
        bias = self.blob * (1 - points.norm(dim=1) / self.blob_radius)
        return nn.functional.softplus(raw[:, 0] + bias), raw[:, 1:].sigmoid()

    def volume(self) -> Volume:
        """The field in its box."""

        def radiance(points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
            density, colour = self.radiance(points.to(self.occupancy))
            return density.to(points), colour.to(points)

        return Volume(self.half, radiance)

    def render(self, views: Views | None, background: Float[Tensor, "*B 3"] | None = None) -> Render:
        """What the cameras see; with gradient the samples are jittered, by the iteration's and the camera's
        own draw, whatever part of the step's cameras is seen at a time and by which process.

        Args:
            views: B cameras.
            background: colour in [0,1], [3] or [B,3]; None for the learned background, or without one for the grey
                level given at construction.

        Raises:
            ValueError: there are no cameras.
        """
        if views is None:
            raise ValueError("NeRF needs cameras; take --data=Cameras, or Pixels and Latents for plain images.")
        views = views.to(self.occupancy.device)
        rays, skip = rays_of(views, self.half), self._occupied if self.occupancy_every else None
        z = stratified(rays, self.samples, self._jitter(views, self.samples, "samples"))
        if self.importance:
            with torch.no_grad():
                weights = march(self.radiance, rays, z, skip).weights
            z = refined(rays, z, weights, self.importance, self._jitter(views, self.importance, "importance"))
        seen = march(self.radiance, rays, z, skip)
        self._seen = (seen, rays, len(views)) if torch.is_grad_enabled() else self._seen
        shape = (len(views), views.height, views.width, -1)
        colour, alpha, depth = (part.view(shape).permute(0, 3, 1, 2) for part in seen[:3])
        if background is None and self.owns_background:
            sky = spherical_harmonics(_SKY_DEGREE, rays.directions, self.sky)
            behind = sky.view(shape).permute(0, 3, 1, 2)
        else:
            plain = colour.new_full((3,), self.background) if background is None else background.to(colour)
            behind = plain.reshape(-1, 3, 1, 1)
        return Render(Saturate.apply(colour + (1 - alpha) * behind), alpha, depth / alpha.clamp(min=1e-10))

    def _jitter(self, views: Views, count: int, purpose: str) -> Float[Tensor, "R S"] | float:
        """Random places in the parts of the rays while there is a gradient, their middles elsewhere."""
        if not torch.is_grad_enabled():
            return 0.5
        cameras = torch.stack([views.azimuth, views.elevation, views.distance], dim=1).tolist()
        random = [generator_for(0, self._step, f"{purpose} {camera}") for camera in cameras]
        draws = [torch.rand(views.height * views.width, count, generator=generator) for generator in random]
        return to_device(torch.cat(draws), self.occupancy.device).to(self.occupancy)

    def _occupied(self, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
        cell = ((points / self.half * 0.5 + 0.5) * _CELLS).long().clamp(0, _CELLS - 1)
        return self.occupancy[cell[:, 0], cell[:, 1], cell[:, 2]] > _EMPTY

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoding's and the network's group, and the learned background's if there is one."""
        parts = {"encoding": list(self.encoding.parameters()), "network": list(self.network.parameters())}
        parts |= {"sky": [self.sky]} if self.owns_background else {}
        return [{"name": n, "params": params, "lr": value_at(self.rates[n], 0)} for n, params in parts.items()]

    def regularizer(self) -> Tensor | int:
        """The weighted terms, summed over the rays that were seen last and divided by the number of views."""
        weights = {name: value_at(weight, self._step) for name, weight in self.weights.items()}
        if self._seen is None or not any(weights.values()):
            return 0
        seen, rays, views = self._seen
        terms = {
            "opacity_weight": lambda: penalties.opacity(seen),
            "entropy_weight": lambda: penalties.entropy(seen),
            "z_variance_weight": lambda: penalties.z_variance(seen),
            "orientation_weight": lambda: penalties.orientation(seen, rays, self._density, self.half / 64),
        }
        return sum(weight * terms[name]().sum() / views for name, weight in weights.items() if weight)

    def _density(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        return self.radiance(points)[0]

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._step = int(self.iteration)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, generator: torch.Generator) -> None:
        """Sets the next iteration's learning rates and, now and then, looks which cells are empty."""
        self._step = step + 1
        self.iteration.fill_(self._step)
        self._seen = None
        for group in optimizer.param_groups:
            if group.get("name") in self.rates:
                group["lr"] = value_at(self.rates[group["name"]], step + 1)
        if self.occupancy_every and (step + 1) % self.occupancy_every == 0:
            self._look(generator)

    @torch.no_grad()
    def _look(self, generator: torch.Generator) -> None:
        """Remember the density at a random place of each cell."""
        axes = [torch.arange(_CELLS, device=self.occupancy.device)] * 3
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        inside = torch.rand(cells.shape, generator=generator).to(self.occupancy)
        density, _ = self.radiance(((cells + inside) / _CELLS * 2 - 1) * self.half)
        torch.maximum(self.occupancy * _KEPT, density.view_as(self.occupancy), out=self.occupancy)


def _network(width: int, hidden: int, generator: torch.Generator) -> nn.Module:
    """Features to one density and three colours."""
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 4)] if hidden else [nn.Linear(width, 4)]
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = (3 / layer.in_features) ** 0.5
            layer.weight.data.uniform_(-bound, bound, generator=generator)
            layer.bias.data.zero_()
    return network
