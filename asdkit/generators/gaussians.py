"""3D Gaussian splatting as a generator, in a store of fixed capacity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from asdkit import ply
from asdkit.files import atomic
from asdkit.generators.base import Generator, Render, Saturate, Solid
from asdkit.generators.gaussians_init import Cloud, cloud_from
from asdkit.generators.gaussians_solid import solid_of
from asdkit.ramps import Ramp, ends, value_at
from asdkit.rasterizers import rasterize
from asdkit.rasterizers.projection import rotation_matrices
from asdkit.views import Views

COUNT_LIMIT = 10_000_000
SPLIT_SHRINK = 1.6  # the halves of a split Gaussian are this much smaller


class Gaussians(Generator):
    """3D Gaussians: positions, rotations, scales, opacities and colours.

    `capacity` slots are allocated once and a mask says which are alive. Growing writes into dead slots and pruning
    clears the mask, so that parameters, the optimiser's state and checkpoints never change their shape.

    Args:
        init: where the Gaussians start: "ball" (random positions), or the path of a 3DGS file (.ply, taken as it is),
            of a point cloud (.ply) or of a mesh (.obj, .glb, .stl, .ply); clouds and meshes are fitted into the ball.
        count: Gaussians at the start, 1 to 10 million; a 3DGS file brings its own number.
        capacity: Gaussians at most, at least `count`.
        init_radius: radius of the ball in world units, > 0.
        init_opacity: opacity at the start, within (0, 1).
        init_seed: seed of the initial positions and colours.
        sh_degree: 0 to 3; colours depend on the direction of view from 1 on.
        background: grey level in [0,1] behind the Gaussians when the caller gives none; 1 is white.
        antialiased: dim Gaussians smaller than a pixel, so that other resolutions look alike.
        means_lr: learning rate of positions in world units, > 0; like all rates it may move with the iterations.
        colour_lr: learning rate of colours, > 0.
        opacity_lr: learning rate of opacities (logits), > 0.
        scale_lr: learning rate of scales (logarithms), > 0.
        rotation_lr: learning rate of rotations, > 0.
        lr_scale: factor of all these rates, > 0, e.g. a ramp to 0.1 to settle the noise that distillation leaves.
        densify_every: iterations between two rounds of growing and pruning; 0 for never.
        densify_from: iterations before the first round.
        densify_until: iterations after which there are no more rounds.
        densify_fraction: part of the Gaussians that grows in a round, in [0,1]: those with the largest mean gradient
            on the screen.
        split_scale: a growing Gaussian is split in two smaller ones if its largest standard deviation is above this
            (world units, > 0), and is doubled otherwise.
        prune_opacity: Gaussians less opaque than this die in a round, in [0,1).
        prune_scale: Gaussians with a standard deviation above this die in a round, world units, > 0.

    Raises:
        ValueError: an argument out of its range, or a missing or broken file.
    """

    alive: Bool[Tensor, " C"]
    grad_sum: Float[Tensor, " C"]
    grad_count: Float[Tensor, " C"]

    def __init__(
        self,
        init: str = "ball",
        count: int = 2000,
        capacity: int = 4000,
        init_radius: float = 0.5,
        init_opacity: float = 0.1,
        init_seed: int = 0,
        sh_degree: int = 0,
        background: float = 1.0,
        antialiased: bool = False,
        means_lr: float | Ramp = 0.001,
        colour_lr: float | Ramp = 0.01,
        opacity_lr: float | Ramp = 0.05,
        scale_lr: float | Ramp = 0.005,
        rotation_lr: float | Ramp = 0.005,
        lr_scale: float | Ramp = 1.0,
        densify_every: int = 100,
        densify_from: int = 200,
        densify_until: int = 2000,
        densify_fraction: float = 0.05,
        split_scale: float = 0.03,
        prune_opacity: float = 0.01,
        prune_scale: float = 0.5,
    ) -> None:
        super().__init__()
        positive = {
            "init_radius": init_radius, "means_lr": means_lr, "colour_lr": colour_lr, "opacity_lr": opacity_lr,
            "scale_lr": scale_lr, "rotation_lr": rotation_lr, "lr_scale": lr_scale, "split_scale": split_scale,
            "prune_scale": prune_scale,
        }  # fmt: skip
        for name, number in positive.items():
            for value in ends(number):
                _require(0 < value < float("inf"), f"{name} must be a positive number, not {value}.")
        for name, value in {"background": background, "densify_fraction": densify_fraction}.items():
            _require(0 <= value <= 1, f"{name} must be within [0,1], not {value}.")
        _require(1 <= count <= COUNT_LIMIT, f"count must be within 1 and 10 million, not {count}.")
        _require(count <= capacity <= COUNT_LIMIT, f"capacity must be within {count} and 10 million, not {capacity}.")
        _require(0 < init_opacity < 1, f"init_opacity must be within (0,1), not {init_opacity}.")
        _require(0 <= prune_opacity < 1, f"prune_opacity must be within [0,1), not {prune_opacity}.")
        _require(sh_degree in range(4), f"sh_degree must be 0, 1, 2 or 3, not {sh_degree}.")
        _require(densify_every >= 0, f"densify_every must not be negative, but is {densify_every}.")
        self.sh_degree, self.background, self.antialiased = sh_degree, background, antialiased
        self.rates = (means_lr, rotation_lr, scale_lr, opacity_lr, colour_lr)  # in the order of the parameters
        self.lr_scale = lr_scale
        self.densify_every, self.densify_from, self.densify_until = densify_every, densify_from, densify_until
        self.densify_fraction, self.split_scale = densify_fraction, split_scale
        self.prune_opacity, self.prune_scale = prune_opacity, prune_scale
        draws = torch.Generator().manual_seed(init_seed)
        self._allocate(capacity, cloud_from(init, count, init_radius, init_opacity, draws))

    def _allocate(self, capacity: int, cloud: Cloud) -> None:
        count = len(cloud.means)
        _require(count <= capacity, f"capacity must be at least {count}, the file's number of Gaussians.")
        self.means = nn.Parameter(torch.zeros(capacity, 3))
        self.quats = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(capacity, 1))
        self.log_scales = nn.Parameter(torch.zeros(capacity, 3))
        self.opacity_logits = nn.Parameter(torch.zeros(capacity))
        self.sh = nn.Parameter(torch.zeros(capacity, (self.sh_degree + 1) ** 2, 3))
        self.register_buffer("alive", torch.arange(capacity) < count)
        self.register_buffer("grad_sum", torch.zeros(capacity))
        self.register_buffer("grad_count", torch.zeros(capacity))
        for parameter, values in zip(self._parameters_in_order(), cloud, strict=True):
            values = values[:, : parameter.shape[1]] if parameter is self.sh else values
            parameter.data[(slice(count), *(slice(size) for size in values.shape[1:]))] = values

    def _parameters_in_order(self) -> tuple[nn.Parameter, ...]:
        """All parameters, in the order of `Cloud` and `ply.Splats`."""
        return self.means, self.quats, self.log_scales, self.opacity_logits, self.sh

    @property
    def num_alive(self) -> int:
        """The number of Gaussians."""
        return int(self.alive.sum())

    def render(self, views: Views, background: Float[Tensor, "*B 3"] | None = None) -> Render:
        """What the cameras see.

        Args:
            views: B cameras.
            background: colour in [0,1], [3] or [B,3]; None for the grey level given at construction.
        """
        slots = self.alive.nonzero().squeeze(1)
        means, quats, log_scales, opacity_logits, sh = (
            parameter.index_select(0, slots) for parameter in self._parameters_in_order()
        )
        if background is None:
            background = means.new_full((3,), self.background)
        raster = rasterize(
            means, quats, log_scales.exp(), opacity_logits.sigmoid(), sh, views.to(means.device),
            background.to(means.device), sh_degree=self.sh_degree, antialiased=self.antialiased,
        )  # fmt: skip
        if self.densify_every and raster.means2d.requires_grad:
            raster.means2d.register_hook(self._statistics(slots, raster.radii, views))
        image, alpha, depth = (tensor.permute(0, 3, 1, 2) for tensor in raster[:3])
        return Render(Saturate.apply(image), alpha, depth)

    def _statistics(self, slots: Int64[Tensor, " N"], radii: Tensor, views: Views) -> Callable[[Tensor], None]:
        """A hook for the gradient of screen positions: it adds up norms, in units of half the image."""

        def accumulate(grad: Float[Tensor, "B N 2"]) -> None:
            half_size = grad.new_tensor([views.width / 2, views.height / 2])
            norms = (grad * half_size).norm(dim=-1) * len(grad)
            visible = (radii > 0).all(-1)  # the gradient of the others is zero
            self.grad_sum.index_add_(0, slots, norms.sum(0).to(self.grad_sum.dtype))
            self.grad_count.index_add_(0, slots, visible.sum(0).to(self.grad_count.dtype))

        return accumulate

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for each parameter, with its learning rate."""
        names = ("means", "quats", "log_scales", "opacity_logits", "sh")
        return [
            {"name": name, "params": [parameter], "lr": rate}
            for name, parameter, rate in zip(names, self._parameters_in_order(), self._rates_at(0), strict=True)
        ]

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, generator: torch.Generator) -> None:
        """Sets the next iteration's learning rates, and every `densify_every` iterations prunes and grows."""
        done = step + 1
        for parameter, rate in zip(self._parameters_in_order(), self._rates_at(done), strict=True):
            for group in optimizer.param_groups:
                if any(mine is parameter for mine in group["params"]):
                    group["lr"] = rate
        if not self.densify_every or done % self.densify_every:
            return
        if self.densify_from <= done <= self.densify_until:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(self.grad_sum)
                torch.distributed.all_reduce(self.grad_count)
            self._forget(optimizer, self._prune())
            self._forget(optimizer, self._grow(generator))
        self.grad_sum.zero_()
        self.grad_count.zero_()

    def _rates_at(self, step: int) -> list[float]:
        """The learning rates at a step, in the order of the parameters."""
        return [value_at(self.lr_scale, step) * value_at(rate, step) for rate in self.rates]

    def _prune(self) -> Int64[Tensor, " M"]:
        """Kills faint and huge Gaussians, but never the last one; returns their slots."""
        opacities = self.opacity_logits.sigmoid()
        huge = self.log_scales.amax(1).exp() > self.prune_scale
        doomed = self.alive & ((opacities < self.prune_opacity) | huge)
        doomed[opacities.where(self.alive, -torch.ones_like(opacities)).argmax()] = False
        self.alive &= ~doomed
        return doomed.nonzero().squeeze(1)

    def _grow(self, generator: torch.Generator) -> Int64[Tensor, " M"]:
        """Doubles small and splits large Gaussians of large gradient; returns the slots that have a new content."""
        free = (~self.alive).nonzero().squeeze(1)
        seen = self.alive & (self.grad_sum > 0)
        wanted = round(self.densify_fraction * self.num_alive)
        number = min(wanted, len(free), int(seen.sum()))
        mean_grad = (self.grad_sum / self.grad_count.clamp(min=1)).where(seen, -torch.ones_like(self.grad_sum))
        parents = mean_grad.argsort(descending=True, stable=True)[:number]
        children = free[:number]
        for parameter in self._parameters_in_order():
            parameter.data[children] = parameter.data[parents]
        self.alive[children] = True
        draws = torch.randn(2, number, 3, generator=generator).to(self.means)
        large = self.log_scales.data[parents].amax(1).exp() > self.split_scale
        self._split(parents[large], children[large], draws[:, large])
        self._double(parents[~large], children[~large])
        return torch.cat([children, parents[large]])

    def _split(
        self, parents: Int64[Tensor, " M"], children: Int64[Tensor, " M"], draws: Float[Tensor, "2 M 3"]
    ) -> None:
        """Moves parent and child to two draws from the parent's Gaussian and makes both smaller."""
        rotation = rotation_matrices(self.quats.data[parents])
        offsets = (rotation @ (draws * self.log_scales.data[parents].exp())[..., None]).squeeze(-1)
        for slots, offset in zip((parents, children), offsets, strict=True):
            self.means.data[slots] += offset
            self.log_scales.data[slots] -= torch.tensor(SPLIT_SHRINK).log().to(self.log_scales)

    def _double(self, parents: Int64[Tensor, " M"], children: Int64[Tensor, " M"]) -> None:
        """Makes parent and child so faint that together they look like the parent did: 1 - (1-o)^2 = the old o."""
        opacity = 1 - (1 - self.opacity_logits.data[parents].sigmoid()).sqrt()
        logits = opacity.clamp(1e-6, 1 - 1e-6).logit()
        self.opacity_logits.data[parents] = logits
        self.opacity_logits.data[children] = logits

    def _forget(self, optimizer: torch.optim.Optimizer, slots: Int64[Tensor, " M"]) -> None:
        """Zeroes what the optimiser remembers about slots."""
        for parameter in self._parameters_in_order():
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[slots] = 0

    @torch.no_grad()
    def splats(self) -> ply.Splats:
        """The Gaussians that are alive, as files hold them."""
        return ply.Splats(*(parameter[self.alive].float().cpu().numpy() for parameter in self._parameters_in_order()))

    def solid(self) -> Solid:
        """The Gaussians as a density, see `solid_of`."""
        return solid_of(self.splats())

    def export_ply(self, path: str | Path) -> None:
        """Writes the Gaussians as a 3DGS file.

        Raises:
            ValueError: a value is not finite.
        """
        ply.write_splats(path, self.splats())

    def export(self, folder: Path) -> list[Path]:
        """Writes `splats.ply`, a 3DGS file."""
        path = folder / "splats.ply"
        with atomic(path) as temporary:
            self.export_ply(temporary)
        return [path]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
