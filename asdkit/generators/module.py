"""What a LightningModule with a generator does besides learning: it shows what it has made, and can be built again."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.core.trust import refusal, trusting
from asdkit.generators.base import Generator, Render
from asdkit.generators.from_checkpoint import read, started_anyhow
from asdkit.rendering.cameras import Batch, Views
from asdkit.rendering.settings import Rendering


class GeneratorModule(pl.LightningModule):
    """Base of a module with a generator, a frozen prior and settings; checkpoints hold what builds it and learns."""

    generator: Generator
    rendering: Rendering
    seed: int

    def backdrop(self, step: int) -> Float[Tensor, " 3"] | None:
        """The colour behind the object in this step; None for the generator's own background."""
        share, grey = torch.rand(2, generator=generator_for(self.seed, step, "background", self.global_rank)).tolist()
        if share < self.rendering.random_background:
            return torch.full((3,), 0.5 + 0.5 * grey, device=self.device)
        return None if self.generator.owns_background else self.plain_background

    @property
    def plain_background(self) -> Float[Tensor, " 3"]:
        """The colour behind the object in metrics and pictures."""
        return torch.full((3,), self.rendering.background, device=self.device)

    def show(self, views: Views | None) -> Render:
        """The generator's views on the plain background, which metrics and pictures are made of."""
        return self.generator.render(views, self.plain_background)

    def validation_step(self, batch: Batch, batch_idx: int) -> Render:  # type: ignore[override]
        return self.show(batch.views)

    test_step = predict_step = validation_step  # type: ignore[assignment]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **options: Any
    ) -> "GeneratorModule":
        """Lightning's, which executes nothing in a file, see `core.trust`; one that is missing, broken, of something
        else, or names a class that is not trusted, is a ValueError.
        """
        file = read(Path(checkpoint_path)).file
        try:
            with trusting():
                return super().load_from_checkpoint(file, **options | {"weights_only": True})
        except Exception as error:
            if refused := refusal(str(error), str(file)):
                raise ValueError(refused) from None
            raise

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything that learns; never the frozen prior."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("prior.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has its own weights: it does not name the file that the generator once started from."""
        checkpoint["hyper_parameters"]["generator"] = started_anyhow(self.generator.spec)
