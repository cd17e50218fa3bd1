"""Pictures of a run as it goes: what is shown, and what the prior and the discriminator make of it."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Between, Weight, Whole, checked
from asdkit.core.randomness import generator_for
from asdkit.discriminators.discriminator import Discriminator
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_grid
from asdkit.rendering.cameras import Views
from asdkit.run.loggers import log_picture
from asdkit.scores.fields import CFG, Field

_VIEWS, _TILE = 4, 192  # how many rows there are, and the least height of a picture in pixels


@checked
class Snapshots(pl.Callback):
    """Writes `snapshots/step-000200.png`: a row per view, render | alpha | x0 by the prior | x0 by the discriminator.

    The first ones come early, after 1, 2, 4, 8 ... iterations. The loggers get them, too.

    Args:
        every: the number of iterations between two snapshots, after the early ones; 0 for none.
        noise: the noise level from which x0 is guessed, as a share of the schedule.
        scale: the CFG scale of the prior's guess.
    """

    def __init__(self, every: Whole = 200, noise: Annotated[float, Between(0, 1)] = 0.5, scale: Weight = 7.5) -> None:
        self.every, self.noise, self.scale = every, noise, scale
        self._told = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        step = trainer.global_step
        early = step < self.every and step & (step - 1) == 0  # a power of two
        due = self.every and (early or step % self.every == 0 or step == trainer.max_steps)
        cameras = trainer.datamodule
        if due and isinstance(pl_module, Distillation) and (trainer.is_global_zero or pl_module.prior.sharded):
            views = cameras.look(_VIEWS)
            columns = self.columns(pl_module, views and views.to(pl_module.device))
            if trainer.is_global_zero:
                self._save(trainer, columns, _labels(self.titles(pl_module), len(columns[0]), step, views))

    def _save(self, trainer: Any, columns: list[Tensor], labels: list[str]) -> None:
        path = Path(trainer.default_root_dir) / "snapshots" / f"step-{trainer.global_step:06d}.png"
        images = torch.stack(columns, dim=1).flatten(0, 1)
        save_grid(images, path, len(columns), max(1, _TILE // images.shape[-1]), labels)
        log_picture(trainer.loggers, "snapshot", path, trainer.global_step)
        if not self._told:
            self._told = True
            with suppress(OSError):  # nobody reads it
                print(f"The first picture is {path}; more follow there.", file=sys.stderr)

    @staticmethod
    def titles(module: Distillation) -> list[str]:
        """What the columns of a snapshot show."""
        learning = [leaf for leaf in module.guidance.leaves() if isinstance(leaf, Discriminator)]
        return ["render", "alpha", "the prior's guess", *["the discriminator's guess"] * len(learning)]

    @torch.no_grad()
    def columns(self, module: Distillation, views: Views | None) -> list[Float[Tensor, "B 3 H W"]]:
        """The pictures of each view, all from the same noise at every step."""
        render = module.show(views)
        x0 = module.prior.encode(render.image)
        t = torch.full((len(x0),), round(self.noise * (len(module.prior.schedule) - 1)), device=x0.device)
        eps = torch.randn(x0.shape, generator=generator_for(module.seed, 0, "snapshots")).to(x0.device)
        own = module.generator.shown_prompts
        x = module.prior.draw(x0, t, eps, views, prompts={module.prompt: own} if own else None)
        fields: list[Field] = [CFG(module.prompt, self.scale)]
        fields += [leaf for leaf in module.guidance.leaves() if isinstance(leaf, Discriminator)]
        guesses = [module.prior.decode(x.to_x0(field(x))) for field in fields]
        shape = render.image.shape
        alike = [torch.nn.functional.interpolate(guess, shape[-2:], mode="bilinear") for guess in guesses]
        return [render.image, render.alpha.expand(shape), *alike]


def _labels(titles: list[str], rows: int, step: int, views: Views | None) -> list[str]:
    """What is written on each picture: the step on the first, titles on the first row, azimuths on the first column."""
    azimuths = [f"{degrees:.0f}°, " for degrees in views.azimuth.rad2deg().tolist()] if views else [""] * rows
    first = [f"{azimuths[0]}step {step}, {titles[0]}", *titles[1:]]
    return first + [text for azimuth in azimuths[1:] for text in (azimuth.rstrip(", "), *[""] * (len(titles) - 1))]
