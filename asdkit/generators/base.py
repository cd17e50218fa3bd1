"""What is optimised: the contract of all generators."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from asdkit.core.parts import Part
from asdkit.core.randomness import Rng
from asdkit.formats.splats import Splats
from asdkit.rendering.cameras import Batch, Views
from asdkit.rendering.rays import Volume
from asdkit.scores.prior import Prior

T = TypeVar("T")


class Render(NamedTuple):
    """What B cameras see."""

    image: Float[Tensor, "B 3 H W"]  # colours in [0,1]
    alpha: Float[Tensor, "B 1 H W"]  # opacity in [0,1]
    depth: Float[Tensor, "B 1 H W"]  # expected camera z in world units


class Saturate(torch.autograd.Function):
    """Clamps to [0,1] but lets a gradient through that leads back into the range: nothing gets stuck outside."""

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return image.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (image,) = ctx.saved_tensors
        return grad.where(~(((image > 1) & (grad < 0)) | ((image < 0) & (grad > 0))), torch.zeros_like(grad))


class Generator(Part, nn.Module, ABC):
    """The part that renders images and that a run optimises, with one Adam.

    `flat`: it makes images, which have no cameras. `owns_background`: it shows its own where it is given none.
    `shown_prompts`: those of the images that it renders, where they may differ from the run's.
    """

    flat = False
    owns_background = False
    shown_prompts: Sequence[str] = ()

    def take_prompts(self, prompts: Sequence[str]) -> None:
        """The run's prompt or, before `setup`, all that its data has: for what makes something else of each prompt."""

    def setup(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None = None) -> None:
        """Called once, before optimisers and adapters exist: for what depends on the prior or the source image."""

    def encoded(
        self, prior: Prior, batch: Batch, background: Tensor | None = None, rerender: bool = False, random: Rng = None
    ) -> tuple[Float[Tensor, "B C h w"], Render | None]:
        """x0 with gradient of what a step looks at, and the render it came from, if there is one.

        With `rerender` the backward pass renders again, instead of keeping what the first time computed. `random` draws
        the generator's own noise, torch's global generator when None.
        """
        with record_function("asdkit.render"):
            render = self.seen(batch, background, rerender)
        with record_function("asdkit.encode"):
            return prior.encode(render.image), render

    def seen(self, batch: Batch, background: Tensor | None, rerender: bool) -> Render:
        """What a step looks at, before it is encoded."""
        return computed(rerender, self.render, batch.views, background)

    @abstractmethod
    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        """What the cameras see, differentiably; images have no cameras. The background is a colour in [0,1], [3] for
        all or [B,3]; None is the generator's own.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for one Adam: `{"name": "means", "params": [...], "lr": ...}`."""

    def before_step(self) -> None:
        """Called just before each step of the optimiser, when gradients are there."""

    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        """Called after each step of the optimiser, which may hold others' groups too: rates, densification, pruning.

        `step` has just ended, counted from 0; `generator` is the only source of random draws, the same on every rank.
        """

    def regularizer(self) -> Tensor | float:
        """A term that is added to the loss of the generator."""
        return 0

    def splats(self) -> Splats | None:
        """The object as Gaussians, where it is made of them."""
        return None

    def volume(self) -> Volume | None:
        """The object as a density in space, where it is one: meshes are cut from it."""
        return None

    def export(self, folder: Path) -> list[Path]:
        """Write the finished object in the standard formats of its kind; returns the files, none by default."""
        return []


def computed(again: bool, function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives; with `again` the backward pass computes it again, and nothing is kept for it."""
    if not again:
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]


def needs_cameras(generator: Generator, views: Views | None) -> Views:
    """The cameras that a 3D generator is seen by, of which there must be some."""
    if views is None:
        kind = type(generator).__name__
        raise ValueError(f"{kind} needs cameras; take --data=Cameras, or Pixels and Latents for plain images.")
    return views


def set_rates(optimizer: Optimizer, rates: dict[str, float]) -> None:
    """Gives the parameter groups that have these names their learning rates."""
    for group in optimizer.param_groups:
        if group.get("name") in rates:
            group["lr"] = rates[group["name"]]
