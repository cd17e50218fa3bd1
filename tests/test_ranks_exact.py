"""Two processes against one that sees both their cameras, noise levels and noises at once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from two import Exact, fit, furthest, learned, on_two_ranks

from asdkit import distillation
from asdkit.adapters import LoRA
from asdkit.callbacks.agreement import Agreement
from asdkit.data import Cameras, Canvas
from asdkit.generators.base import Generator, Render, Saturate
from asdkit.generators.density import Threshold
from asdkit.generators.encodings import Voxels
from asdkit.generators.gaussians import Gaussians
from asdkit.generators.images import Pixels
from asdkit.generators.nerf import NeRF
from asdkit.guidance import ASD
from asdkit.prior import Noised
from asdkit.priors.pretrained import Pretrained
from asdkit.randomness import generator_for
from asdkit.views import Shot, Views, joined

SEED = 3


class Together(Exact):
    """Draws what two ranks draw, one after the other, and takes both for one batch."""

    def training_step(self, batch: Views | Shot, batch_idx: int) -> dict[str, Tensor]:
        if isinstance(batch, Views):
            cameras, step = self.trainer.datamodule, self.global_step
            batch = joined([cameras.sample(generator_for(SEED, step, "views", rank), step) for rank in (0, 1)])
        return super().training_step(batch, batch_idx)

    def backdrop(self, step: int) -> Tensor:
        colours = []
        for rank in (0, 1):
            grey = torch.rand(2, generator=generator_for(SEED, step, "background", rank))
            level = 0.5 + 0.5 * grey[1] if grey[0] < self.random_background else torch.tensor(self.background)
            colours.append(level.expand(2, 3))
        return torch.cat(colours)

    def draw(self, x0: Tensor, shot: Shot, step: int, purpose: str) -> Noised:
        t, eps = [], []
        for half, rank in zip(x0.chunk(2), (0, 1), strict=True):
            random = generator_for(SEED, step, purpose, rank)
            t.append(self.timesteps.draw(len(half), step, len(self.prior.schedule), random))
            eps.append(torch.randn(half.shape, generator=random))
        return self.prior.draw(x0, torch.cat(t), torch.cat(eps), shot.views, step=step)


class BothNeRF(NeRF):
    def _jitter(self, rays: int, count: int, purpose: str) -> Tensor | float:
        if not torch.is_grad_enabled():
            return 0.5
        draws = [generator_for(0, int(self.iteration), purpose, rank) for rank in (0, 1)]
        return torch.cat([torch.rand(rays // 2, count, generator=random) for random in draws]).double()


class BothPixels(Pixels):
    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        images = Saturate.apply(self.pixels.repeat(2, 1, 1, 1))
        return Render(images, torch.ones_like(images[:, :1]), torch.zeros_like(images[:, :1]))


def gaussians(together: bool) -> Generator:
    """Anisotropic: else gradients of rotations would be rounding noise, which Adam makes as large as any other."""
    density = Threshold(gradient=1e-7, reset_rounds=2)
    made = Gaussians(
        count=40, capacity=120, init_opacity=0.5, densify_every=2, densify_from=2, density=density, sh_degree=1
    )
    random = torch.Generator().manual_seed(7)
    for parameter in made.in_order():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=random)
    return made


def nerf(together: bool) -> Generator:
    kind = BothNeRF if together else NeRF
    return kind(Voxels(resolutions=(4, 8)), samples=8, importance=4, hidden=8, occupancy_every=2, z_variance_weight=0.1)


def pixels(together: bool) -> Generator:
    return (BothPixels if together else Pixels)(init="noise", count=2, size=16)


KINDS = {"gaussians": gaussians, "nerf": nerf, "pixels": pixels}


def run(prior: Path, kind: str, strategy: str = "", callbacks: tuple = (), **options: object) -> dict[str, Tensor]:
    """Six iterations, as one of two ranks or, without a strategy, as both in one process."""
    generator = KINDS[kind](not strategy)
    guidance = ASD(adapter=LoRA(rank=2, targets=("to_q", "to_v", "conv1")), scale=3.0, gamma=-0.5)
    words = {"prompt": "a red cube", "prior": Pretrained(str(prior)), "random_background": 0.5, "seed": SEED}
    module = (Exact if strategy else Together)(generator=generator, guidance=guidance, **words, **options)
    data = Canvas() if kind == "pixels" else Cameras(views_per_step=2, size=16)
    return learned(fit(module, data, strategy, callbacks=list(callbacks)))


def both(prior: Path, folder: Path, kind: str, strategy: str = "ddp", **options: object) -> list[dict[str, Tensor]]:
    return on_two_ranks(lambda rank: run(prior, kind, strategy, **options), folder)


@pytest.mark.parametrize("critic_steps", [1, 2])
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_ranks_are_one_process_with_both_batches(
    tiny_folder: Path, tmp_path: Path, kind: str, critic_steps: int
) -> None:
    first, second = both(tiny_folder, tmp_path, kind, critic_steps=critic_steps)
    assert isinstance(first, dict), first
    alone = run(tiny_folder, kind, critic_steps=critic_steps)
    difference, where = furthest(first, alone)
    assert difference < 1e-6, where
    assert furthest(first, second)[0] == 0
    if kind == "gaussians":
        assert int(first["generator.alive"].sum()) > 50, "nothing has grown"
