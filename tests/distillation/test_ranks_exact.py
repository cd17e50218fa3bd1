"""Two processes against one that sees both their cameras, noise levels and noises at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.two import Exact, fit, furthest, learned, on_two_ranks
from torch import Tensor
from torch.distributed.tensor import DTensor

import asdkit
from asdkit import distillation
from asdkit.core.randomness import generator_for
from asdkit.discriminators.adapters import adapter_of
from asdkit.generators.base import Render, Saturate
from asdkit.priors import pretrained
from asdkit.ranks import average_gradients
from asdkit.rendering.cameras import Batch, Views, joined
from asdkit.run.guard import RankAgreement
from asdkit.scores.draws import Draws
from asdkit.scores.prior import Noised

SEED = 3


class BothDraws(Draws):
    """What two ranks draw, one after the other."""

    def draw(self, x0: Tensor, batch: Batch, step: int, purpose: str, rank: int = 0) -> Noised:
        t, eps = [], []
        for half, rank in zip(x0.chunk(2), (0, 1), strict=True):
            random = generator_for(SEED, step, purpose, rank)
            t.append(self.timesteps.draw(len(half), step, len(self.prior.schedule), random))
            eps.append(torch.randn(half.shape, generator=random))
        return self.prior.draw(x0, torch.cat(t), torch.cat(eps), batch.views, step=step)


class Together(Exact):
    """Takes what two ranks see and draw for one batch."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.draws = BothDraws(self.prior, self.timesteps, SEED)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if batch.views is not None:
            cameras, step = self.trainer.datamodule, self.global_step
            views = [cameras.sample(generator_for(SEED, step, "views", rank), step) for rank in (0, 1)]
            batch = Batch(joined(views))
        return super().training_step(batch, batch_idx)

    def backdrop(self, step: int) -> Tensor:
        colours = []
        for rank in (0, 1):
            grey = torch.rand(2, generator=generator_for(SEED, step, "background", rank))
            level = 0.5 + 0.5 * grey[1] if grey[0] < 0.5 else torch.tensor(0.85)
            colours.append(level.expand(2, 3))
        return torch.cat(colours)


class BothPixels(asdkit.Pixels):
    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        images = Saturate.apply(self.pixels.repeat(2, 1, 1, 1))
        return Render(images, torch.ones_like(images[:, :1]), torch.zeros_like(images[:, :1]))


class BothNoises(asdkit.Network):
    calls = 0

    def encoded(self, prior: asdkit.Prior, batch: Batch, *how: Any, **more: Any) -> tuple[Tensor, None]:
        step, self.calls = self.calls, self.calls + 1
        randoms = [generator_for(SEED, step, "generator", rank) for rank in (0, 1)]
        parts = [super(BothNoises, self).encoded(prior, batch, random=random)[0] for random in randoms]
        return torch.cat(parts), None


def gaussians(together: bool, density: asdkit.Density | None = None) -> asdkit.Generator:
    """Anisotropic: else gradients of rotations would be rounding noise, which Adam makes as large as any other."""
    density = density or asdkit.Threshold(gradient=1e-7, reset_rounds=2)
    how = {"initial": asdkit.Initial(opacity=0.5), "rounds": asdkit.Rounds(every=2, first=2), "density": density}
    made = asdkit.Gaussians(count=40, capacity=120, sh_degree=1, **how)
    random = torch.Generator().manual_seed(7)
    for parameter in made.all_slots():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=random)
    return made


KINDS: dict[str, Callable[[bool], asdkit.Generator]] = {
    "amortized": lambda together: asdkit.Amortized3D(resolution=8, features=2, width=4, samples=8),
    "gaussians": gaussians,
    "mcmc": lambda together: gaussians(together, asdkit.MCMC(growth=0.2)),
    "nerf": lambda together: asdkit.NeRF(
        asdkit.Voxels(resolutions=(4, 8)), samples=8, importance=4, hidden=8, occupancy_every=2,
        penalties=asdkit.NeRFPenalties(z_variance=0.1),
    ),
    "pixels": lambda together: (BothPixels if together else asdkit.Pixels)(init="noise", count=2, size=16),
    "network": lambda together: (BothNoises if together else asdkit.Network)(count=2, size=16, average=0.8),
}  # fmt: skip


def small_lora(prior: Path) -> asdkit.Adapter:
    return asdkit.LoRA(rank=2, targets=("to_q", "to_v", "conv1"))


def run(
    prior: Path, kind: str, strategy: str = "", fits: dict | None = None, save: Path | None = None,
    adapter: Callable[[Path], asdkit.Adapter] = small_lora, chunk: int = 0, **settings: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Four iterations, as one of two ranks or, without a strategy, as both in one process; `fits` are fit's options."""
    settings |= {"rendering": asdkit.Rendering(random_background=0.5, chunk=chunk), "seed": SEED}
    guidance, model = asdkit.ASD(adapter=adapter(prior), scale=3.0, gamma=-0.5), Exact if strategy else Together
    module = model("a red cube", asdkit.Pretrained(str(prior)), KINDS[kind](not strategy), guidance, **settings)
    data = asdkit.Canvas() if kind in ("pixels", "network") else asdkit.Cameras(views_per_step=2, size=16)
    trainer = fit(module, data, strategy, **fits or {})
    steps = max(int(state["step"]) for state in trainer.optimizers[0].state.values())
    assert steps == trainer.global_step, "one iteration is one global step, however often the discriminator steps"
    if save:
        trainer.save_checkpoint(save)
    return learned(trainer)


def both(prior: Path, folder: Path, kind: str, strategy: str = "ddp", **options: Any) -> list[dict[str, Tensor]]:
    return on_two_ranks(lambda rank: run(prior, kind, strategy, **options), folder)


def assert_same(first: dict[str, Tensor] | str, other: dict[str, Tensor], most: float = 1e-6) -> None:
    assert isinstance(first, dict), first
    difference, where = furthest(first, other)
    assert difference <= most, where


class Weigh(pl.Callback):
    """Looks what of the prior's network a rank holds between two steps: half, and phi whole."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        for prior in pl_module.prior.models:
            named = dict(prior.network.named_parameters())
            phi = {name for name in named if adapter_of(name)}
            assert bool(phi) == (prior is pl_module.prior.models[-1]), "phi is in the last of them"
            assert not any(isinstance(named[name], DTensor) for name in phi)
            spread = [named[name] for name in named.keys() - phi]
            whole = [name for name in named.keys() - phi if not isinstance(named[name], DTensor)]
            assert not whole, whole
            assert sum(p.to_local().numel() for p in spread) < 0.55 * sum(p.numel() for p in spread)


def beside(prior: Path) -> asdkit.PeftAdapter:
    """Adapts a model of its own."""
    other = asdkit.Pretrained(str(prior), checkpointing=True)
    return asdkit.PeftAdapter("LoKr", {"r": 2}, ("to_q", "to_v"), prior=other)


STEPS = asdkit.DiscriminatorSteps
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("ddp", "gaussians", {}),
    ("ddp", "mcmc", {"chunk": 1}),
    ("ddp", "nerf", {"chunk": 1}),
    ("ddp", "network", {}),
    ("ddp", "amortized", {"chunk": 1}),
    ("ddp", "pixels", {"discriminator": STEPS(every=2)}),
    ("ddp", "pixels", {"discriminator": STEPS(steps=2, clip=1e-3)}),
    ("ddp", "pixels", {"discriminator": STEPS(share_noise=False)}),
    ("model_parallel", "gaussians", {}),
    ("model_parallel", "pixels", {"discriminator": STEPS(2, clip=1e-3)}),
    ("model_parallel", "pixels", {"adapter": beside}),
]


@pytest.mark.parametrize(("strategy", "kind", "options"), CASES)
def test_two_ranks_are_one_with_both_batches(
    tiny_folder: Path, tmp_path: Path, strategy: str, kind: str, options: dict[str, Any]
) -> None:
    """Also where the prior, or the model that phi adapts, is spread."""
    fits = {"callbacks": [Weigh()] if strategy == "model_parallel" else []}
    first, second = both(tiny_folder, tmp_path, kind, strategy, fits=fits, **options)
    assert_same(first, run(tiny_folder, kind, **options | {"chunk": 0}))
    assert_same(first, second, 0)
    if "generator.alive" in first:
        assert int(first["generator.alive"].sum()) > 40, "nothing has grown"


@pytest.mark.parametrize("halves", [("", "model_parallel"), ("model_parallel", "ddp")])
def test_a_checkpoint_fits_every_strategy(tiny_folder: Path, tmp_path: Path, halves: tuple[str, str]) -> None:
    file = tmp_path / "half.ckpt"

    def part(strategy: str, **options: Any) -> dict[str, Tensor]:
        if strategy:
            return both(tiny_folder, tmp_path, "gaussians", strategy, **options)[0]
        return run(tiny_folder, "gaussians", **options)

    part(halves[0], fits={"steps": 2}, save=file)
    saved = torch.load(file, weights_only=True)
    assert saved["global_step"] == 2 and not [name for name in saved["state_dict"] if name.startswith("prior.")]
    assert_same(part(halves[1], fits={"start": file}), part(""))


def test_a_whole_copy_of_a_spread_network_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for report in both(tiny_folder, tmp_path, "pixels", "model_parallel", adapter=lambda _: asdkit.UNetCopy()):
        assert "ValueError: UNetCopy can't be used with model_parallel" in report


def test_a_broken_average_is_seen(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator's gradients are left as they are."""

    def only_the_generator(optimizer: Any, world_size: int, parts: int) -> list[Tensor]:
        return average_gradients(optimizer, world_size if optimizer.param_groups[0].get("name") else 1, parts)

    monkeypatch.setattr(distillation, "average_gradients", only_the_generator)
    first, second = both(tiny_folder, tmp_path, "pixels")
    assert furthest(first, run(tiny_folder, "pixels"))[0] > 1e-4
    assert furthest(first, second)[0] > 1e-4
    for report in both(tiny_folder, tmp_path, "pixels", fits={"callbacks": [RankAgreement(check_every=2)]}):
        assert "RanksDiffer: After 2 iterations the ranks no longer agree on guidance." in report


def test_a_blind_rank_adds_zeros(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(blind: int) -> dict[str, Tensor]:
        def occupied(self: asdkit.NeRF, points: Tensor) -> Tensor:
            return torch.full((len(points),), int(os.environ["RANK"]) != blind)

        monkeypatch.setattr(asdkit.NeRF, "_occupied", occupied)
        first, second = both(tiny_folder, tmp_path, "nerf", fits={"steps": 1})
        assert_same(first, second, 0)
        return {name: value for name, value in first.items() if name.endswith("/exp_avg") and "er 0/" in name}

    seen_by_0, seen_by_1, seen = gradients(1), gradients(0), gradients(2)
    assert min(float(sum(value.abs().sum() for value in part.values())) for part in (seen_by_0, seen_by_1)) > 0
    for name, value in seen.items():
        assert torch.allclose(seen_by_0[name] + seen_by_1[name], value, atol=1e-12)


class OnRank1(pl.Callback):
    """Does something to the module there after so many iterations."""

    def __init__(self, step: int, act: Callable[[asdkit.Distillation], object]) -> None:
        self.step, self.act = step, act

    def on_train_start(self, trainer: pl.Trainer, pl_module: asdkit.Distillation, *rest: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, 1):
            self.act(pl_module)

    on_train_batch_end = on_train_start


def test_what_differs_on_one_rank_is_seen_by_all(tiny_folder: Path, tmp_path: Path) -> None:
    """One bit of one value; and a mask, before the first step."""

    def nudge(module: asdkit.Distillation) -> None:
        means = module.generator.means.data
        means[3, 1] = means[3, 1].nextafter(torch.tensor(9.0).to(means))

    def kill(module: asdkit.Distillation) -> None:
        module.generator.alive[1] = False

    for step, act, name in ((3, nudge, "means and 0 other"), (0, kill, "alive")):
        fits = {"callbacks": [OnRank1(step, act), RankAgreement(check_every=1)]}
        for report in both(tiny_folder, tmp_path, "gaussians", fits=fits):
            assert f"RanksDiffer: After {step} iterations the ranks no longer agree on generator.{name}" in report


def test_nobody_waits_for_a_rank_that_has_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    def stop(module: asdkit.Distillation) -> None:
        raise RuntimeError("rank 1 has stopped")

    fits = {"callbacks": [OnRank1(2, stop), RankAgreement(check_every=1)]}
    first, second = both(tiny_folder, tmp_path, "pixels", fits=fits)
    assert "rank 1 has stopped" in second
    assert "Traceback" in first and "RanksDiffer" not in first


def test_every_rank_multiplies_as_the_first_has_decided(tiny_folder: Path, tmp_path: Path) -> None:
    """Of two machines, whose own decisions differ."""

    def act(rank: int) -> list[str]:
        pretrained.fastest_dtype = lambda: ("mixed", "float32")[rank]
        own, other = (asdkit.Pretrained(str(tiny_folder), use_camera=seen, dtype="auto") for seen in (True, False))
        guidance = asdkit.SDS() + asdkit.OtherPrior(asdkit.SDS(), other)
        module = asdkit.Distillation("a red cube", own, asdkit.Latents(count=1, size=16), guidance)
        fit(module, asdkit.Canvas(size=16), "ddp", steps=1)
        return [type(prior.network.conv_in).__name__ for prior in module.prior.models]

    assert on_two_ranks(act, tmp_path) == [["HalfConv2d"] * 2] * 2
