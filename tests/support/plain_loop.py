"""asdkit's step beside the loop that one would write with diffusers and peft, in turn: `python
tests/support/plain_loop.py`, from the repository, prints the table of docs/benchmarks.md.

The loop does what the paper says and no more: noise of its own for each player, a call of the network for each
prediction, peft's adapters, torch's default optimisers and, in 3D, gsplat's parameters and the rasteriser in plain
torch, for gsplat itself draws on CUDA alone. It has no density control, no camera embedding, no logging and no checks,
so its steps are, if anything, too cheap.
"""

import argparse
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from torch import Tensor, nn

from asdkit.commands import bench_report
from asdkit.commands.bench_steps import BenchCLI
from asdkit.priors.locate import EMBEDDED, locate
from asdkit.rendering.cameras import ring
from asdkit.rendering.rasterize import rasterize
from asdkit.run.exits import Signals

VIEWS, SIZE, SCALE, GAMMA = 4, 128, 7.5, -0.5
DIRECTIONS = ("front view", "right side view", "back view", "left side view")
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


class Splats(nn.ParameterDict):
    """Two thousand Gaussians with gsplat's names and activations, seen from four random sides."""

    def __init__(self, count: int = 2000) -> None:
        start = {
            "means": 0.3 * torch.randn(count, 3), "scales": torch.full((count, 3), math.log(0.03)),
            "quats": torch.randn(count, 4), "opacities": torch.full((count,), -2.0), "colors": torch.zeros(count, 3),
        }  # fmt: skip
        super().__init__({name: nn.Parameter(value) for name, value in start.items()})

    def images(self) -> Tensor:
        raster = rasterize(
            self["means"], self["quats"], self["scales"].exp(), self["opacities"].sigmoid(), self["colors"].sigmoid(),
            ring(VIEWS, size=SIZE, offset_deg=360 * torch.rand(()).item()), torch.ones(3), backend="torch",
        )  # fmt: skip
        return raster.image.permute(0, 3, 1, 2)


class PlainLoop:
    """Adversarial score distillation of Gaussians, or of latents where `in_3d` is false, a step at a time."""

    def __init__(self, prompt: str, in_3d: bool) -> None:
        pipe = StableDiffusionPipeline.from_pretrained(locate(EMBEDDED).path, safety_checker=None)
        self.vae, self.unet, self.levels = pipe.vae, pipe.unet, pipe.scheduler.alphas_cumprod
        for model in (pipe.vae, pipe.unet, pipe.text_encoder):
            model.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=LAYERS))
        texts = [f"{prompt}, {direction}" for direction in DIRECTIONS] if in_3d else [prompt] * VIEWS
        with torch.no_grad():
            self.text, self.null = (
                torch.cat([pipe.encode_prompt(text, "cpu", 1, False)[0] for text in those])
                for those in (texts, [""] * VIEWS)
            )
        self.splats = Splats() if in_3d else None
        channels, edge = self.unet.config.in_channels, SIZE // pipe.vae_scale_factor
        self.latents = nn.Parameter(torch.randn(VIEWS, channels, edge, edge))
        self.theta = torch.optim.Adam(self.splats.parameters() if self.splats else [self.latents], lr=0.01)
        self.phi = torch.optim.AdamW([p for p in self.unet.parameters() if p.requires_grad], lr=1e-3)

    def step(self) -> None:
        """Eq. 7 for theta, then Eq. 10 for phi."""
        x0 = self._x0()
        t, eps, x_t = self._noised(x0.detach())
        with torch.no_grad():
            e_null, e_y = self._predict(x_t, t, self.null, False), self._predict(x_t, t, self.text, False)
            e_phi = self._predict(x_t, t, self.text, True)
            gradient = e_null + SCALE * (e_y - e_null) - e_phi
        self.theta.zero_grad()
        (x0 * gradient).sum().div(VIEWS).backward()
        self.theta.step()
        t, eps, x_t = self._noised(x0.detach())
        with torch.no_grad():
            e_y = self._predict(x_t, t, self.text, False)
        e_phi = self._predict(x_t, t, self.text, True)
        self.phi.zero_grad()
        ((e_phi - eps).square() + GAMMA * (e_y - e_phi).square()).flatten(1).sum(1).mean().backward()
        self.phi.step()

    def _x0(self) -> Tensor:
        if self.splats is None:
            return self.latents
        latents = self.vae.encode(self.splats.images() * 2 - 1).latents
        return latents * self.vae.config.scaling_factor

    def _noised(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t, eps = torch.randint(20, 980, (VIEWS,)), torch.randn_like(x0)
        alpha = self.levels[t].view(-1, 1, 1, 1)
        return t, eps, alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps

    def _predict(self, x_t: Tensor, t: Tensor, text: Tensor, adapted: bool) -> Tensor:
        """The network's v as eps."""
        self.unet.enable_adapters() if adapted else self.unet.disable_adapters()
        v, alpha = self.unet(x_t, t, text).sample, self.levels[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * v + (1 - alpha).sqrt() * x_t


class Paired(pl.Callback):
    """After each block of asdkit's steps one of the plain loop's; seconds of a step of the wall and the processor."""

    def __init__(self, loop: PlainLoop, block: int) -> None:
        self.loop, self.block = loop, block
        self.seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def on_train_start(self, *_: Any) -> None:
        self.start = _clocks()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.block == 0:
            self._close("asdkit")
            for _ in range(self.block):
                self.loop.step()
            self._close("plain")

    def _close(self, kind: str) -> None:
        wall, processor = (now - then for now, then in zip(_clocks(), self.start, strict=True))
        self.seconds[kind].append((wall / self.block, processor / self.block))
        self.start = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class PairedCLI(BenchCLI):
    """`asdkit fit` of a recipe as it is, with the plain loop in turn."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        in_3d = self.config_init.run.recipe == "gs3d"
        self.paired = Paired(PlainLoop("a yellow duck", in_3d), self.bench.block)
        trainer.callbacks[trainer.callbacks.index(self.bench)] = self.paired
        return trainer


def row(recipe: str, steps: int, options: list[str]) -> str:
    """A row of the table: milliseconds of the processor of a step, and the ratios of both clocks, block by block."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(Path("recipes", f"{recipe}.yaml")), "--trainer.accelerator=cpu", *options]
        seconds = PairedCLI(arguments, steps, Path(folder), Signals()).paired.seconds
    blocks = list(zip(seconds["asdkit"], seconds["plain"], strict=True))[1:]  # the first one is a warm-up
    cells = [recipe]
    cells += [f"{1e3 * bench_report.spread([pair[k][1] for pair in blocks])['median']:.0f}" for k in (0, 1)]
    for clock in (1, 0):
        ratios = bench_report.spread([ours[clock] / plain[clock] for ours, plain in blocks])
        cells.append("{median:.2f} ({low:.2f} - {high:.2f})".format(**ratios))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="of each kind (default: 30)")
    options, others = parser.parse_known_args()
    rows = [row(recipe, options.steps, ["--trainer.log_every_n_steps=3", *others]) for recipe in ("gs3d", "image2d")]
    print(bench_report.machine_line(bench_report.environment(torch.device("cpu"))), "", sep="\n")
    print("| recipe | asdkit: ms of the processor | plain loop | ratio | ratio of the wall |")
    print("|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
