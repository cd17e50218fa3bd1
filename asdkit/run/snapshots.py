"""Pictures of a run as it goes: what is shown, and what the prior and the discriminator make of it."""

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
from asdkit.scores.fields import CFG, Field

_VIEWS = 4


@checked
class Snapshots(pl.Callback):
    """`snapshots/step-000200.png`: a row per view, render | alpha | x0 by the prior | x0 by the discriminator.

    Args:
        every: iterations between two snapshots; 0 for none.
        noise: where x0 is guessed from, as a share of the schedule.
        scale: the CFG scale of the prior's guess.
    """

    def __init__(self, every: Whole = 200, noise: Annotated[float, Between(0, 1)] = 0.5, scale: Weight = 7.5) -> None:
        self.every, self.noise, self.scale = every, noise, scale

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        step = trainer.global_step
        due = self.every and (step % self.every == 0 or step == trainer.max_steps)
        cameras = trainer.datamodule
        if due and isinstance(pl_module, Distillation) and (trainer.is_global_zero or pl_module.prior.sharded):
            views = cameras.look(_VIEWS)
            columns = self.columns(pl_module, views and views.to(pl_module.device))
            path = Path(trainer.default_root_dir) / "snapshots" / f"step-{step:06d}.png"
            if trainer.is_global_zero:
                save_grid(torch.stack(columns, dim=1).flatten(0, 1), path, len(columns), scale=2)

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
