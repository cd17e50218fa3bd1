"""A general generator: noise, and a prompt, become x0 in one evaluation of a network."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from asdkit.core.bounds import LearningRate, Share, Within
from asdkit.core.parts import Part, require
from asdkit.core.randomness import Rng, Rows, generator_for, normal, seeded, to_device
from asdkit.core.unregistered import keep_unregistered
from asdkit.generators.base import Render, set_rates
from asdkit.generators.images import Images, Number, Size, opaque
from asdkit.rendering.cameras import Batch, Views
from asdkit.scores.prior import Condition, Prior
from asdkit.scores.schedules import Latent


class Backbone(Part, nn.Module, ABC):
    """A network that maps noise and prompts to x0. `setup` makes its weights, and each call is given the prior."""

    @abstractmethod
    def setup(self, prior: Prior, shape: tuple[int, ...]) -> None:
        """Make the weights, for x0 of this shape [C,h,w]."""

    @abstractmethod
    def forward(self, prior: Prior, noise: Latent, prompts: Sequence[str]) -> Latent:
        """x0 of standard normal noise, with a prompt for each sample."""

    def write(self, prior: Prior, folder: Path) -> None:
        """Write it as a model that others can load; a ValueError if there is no such format."""
        raise ValueError(f"A {type(self).__name__} has no model's layout; only a PriorNetwork can be exported as one.")


class PriorNetwork(Backbone):
    """A copy of the prior's network, asked once at a fixed t (Diff-Instruct 2305.18455; DMD2 2405.14867):

        x0 = (z - sigma_t e(z, t, y)) / alpha_t, where z is the noise

    Args:
        t: the fixed noise level as a share of the schedule. 0.625 is Diff-Instruct's sigma / alpha of 2.5 on Stable
            Diffusion's schedule, and 1 is DMD's.
    """

    def __init__(self, t: Share = 0.625) -> None:
        super().__init__()
        self.t = t

    def setup(self, prior: Prior, shape: tuple[int, ...]) -> None:
        self.network = prior.copy_network().requires_grad_(True)
        learns = any(True for _ in self.network.parameters())
        kind = type(prior).__name__
        require(learns, f"The network of {kind} has no weights; take --model.generator.backbone=SmallUNet.")

    def forward(self, prior: Prior, noise: Latent, prompts: Sequence[str]) -> Latent:
        t = torch.full((len(noise),), round(self.t * (len(prior.schedule) - 1)), device=noise.device)
        own = {prompts[0]: tuple(prompts)}  # the condition of all rows, and what it is for each
        x = prior.draw(torch.zeros_like(noise), t, noise / prior.schedule.sigma(t), prompts=own)
        with prior.swapped(self.network):
            (eps,) = prior.predict(x, [Condition(prompts[0])])
        return x.to_x0(eps).to(next(self.network.parameters()).dtype)

    def write(self, prior: Prior, folder: Path) -> None:
        prior.write_with(self.network, folder)


class SmallUNet(Backbone):
    """A small convolutional network with random initial weights: diffusers' UNet2DModel, told the prompt in all blocks.

    Args:
        width: the number of channels at full size, a multiple of 4; a wider network is slower and can learn more.
        levels: the number of resolutions, each half of the one before.
        init_seed: the seed of its initial weights.
    """

    network: Any  # of diffusers

    def __init__(
        self, width: Annotated[int, Within(8, 1024)] = 32, levels: Annotated[int, Within(1, 6)] = 2, init_seed: int = 0
    ) -> None:
        super().__init__()
        require(width % 4 == 0, f"The width of a SmallUNet must be a multiple of 4; got {width}.")
        self.width, self.levels, self.init_seed = width, levels, init_seed

    def setup(self, prior: Prior, shape: tuple[int, ...]) -> None:
        from diffusers import UNet2DModel

        channels, *sides = shape
        halves = 2 ** (self.levels - 1)
        require(all(side % halves == 0 for side in sides), f"x0 of {sides} can't be halved {self.levels - 1} times.")
        text = prior.embed([""])
        with seeded(self.init_seed):
            self.prompt = nn.Linear(text.shape[1], 4 * self.width)
            self.network = UNet2DModel(
                in_channels=channels, out_channels=channels, layers_per_block=1, norm_num_groups=4,
                down_block_types=("DownBlock2D",) * self.levels, up_block_types=("UpBlock2D",) * self.levels,
                block_out_channels=[self.width * 2**level for level in range(self.levels)], class_embed_type="identity",
                add_attention=False,
            )  # fmt: skip
        self.to(text.device)

    def forward(self, prior: Prior, noise: Latent, prompts: Sequence[str]) -> Latent:
        weight = self.prompt.weight
        told = self.prompt(prior.embed(prompts).to(weight))
        x0: Tensor = self.network(noise.to(weight), noise.new_zeros(len(noise)), class_labels=told).sample
        return x0


class Network(Images):
    """The paper's general generator: one evaluation of a network makes x0 of noise and a prompt (Diff-Instruct, DMD2).

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

    def samples(self, noise: Latent, prompts: Sequence[str]) -> Latent:
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
        self, prior: Prior, batch: Batch, background: Tensor | None = None, rerender: bool = False, random: Rng = None
    ) -> tuple[Latent, None]:
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
