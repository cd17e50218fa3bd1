"""A neural radiance field as a generator."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer

from asdkit.core.bounds import LearningRate, NonNegative, Positive, Share, Whole, Within, settings
from asdkit.core.ramps import Ramp, bounds, value_at
from asdkit.core.randomness import generator_for, to_device
from asdkit.generators.base import Generator, Render, Saturate, needs_cameras, set_rates
from asdkit.generators.nerf_encodings import Encoding, Voxels
from asdkit.rendering.cameras import Views
from asdkit.rendering.projection import spherical_harmonics
from asdkit.rendering.rays import Marched, Rays, RaySamples, Volume, march, rays_of, refined, stratified

_CELLS = 32  # of the occupancy grid, along each axis
_SKY_DEGREE = 2  # of the spherical harmonics of a learned background
_FINER = 2  # times as many samples have the rays of a picture that is only looked at, which would show rings otherwise
Density = Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]]


@settings
class NeRFPenalties:
    """The weights of terms that are added to the loss of a NeRF. All of them may move with the iterations.

    The terms are summed over the rays of an image, as Eq. 7's residual is summed over its latents. So weights keep
    their meaning at other sizes.

    Args:
        opacity: the weight of opacity; raise it against fog.
        entropy: the weight of the binary entropy of opacity; raise it where the object is half transparent.
        z_variance: the weight of the variance of depth along a ray (HiFA); raise it for thin surfaces.
        orientation: the weight of surfaces that face away from the camera (Ref-NeRF). It costs six more evaluations of
            the field for each visible sample.
    """

    opacity: NonNegative | Ramp = 0.06
    entropy: NonNegative | Ramp = 0.0
    z_variance: NonNegative | Ramp = 0.0
    orientation: NonNegative | Ramp = 0.0

    def total(self, iteration: int, marched: Marched, rays: Rays, density: Density, step: float) -> Tensor | int:
        """The weighted sum of the terms over all rays at an iteration; the others are `orientation`'s arguments."""
        weights = (value_at(weight, iteration) for weight in (self.opacity, self.entropy, self.z_variance))
        terms = zip(weights, (opacity, entropy, z_variance), strict=True)
        total = sum(weight * term(marched).sum() for weight, term in terms if weight)
        weight = value_at(self.orientation, iteration)
        return total + weight * orientation(marched, rays, density, step).sum() if weight else total


def opacity(marched: Marched) -> Float[Tensor, " R"]:
    """The opacity itself, against fog that fills the box."""
    return _inside(marched.alpha)


def entropy(marched: Marched) -> Float[Tensor, " R"]:
    """The binary entropy of the opacity in nats, against what is neither there nor not."""
    alpha = _inside(marched.alpha)
    return -(alpha * alpha.log() + (1 - alpha) * (-alpha).log1p())


def z_variance(marched: Marched) -> Float[Tensor, " R"]:
    """The variance of depth along the ray (HiFA, arXiv 2305.18766, Eq. 13), for thin surfaces."""
    alpha = _inside(marched.alpha)
    return (marched.weights * (marched.z - (marched.depth / alpha)[:, None]).square()).sum(1) / alpha


def orientation(marched: Marched, rays: Rays, density: Density, step: float) -> Float[Tensor, " R"]:
    """Weight of what faces away: sum of w max(0, n d)^2 (Ref-NeRF, arXiv 2112.03907, Eq. 11; d leads into the scene),
    by the slope of the density over twice the `step` in world units.
    """
    visible = marched.weights > 1e-3  # the slope of other samples is not looked at
    points = (rays.origins[:, None] + marched.z[..., None] * rays.directions[:, None])[visible]
    directions = torch.nn.functional.normalize(rays.directions, dim=1)[:, None].expand(*visible.shape, 3)[visible]
    facing = (normals(density, points, step) * directions).sum(1).clamp(min=0).square()
    return (marched.weights * torch.zeros_like(marched.weights).masked_scatter(visible, facing)).sum(1)


def normals(density: Density, points: Float[Tensor, "N 3"], step: float) -> Float[Tensor, "N 3"]:
    """Unit vectors down the slope of the density, by central differences; 0 where there is none."""
    offsets = step * torch.eye(3, device=points.device, dtype=points.dtype)
    ahead, behind = (density((points[:, None] + side * offsets).reshape(-1, 3)).view(-1, 3) for side in (1, -1))
    return torch.nn.functional.normalize(behind - ahead, dim=1)


def _inside(alpha: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    return alpha.clamp(1e-4, 1 - 1e-4)


@settings
class NeRFRates:
    """Adam's learning rates of a radiance field. All of them may move with the iterations.

    Args:
        encoding: the rate of the features.
        network: the rate of the network that reads the features.
        sky: the rate of a background that depends on the direction of view. It is seen wherever a step has no random
            background. 0 keeps the plain background alone.
        factor: a factor of all these rates, e.g. a ramp to 0.1 that settles the noise which distillation leaves.
    """

    encoding: LearningRate | Ramp = 0.02
    network: LearningRate | Ramp = 0.002
    sky: Annotated[float | Ramp, Within(0, 10)] = 0.0
    factor: Positive | Ramp = 1.0

    def at(self, step: int) -> dict[str, float]:
        """The rates at a step."""
        rates = {"encoding": self.encoding, "network": self.network, "sky": self.sky}
        return {name: value_at(self.factor, step) * value_at(rate, step) for name, rate in rates.items()}


class NeRF(Generator):
    """A radiance field in a box: it has density and colour at every point, and volume rendering shows it.

    Args:
        encoding: where the features are kept: Voxels when left out, TriPlane or HashGrid.
        bound: half the side of the box in world units.
        hidden: the width of the network that turns features into density and colour; 0 for a linear map.
        samples: the number of samples along each ray; more are slower and show finer detail. Pictures that are only
            looked at, of which nothing is learned, have twice as many.
        importance: the number of further samples, which are placed where the first ones have met something.
        blob: a density bias at the centre, which gives the run something to start from. It falls to 0 at `blob_radius`.
        blob_radius: the radius of that bias in world units.
        background: the grey level behind the field when the caller gives none.
        rates: the learning rates.
        penalties: the terms that are added to the loss.
        occupancy_every: the number of iterations between two checks for empty cells, which are skipped; 0 skips none.
    """

    occupancy: Float[Tensor, "G G G"]
    iteration: Tensor

    def __init__(
        self,
        encoding: Encoding | None = None,
        bound: Positive = 1.0,
        hidden: Whole = 32,
        samples: Annotated[int, Within(2, 1024)] = 32,
        importance: Annotated[int, Within(0, 1024)] = 0,
        blob: float = 5.0,
        blob_radius: Positive = 0.5,
        background: Share = 1.0,
        rates: NeRFRates = NeRFRates(),
        penalties: NeRFPenalties = NeRFPenalties(),
        occupancy_every: Whole = 16,
    ) -> None:
        super().__init__()
        self.encoding = encoding or Voxels()
        self.bound, self.samples, self.importance = bound, samples, importance
        self.blob, self.blob_radius, self.background = blob, blob_radius, background
        self.rates, self.penalties, self.occupancy_every = rates, penalties, occupancy_every
        self.owns_background = max(bounds(rates.sky)) > 0
        generator = torch.Generator().manual_seed(0)
        self.network = _network(self.encoding.width, hidden, generator)
        self.sky = nn.Parameter(torch.zeros((_SKY_DEGREE + 1) ** 2, 3), requires_grad=self.owns_background)
        self.register_buffer("occupancy", torch.zeros(_CELLS, _CELLS, _CELLS))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self._step = 0  # what `iteration` holds, for a GPU would have to be waited for
        self._marched: tuple[Marched, Rays, int] | None = None
        self._update_occupancy(generator)

    def radiance(self, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Density per world unit and colour in [0,1] at points in world units, on any device."""
        places = points.to(self.occupancy)
        raw = self.network(self.encoding(places / self.bound))
        bias = self.blob * (1 - places.norm(dim=1) / self.blob_radius)
        return nn.functional.softplus(raw[:, 0] + bias).to(points), raw[:, 1:].sigmoid().to(points)

    def volume(self) -> Volume:
        return Volume(self.bound, self.radiance)

    def render(self, views: Views | None, background: Float[Tensor, "*B 3"] | None = None) -> Render:
        """What the cameras see, behind it the given background, the learned one or the grey level, in this order. With
        gradient the samples are jittered, by the iteration's and the camera's own draw, however a step is split.
        """
        views = needs_cameras(self, views).to(self.occupancy.device)
        rays, skip = rays_of(views, self.bound), self._occupied if self.occupancy_every else None
        places = torch.stack([views.azimuth, views.elevation, views.distance], dim=1)
        learns = torch.is_grad_enabled()
        cameras = places.tolist() if learns else []  # for which a GPU is waited for
        samples = self.samples if learns else _FINER * self.samples
        z = stratified(rays, samples, self._jitter(cameras, views, samples, "samples"))
        if self.importance:
            with torch.no_grad():
                weights = march(self.radiance, rays, z, skip).weights
            z = refined(rays, z, weights, self.importance, self._jitter(cameras, views, self.importance, "importance"))
        marched = march(self.radiance, rays, z, skip)
        self._marched = (marched, rays, len(views)) if learns else self._marched
        shape = (len(views), views.height, views.width, -1)
        colour, alpha, depth = (values.view(shape).permute(0, 3, 1, 2) for values in marched[:3])
        if background is None and self.owns_background:
            behind = spherical_harmonics(_SKY_DEGREE, rays.directions, self.sky).view(shape).permute(0, 3, 1, 2)
        else:
            plain = colour.new_full((3,), self.background) if background is None else background.to(colour)
            behind = plain.reshape(-1, 3, 1, 1)
        return Render(Saturate.apply(colour + (1 - alpha) * behind), alpha, depth / alpha.clamp(min=1e-10))

    def _jitter(self, cameras: list[list[float]], views: Views, count: int, purpose: str) -> RaySamples | float:
        """Random places in the parts of the rays, by the numbers of their cameras; the middles without these."""
        if not cameras:
            return 0.5
        random = [generator_for(0, self._step, f"{purpose} {camera}") for camera in cameras]
        draws = [torch.rand(views.height * views.width, count, generator=generator) for generator in random]
        return to_device(torch.cat(draws), self.occupancy.device).to(self.occupancy)

    def _occupied(self, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
        """Whether their cells have a density above 0.01; others are skipped."""
        cell = ((points / self.bound * 0.5 + 0.5) * _CELLS).long().clamp(0, _CELLS - 1)
        return self.occupancy[cell[:, 0], cell[:, 1], cell[:, 2]] > 0.01

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = {"encoding": list(self.encoding.parameters()), "network": list(self.network.parameters())}
        parameters |= {"sky": [self.sky]} if self.owns_background else {}
        return [{"name": name, "params": group, "lr": self.rates.at(0)[name]} for name, group in parameters.items()]

    def regularizer(self) -> Tensor | float:
        """The penalties, summed over the rays that were seen last and divided by the number of views."""
        if self._marched is None:
            return 0
        marched, rays, views = self._marched
        penalties, step = self.penalties, self.bound / 64
        return penalties.total(self._step, marched, rays, lambda points: self.radiance(points)[0], step) / views

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._step = int(self.iteration)

    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        self.advance(optimizer, step)
        if self.occupancy_every and (step + 1) % self.occupancy_every == 0:
            self._update_occupancy(generator)

    def advance(self, optimizer: Optimizer, step: int) -> None:
        """Go to the iteration after a step: its learning rates, and nothing that was seen before."""
        self._step = step + 1
        self.iteration.fill_(self._step)
        self._marched = None
        set_rates(optimizer, self.rates.at(step + 1))

    @torch.no_grad()
    def _update_occupancy(self, generator: torch.Generator) -> None:
        """Remember the density at a random place of each cell, and 0.8 of what was remembered."""
        inside = torch.rand(_CELLS**3, 3, generator=generator).to(self.occupancy)
        torch.maximum(self.occupancy * 0.8, self.cell_densities(inside), out=self.occupancy)

    @torch.no_grad()
    def cell_densities(self, inside: Float[Tensor, "N 3"] | float = 0.5) -> Float[Tensor, "G G G"]:
        """The density in each cell of the occupancy grid, at these shares of the cell; in its middle by default."""
        axes = [torch.arange(_CELLS, device=self.occupancy.device)] * 3
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        points = ((cells + inside) / _CELLS * 2 - 1) * self.bound
        return self.radiance(points.to(self.occupancy))[0].view_as(self.occupancy)


def _network(width: int, hidden: int, generator: torch.Generator) -> nn.Module:
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 4)] if hidden else [nn.Linear(width, 4)]
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = (3 / layer.in_features) ** 0.5
            layer.weight.data.uniform_(-bound, bound, generator=generator)
            layer.bias.data.zero_()
    return network
