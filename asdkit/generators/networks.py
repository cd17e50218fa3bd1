"""A general generator: noise, and a prompt, become x0 in one evaluation of a network."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from asdkit.core.bounds import LearningRate, Within
from asdkit.core.parts import require
from asdkit.core.randomness import Rows, generator_for, normal, to_device
from asdkit.core.unregistered import keep_unregistered
from asdkit.generators.backbones import Backbone, PriorNetwork
from asdkit.generators.base import Render, set_rates
from asdkit.generators.images import Images, Number, Size, opaque
from asdkit.rendering.cameras import Batch, Views
from asdkit.scores.prior import Prior


class Network(Images):
    """The paper's general generator: one evaluation of a network turns noise and a prompt into x0 (Diff-Instruct,
    DMD2).

    Each step draws new noise, and a prompt for each sample where the data has `prompts`. Pictures show samples of an
    average of the weights, always from the same noise. They are of the run's prompt, or of some of the data's.

    Args:
        backbone: the network; a copy of the prior's own when None.
        count: the number of samples in a picture, and in a step where the data has no prompts.
        size: the height and width of the images in pixels, which should be the prior's own size.
        lr: Adam's learning rate.
        average: the decay of the exponential average of the weights; 0 for no average.
        sheet_seed: the seed of the noise that pictures are made from.
    """

    prior: Prior

    def __init__(
        self,
        backbone: Backbone | None = None,
        count: Number = 8,
        size: Size = 128,
        lr: LearningRate = 1e-4,
        average: Annotated[float, Within(0, 0.999999)] = 0.99,
        sheet_seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone or PriorNetwork()
        self.count, self.size, self.lr, self.decay, self.sheet_seed = count, size, lr, average, sheet_seed
        self.prompts: tuple[str, ...] = ("",)
        self._shape: tuple[int, ...] = ()  # of x0, after `setup`
        self._early_state: dict[str, Tensor] = {}

    def take_prompts(self, prompts: Sequence[str]) -> None:
        self.prompts = tuple(prompts)

    def setup(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None = None) -> None:
        keep_unregistered(self, "prior", prior)
        if self._shape:
            return
        with torch.no_grad():
            empty = torch.zeros(1, 3, self.size, self.size, device=prior.schedule.alphas.device)
            self._shape = tuple(prior.encode(empty).shape[1:])
        self.backbone.setup(prior, self._shape)
        if self.decay:
            self.average = copy.deepcopy(self.backbone).requires_grad_(False)
        if self._early_state:
            try:
                self.load_state_dict(self._early_state)
            except RuntimeError:
                raise ValueError("The checkpoint holds the weights of another network than its generator's.") from None
            self._early_state = {}

    def samples(self, noise: Float[Tensor, "B C h w"], prompts: Sequence[str]) -> Float[Tensor, "B C h w"]:
        """x0 of noise and a prompt for each sample, by the average of the weights, without gradient."""
        with torch.no_grad():
            x0: Tensor = self.shown(self.prior, noise, prompts)
        return x0

    @property
    def shown(self) -> Any:
        """The average of the weights as a network."""
        return self.average if self.decay else self.backbone

    @property
    def shown_prompts(self) -> list[str]:  # type: ignore[override]
        """Of the images of `render`: all of the prompts in turn, or some from all over their list."""
        every, count = len(self.prompts), self.count
        return [self.prompts[i * every // count if every > count else i % every] for i in range(count)]

    def encoded(
        self,
        prior: Prior,
        batch: Batch,
        background: Tensor | None = None,
        rerender: bool = False,
        random: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "B C h w"], None]:
        prompts = batch.prompts or self.prompts[:1] * self.count
        rows = batch.rows or Rows(0, len(prompts), len(prompts))
        noise = to_device(normal(rows, self._shape, random), next(self.backbone.parameters()).device)
        return self.backbone(prior, noise, prompts), None

    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        require(views is None, "A Network makes images, which have no cameras; take --data=Canvas.")
        random = generator_for(self.sheet_seed, 0, "sheet")
        noise = torch.randn(self.count, *self._shape, generator=random).to(next(self.backbone.parameters()).device)
        return opaque(self.prior.decode(self.samples(noise, self.shown_prompts)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "network", "params": list(self.backbone.parameters()), "lr": self.lr}]

    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        set_rates(optimizer, {"network": self.lr})  # where a checkpoint has another
        if self.decay:  # torch's AveragedModel counts its steps on the device, which is waited for
            own: list[Tensor] = [*self.average.parameters()]
            learned: list[Tensor] = [*self.backbone.parameters()]
            with torch.no_grad():
                torch._foreach_lerp_(own, learned, 1 - self.decay if step else 1.0)
                for buffer, newest in zip(self.average.buffers(), self.backbone.buffers(), strict=True):
                    buffer.copy_(newest)

    def write_model(self, folder: Path) -> None:
        """Write the average of the weights in the layout of the model that it began as."""
        self.shown.write(self.prior, folder)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights that arrive before `setup` wait for it; a checkpoint is loaded without its prior."""
        if self._shape:
            super()._load_from_state_dict(state_dict, prefix, *args)
        for key in [key for key in state_dict if key.startswith(prefix) and not self._shape]:
            self._early_state[key.removeprefix(prefix)] = state_dict.pop(key)
