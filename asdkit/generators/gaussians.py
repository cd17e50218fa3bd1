"""3D Gaussian splatting, or 2D, as a generator in a store of fixed capacity."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from asdkit.core.parts import require
from asdkit.core.ramps import Ramp, ends, value_at
from asdkit.formats.splats import Splats, activate
from asdkit.generators.base import Render, Saturate
from asdkit.generators.density_control import Density, Fraction
from asdkit.generators.gaussian_start import Start, splats_from, thin
from asdkit.generators.gaussian_store import GaussianStore
from asdkit.generators.gaussian_volume import volume_of
from asdkit.rendering.cameras import Views
from asdkit.rendering.rasterize import rasterize
from asdkit.rendering.rays import Volume

COUNT_LIMIT = 10_000_000


class Gaussians(GaussianStore):
    """3D Gaussians: positions, rotations, scales, opacities and colours.

    `capacity` slots are allocated once; Gaussians that come and go do not change the shape of anything.

    Args:
        init: where the Gaussians start: "ball" or "box" (random positions), or the path of a file of splats (.ply,
            .splat, .spz, .glb, taken as they are), of a point cloud (.ply) or mesh (.obj, .glb, .stl, .ply), which are
            fitted into the ball, or of another run (its folder or .ckpt): its Gaussians as they are, or of a NeRF
            points of the surface. A mesh's y axis points up and its front faces +z in .glb, .gltf and .obj; other
            files have the world's axes.
        count: Gaussians at the start, 1 to 10 million; a 3DGS file brings its own number.
        capacity: Gaussians at most, at least `count`.
        init_radius: radius of the ball, or half the side of the box, in world units, > 0.
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
        density: what happens in a round: Fraction when left out, or Threshold, MCMC.
        opacity_weight: of the mean opacity, at least 0; in long runs MCMC needs some, for Gaussians to be freed.
        scale_weight: of the mean standard deviation, at least 0, against Gaussians that swell.
        start: what makes points to start from in the place of `init`, such as ShapE; fitted into the ball as well.
        surfels: flat discs (2DGS, arXiv 2403.17888) whose third axis is their normal. At the start they point anywhere,
            unless what they start from has rotations; files hold them as very thin 3D Gaussians.

    Raises:
        ValueError: an argument out of its range, surfels that are antialiased, or a missing or broken file.
    """

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
        density: Density | None = None,
        opacity_weight: float = 0.0,
        scale_weight: float = 0.0,
        start: Start | None = None,
        surfels: bool = False,
    ) -> None:
        super().__init__()
        positive = {
            "init_radius": init_radius, "means_lr": means_lr, "colour_lr": colour_lr, "opacity_lr": opacity_lr,
            "scale_lr": scale_lr, "rotation_lr": rotation_lr, "lr_scale": lr_scale,
        }  # fmt: skip
        for name, number in positive.items():
            for value in ends(number):
                require(0 < value < float("inf"), f"{name} must be a positive number, not {value}.")
        for name, weight in {"opacity_weight": opacity_weight, "scale_weight": scale_weight}.items():
            require(0 <= weight < float("inf"), f"{name} must be a number that is not negative, not {weight}.")
        require(0 <= background <= 1, f"background must be within [0,1], not {background}.")
        require(1 <= count <= COUNT_LIMIT, f"count must be within 1 and 10 million, not {count}.")
        require(count <= capacity <= COUNT_LIMIT, f"capacity must be within {count} and 10 million, not {capacity}.")
        require(0 < init_opacity < 1, f"init_opacity must be within (0,1), not {init_opacity}.")
        require(sh_degree in range(4), f"sh_degree must be 0, 1, 2 or 3, not {sh_degree}.")
        require(densify_every >= 0, f"densify_every must not be negative, but is {densify_every}.")
        require(not (surfels and antialiased), "surfels can't be antialiased: leave out one of the two.")
        self.sh_degree, self.background, self.antialiased, self.surfels = sh_degree, background, antialiased, surfels
        self.rates = (means_lr, rotation_lr, scale_lr, opacity_lr, colour_lr)  # in the order of the parameters
        self.lr_scale = lr_scale
        self.densify_every, self.densify_from, self.densify_until = densify_every, densify_from, densify_until
        self.density = density or Fraction()
        self.opacity_weight, self.scale_weight = opacity_weight, scale_weight
        draws = torch.Generator().manual_seed(init_seed)
        self._seen_now = torch.zeros(2, capacity)  # of this step and rank: sums of gradients, and of views
        splats = splats_from(start or init, count, init_radius, init_opacity, draws, rotated=surfels)
        self.allocate(capacity, sh_degree, thin(splats) if surfels else splats)

    def render(self, views: Views, background: Float[Tensor, "*B 3"] | None = None) -> Render:
        """What the cameras see.

        Args:
            views: B cameras.
            background: colour in [0,1], [3] or [B,3]; None for the grey level given at construction.
        """
        gaussians = activate(self.living())
        device = gaussians.means.device
        if background is None:
            background = gaussians.means.new_full((3,), self.background)
        raster = rasterize(
            *gaussians, views.to(device), background.to(device), sh_degree=self.sh_degree,
            antialiased=self.antialiased, surfels=self.surfels,
        )  # fmt: skip
        if self.densify_every and self.density.follows_gradients and raster.means2d.requires_grad:
            raster.means2d.register_hook(self._statistics(self.living_indices(), raster.radii, views))
        image, alpha, depth = (tensor.permute(0, 3, 1, 2) for tensor in raster[:3])
        return Render(Saturate.apply(image), alpha, depth)

    def _statistics(self, slots: Int64[Tensor, " N"], radii: Tensor, views: Views) -> Callable[[Tensor], None]:
        """A hook for the gradient of screen positions: it adds up norms, in units of half the image."""

        def accumulate(grad: Float[Tensor, "B N 2"]) -> None:
            half_size = torch.stack([grad.new_full((), side / 2) for side in (views.width, views.height)])
            norms = (grad * half_size).norm(dim=-1) * len(grad)
            visible = (radii > 0).all(-1)  # the gradient of the others is zero
            seen = torch.stack([norms.sum(0), visible.sum(0)]).to(self.grad_sum)
            self._seen_now = self._seen_now.to(seen)
            self._seen_now.index_add_(1, slots, seen)

        return accumulate

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for each parameter, with its learning rate."""
        parameters = self.all_slots()._asdict().items()
        return [
            {"name": name, "params": [parameter], "lr": rate}
            for (name, parameter), rate in zip(parameters, self._rates_at(0), strict=True)
        ]

    def regularizer(self) -> Tensor | int:
        """The weighted mean opacity and standard deviation of the Gaussians."""
        if not (self.opacity_weight or self.scale_weight):
            return 0
        gaussians = activate(self.living())
        scales = gaussians.scales[:, :2] if self.surfels else gaussians.scales
        return self.opacity_weight * gaussians.opacities.mean() + self.scale_weight * scales.mean()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, generator: torch.Generator) -> None:
        """Sets the next iteration's learning rates, and has a round of density control when it is time."""
        done = step + 1
        for parameter, rate in zip(self.all_slots(), self._rates_at(done), strict=True):
            for group in optimizer.param_groups:
                if any(member is parameter for member in group["params"]):
                    group["lr"] = rate
        if not self.densify_every:
            return
        self._share_statistics()
        if done % self.densify_every == 0:
            if self.densify_from <= done <= self.densify_until:
                self.density.round(self, optimizer, done // self.densify_every, generator)
            self.grad_sum.zero_()
            self.grad_count.zero_()
        self.density.every_step(self, self._rates_at(step)[0], generator)

    def _share_statistics(self) -> None:
        """Adds up this step's gradients of all ranks, so that all decide alike and one checkpoint is everybody's."""
        if not self.density.follows_gradients:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._seen_now)
        self.grad_sum += self._seen_now[0].to(self.grad_sum)
        self.grad_count += self._seen_now[1].to(self.grad_count)
        self._seen_now = torch.zeros_like(self._seen_now)

    def _rates_at(self, step: int) -> list[float]:
        """The learning rates at a step, in the order of the parameters."""
        return [value_at(self.lr_scale, step) * value_at(rate, step) for rate in self.rates]

    @torch.no_grad()
    def splats(self) -> Splats:
        """The Gaussians that are alive, as arrays for files."""
        return Splats(*(parameter.float().cpu().numpy() for parameter in self.living()))

    def volume(self) -> Volume:
        """The Gaussians as a density, see `volume_of`; surfels are as thick as wide, or a grid would miss them."""
        splats = Splats(*(parameter.detach().float().cpu() for parameter in self.living()))
        if self.surfels:
            wide = splats.log_scales[:, :2]
            splats = splats._replace(log_scales=torch.column_stack([wide, wide.mean(1)]))
        return volume_of(splats)
