"""Maps from noise and prompts to x0 in one evaluation: a copy of the prior's network, or a small one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.bounds import Share, Within
from asdkit.core.parts import Part, require
from asdkit.core.randomness import seeded
from asdkit.scores.conditions import Condition
from asdkit.scores.prior import Prior


class Backbone(Part, nn.Module, ABC):
    """A network that maps noise and prompts to x0. `setup` makes its weights, and each call is given the prior."""

    @abstractmethod
    def setup(self, prior: Prior, shape: tuple[int, ...]) -> None:
        """Make the weights, for x0 of this shape [C,h,w]."""

    @abstractmethod
    def forward(
        self, prior: Prior, noise: Float[Tensor, "B C h w"], prompts: Sequence[str]
    ) -> Float[Tensor, "B C h w"]:
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
        require(
            learns, f"The network of {type(prior).__name__} has no weights; take --model.generator.backbone=SmallUNet."
        )

    def forward(
        self, prior: Prior, noise: Float[Tensor, "B C h w"], prompts: Sequence[str]
    ) -> Float[Tensor, "B C h w"]:
        t = torch.full((len(noise),), round(self.t * (len(prior.schedule) - 1)), device=noise.device)
        own = {prompts[0]: tuple(prompts)}  # the condition of all rows, and what it is for each
        x = prior.draw(torch.zeros_like(noise), t, noise / prior.schedule.sigma(t), prompts=own)
        with prior.swapped(self.network):
            (eps,) = prior.predict(x, [Condition(prompts[0])])
        return x.to_x0(eps).to(next(self.network.parameters()).dtype)

    def write(self, prior: Prior, folder: Path) -> None:
        prior.write_with(self.network, folder)


class SmallUNet(Backbone):
    """A small convolutional network with random initial weights: diffusers' UNet2DModel, told the prompt in every
    block.

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

    def forward(
        self, prior: Prior, noise: Float[Tensor, "B C h w"], prompts: Sequence[str]
    ) -> Float[Tensor, "B C h w"]:
        weight = self.prompt.weight
        told = self.prompt(prior.embed(prompts).to(weight))
        x0: Tensor = self.network(noise.to(weight), noise.new_zeros(len(noise)), class_labels=told).sample
        return x0
