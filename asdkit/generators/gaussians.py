"""3D Gaussian splatting, or 2D, as a generator in a store of fixed capacity."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.optim import Optimizer

from asdkit.core.bounds import Share, Within
from asdkit.core.parts import require
from asdkit.core.text import existing
from asdkit.formats.splat_files import is_splats, read_splats
from asdkit.formats.splats import Splats, activate
from asdkit.generators import from_checkpoint as checkpoints
from asdkit.generators.base import Generator, Render, Saturate, needs_cameras, set_rates
from asdkit.generators.density_control import MCMC, Density, GaussianStore
from asdkit.generators.gaussian_settings import GaussianPenalties, GaussianRates, Initial, Rounds
from asdkit.generators.gaussian_start import Start, splats_from, thin, whereabouts
from asdkit.generators.gaussian_volume import volume_of
from asdkit.rendering.cameras import Views
from asdkit.rendering.rasterize import Mode, rasterize
from asdkit.rendering.rays import Volume

_log = logging.getLogger(__name__)
Number = Annotated[int, Within(1, 10_000_000)]


class Gaussians(GaussianStore):
    """An object made of 3D Gaussians, which have positions, rotations, scales, opacities and colours.

    `capacity` slots are allocated once; Gaussians that come and go do not change the shape of anything.

    Args:
        init: where the Gaussians start. "ball" and "box" give random positions. The path of a file of splats (.ply,
            .splat, .spz, .glb) takes them as they are. A point cloud (.ply) or mesh (.obj, .glb, .stl, .ply) is fitted
            into the ball. Another run (its folder or .ckpt) gives its Gaussians as they are, or points on the surface
            of its NeRF. In .glb, .gltf and .obj files a mesh's y axis points up and its front faces +z; other files
            have the world's axes.
        start: a part that makes the points to start from in place of `init`, such as ShapE; fitted into the ball, too.
        initial: the size, opacity and seed of the start.
        count: the number of Gaussians at the start; a 3DGS file brings its own number.
        capacity: the largest number of Gaussians, at least `count`. More of them show finer detail and take more time.
        sh_degree: the degree of the spherical harmonics. From 1 on, colours depend on the direction of view.
        background: the grey level behind the Gaussians when the caller gives none; 1 is white.
        mode: how Gaussians are drawn. "classic" is plain 3DGS. "antialiased" dims Gaussians smaller than a pixel, so
            that other resolutions look alike. "surfels" draws flat discs (2DGS, arXiv 2403.17888), whose third axis is
            their normal; at the start it points anywhere, unless the start has rotations. Files hold surfels as very
            thin 3D Gaussians.
        rates: the learning rates.
        rounds: when density control grows and prunes.
        density: the decisions of such a round: MCMC when left out, Fraction or Threshold.
        penalties: the terms that are added to the loss.
    """

    def __init__(
        self,
        init: str = "ball",
        start: Start | None = None,
        initial: Initial = Initial(),
        count: Number = 2000,
        capacity: Number = 4000,
        sh_degree: Annotated[int, Within(0, 3)] = 0,
        background: Share = 1.0,
        mode: Mode = "classic",
        rates: GaussianRates = GaussianRates(),
        rounds: Rounds = Rounds(),
        density: Density | None = None,
        penalties: GaussianPenalties = GaussianPenalties(),
    ) -> None:
        super().__init__()
        require(count <= capacity, f"capacity must be at least {count}, the count, not {capacity}.")
        self.sh_degree, self.background, self.mode = sh_degree, background, mode
        self.rates, self.rounds, self.density, self.penalties = rates, rounds, density or MCMC(), penalties
        self._seen = False  # whether any camera has seen any, or it was told that none has
        self._step_statistics = torch.zeros(2, capacity)  # of this step and rank: sums of gradients, and of views
        splats = splats_from(start or init, count, initial, rotated=mode == "surfels")
        self.allocate(capacity, sh_degree, thin(splats) if mode == "surfels" else splats)

    def render(self, views: Views | None, background: Float[Tensor, "*B 3"] | None = None) -> Render:
        device = self.means.device
        views = needs_cameras(self, views).to(device)
        behind = self.means.new_full((3,), self.background) if background is None else background
        raster = rasterize(*activate(self.living()), views, behind.to(device), sh_degree=self.sh_degree, mode=self.mode)
        self._seen = self._seen or bool(raster.radii.any())
        if self.rounds.every and self.density.follows_gradients and raster.means2d.requires_grad:
            raster.means2d.register_hook(self._statistics(self.living_indices(), raster.radii, views))
        image, alpha, depth = (tensor.permute(0, 3, 1, 2) for tensor in raster[:3])
        return Render(Saturate.apply(image), alpha, depth)

    def _statistics(self, slots: Int64[Tensor, " N"], radii: Tensor, views: Views) -> Callable[[Tensor], None]:
        """A hook for the gradient of screen positions: it adds up norms, in units of half the image."""

        def accumulate(grad: Float[Tensor, "B N 2"]) -> None:
            half_size = torch.stack([grad.new_full((), side / 2) for side in (views.width, views.height)])
            norms = (grad * half_size).norm(dim=-1) * len(grad)
            visible = (radii > 0).all(-1)  # the gradient of the others is zero
            sums = torch.stack([norms.sum(0), visible.sum(0)]).to(self.grad_sum)
            self._step_statistics = self._step_statistics.to(sums)
            self._step_statistics.index_add_(1, slots, sums)

        return accumulate

    def parameter_groups(self) -> list[dict[str, Any]]:
        rates, slots = self.rates.at(0), self.all_slots()._asdict()
        return [{"name": name, "params": [parameter], "lr": rates[name]} for name, parameter in slots.items()]

    def regularizer(self) -> Tensor | float:
        weights = self.penalties
        if not (weights.opacity or weights.scale):
            return 0
        gaussians = activate(self.living())
        sizes = gaussians.scales[:, :2] if self.mode == "surfels" else gaussians.scales
        total: Tensor = weights.opacity * gaussians.opacities.mean() + weights.scale * sizes.mean()
        return total

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        done = step + 1
        if not self._seen:
            self._seen = True
            advice = "--model.generator.initial.fit=true moves them to where cameras look"
            where = whereabouts(self.living().means)
            _log.warning("No camera sees any of the %d Gaussians: %s; %s.", self.num_alive, where, advice)
        set_rates(optimizer, self.rates.at(done))
        if not self.rounds.every:
            return
        if self.density.follows_gradients:  # those of all ranks, so that all decide alike, and checkpoints are the same
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(self._step_statistics)
            self.grad_sum += self._step_statistics[0].to(self.grad_sum)
            self.grad_count += self._step_statistics[1].to(self.grad_count)
            self._step_statistics = torch.zeros_like(self._step_statistics)
        if done % self.rounds.every == 0:
            if self.rounds.first <= done <= self.rounds.last:
                self.density.round(self, optimizer, done // self.rounds.every, generator)
            self.grad_sum.zero_()
            self.grad_count.zero_()
        self.density.every_step(self, self.rates.at(step)["means"], generator)

    def splats(self) -> Splats:
        return Splats(*(parameter.detach().float().cpu().numpy() for parameter in self.living()))

    def volume(self) -> Volume:
        """The Gaussians as a density, see `volume_of`; surfels are as thick as wide, or a grid would miss them."""
        splats = self.splats().tensors()
        if self.mode == "surfels":
            wide = splats.log_scales[:, :2]
            splats = splats._replace(log_scales=torch.column_stack([wide, wide.mean(1)]))
        return volume_of(splats)


def object_of(path: Path) -> Generator:
    """The object in a run folder, a checkpoint or a file of Gaussians; a ValueError if it is missing or broken."""
    existing(path)
    if not is_splats(path):
        return checkpoints.generator_of(path)
    splats = read_splats(path)
    count, coefficients = splats.sh.shape[:2]
    return Gaussians(str(path), count=1, capacity=count, sh_degree=math.isqrt(coefficients) - 1)
