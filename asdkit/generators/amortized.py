"""A prompt becomes a radiance field in one evaluation, by a network that is trained over many prompts."""

import copy
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from asdkit.core.bounds import Count, LearningRate, Positive, Within
from asdkit.core.contexts import replaced
from asdkit.core.parts import require
from asdkit.core.ramps import Ramp, value_at
from asdkit.core.randomness import seeded, to_device
from asdkit.core.unregistered import keep_unregistered
from asdkit.generators.base import Generator, Render, computed, needs_cameras, set_rates
from asdkit.generators.nerf import NeRF, NeRFPenalties, NeRFRates
from asdkit.generators.nerf_encodings import TriPlane
from asdkit.rendering.cameras import Batch, Views
from asdkit.rendering.rays import Volume
from asdkit.scores.prior import Prior

_log = logging.getLogger(__name__)
_PLANES, _COARSEST = "encoding.grids.0", 4  # the parameter that prompts change; grid points of the first layer
Seen = tuple[Render, Tensor | float]  # and the penalties per view


class Amortized3D(Generator):
    """One network for many prompts: it makes a 3D object of each at once (ATT3D 2306.07349, ScaleDreamer 2407.02040).

    The network turns a prompt's embedding into planes, which are added to the three planes of a radiance field. All
    prompts share the planes beneath and the network that reads them. It needs a prior that embeds prompts, and learns
    from views of the prompts in `data.prompts`. The run shows, exports and judges the object of its own prompt, whose
    embedding a checkpoint holds; `made` gives the field of any prompt.

    Args:
        resolution: the number of grid points along each axis of the planes.
        features: the number of features of each plane.
        width: the number of channels of the network that makes the planes.
        samples: the number of samples along each ray.
        bound: half the side of the box in world units.
        blob: a density bias at the centre to start from, as in a NeRF.
        lr: Adam's learning rate of the network that makes the planes; it may move with the iterations.
        rates: the learning rates of the planes beneath (`encoding`) and of the network that reads them.
        penalties: the terms that are added to the loss; `orientation` is not available.
        init_seed: the seed of the network that makes the planes.
    """

    prior: Prior | None
    told: Float[Tensor, " D"]

    def __init__(
        self,
        resolution: Literal[8, 16, 32, 64, 128] = 32,
        features: Count = 16,
        width: Annotated[int, Within(4, 4096)] = 64,
        samples: Annotated[int, Within(2, 1024)] = 32,
        bound: Positive = 1.0,
        blob: float = 5.0,
        lr: LearningRate | Ramp = 1e-3,
        rates: NeRFRates = NeRFRates(),
        penalties: NeRFPenalties = NeRFPenalties(),
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        self.lr, self.init_seed, self.prompt = lr, init_seed, ""
        keep_unregistered(self, "prior", None)
        self.field = NeRF(
            TriPlane((resolution,), features), bound, samples=samples, blob=blob, rates=rates, penalties=penalties
        )
        self.owns_background = self.field.owns_background
        with seeded(init_seed):
            self.hyper = _planes(resolution, features, width)
        self.register_buffer("told", torch.zeros(0))  # the embedding of the run's prompt, for when there is no prior
        self._penalty: Tensor | float = 0

    def take_prompts(self, prompts: Sequence[str]) -> None:
        self.prompt = self.prompt or prompts[0]  # the run's own comes first
        if self.prompt not in prompts:
            _log.warning("%r is none of the %d prompts of data.prompts, so none learns it.", self.prompt, len(prompts))

    def setup(self, prior: Prior, source: Float[Tensor, "1 3 H W"] | None = None) -> None:
        keep_unregistered(self, "prior", prior)
        self.told = prior.embed([self.prompt])[0].to(self.field.get_parameter(_PLANES))
        with seeded(self.init_seed), torch.no_grad():
            self.hyper(self.told[None])  # whose width it learns

    def planes(self, prompts: Sequence[str]) -> Float[Tensor, "B 3 F R R"]:
        """The planes of prompts; without a prior, of the run's own alone."""
        beneath = self.field.get_parameter(_PLANES)
        own = [*prompts] == [self.prompt]
        require(self.prior is not None or own, "Without a prior there is the run's own prompt alone; call setup first.")
        told = self.told[None] if self.prior is None else self.prior.embed(prompts)
        planes: Tensor = beneath + self.hyper(told.to(beneath)).unflatten(1, beneath.shape[:2])
        return planes

    @torch.no_grad()
    def made(self, prompt: str) -> NeRF:
        """The radiance field of a prompt, by itself."""
        with replaced(self.field, "_marched", None):  # the graph of a step
            field = copy.deepcopy(self.field)
        field.get_parameter(_PLANES).copy_(self.planes([prompt])[0])
        field.occupancy.copy_(_occupancy(field))
        return field

    def seen(self, batch: Batch, background: Tensor | None, rerender: bool) -> Render:
        views = needs_cameras(self, batch.views)
        prompts = batch.prompts or [self.prompt] * len(views)
        render, self._penalty = computed(rerender, self._rendered, views, prompts, background)
        return render

    def _rendered(self, views: Views, prompts: Sequence[str], background: Tensor | None) -> Seen:
        own = list(dict.fromkeys(prompts))
        planes, renders, rows, penalty = self.planes(own), [], [], 0.0
        for prompt, of_prompt in zip(own, planes, strict=True):
            chosen = torch.tensor([row for row, text in enumerate(prompts) if text == prompt])
            chosen = to_device(chosen, views.azimuth.device)
            colours = background[chosen] if background is not None and background.ndim > 1 else background
            seen = functional_call(_Seen(self.field), {f"field.{_PLANES}": of_prompt}, (views[chosen], colours))
            renders.append(seen[0])
            rows.append(chosen)
            penalty = penalty + seen[1] * len(chosen) / len(views)
        order = torch.cat(rows).argsort()
        return Render(*(torch.cat(values)[order] for values in zip(*renders, strict=True))), penalty

    def render(self, views: Views | None, background: Tensor | None = None) -> Render:
        return self.made(self.prompt).render(views, background)

    def volume(self) -> Volume | None:
        return self.made(self.prompt).volume() if len(self.told) else None

    def regularizer(self) -> Tensor | float:
        return self._penalty

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = {"name": "hyper", "params": list(self.hyper.parameters()), "lr": value_at(self.lr, 0)}
        return [*self.field.parameter_groups(), own]

    def after_step(self, optimizer: Optimizer, step: int, generator: torch.Generator) -> None:
        self._penalty = 0
        self.field.advance(optimizer, step)  # which cells are empty, each prompt says
        set_rates(optimizer, {"hyper": value_at(self.lr, step + 1)})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint may be loaded before there is a prior to say how long embeddings are."""
        self.told = torch.empty_like(state_dict.get(f"{prefix}told", self.told))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _occupancy(field: NeRF) -> Float[Tensor, "G G G"]:
    """The densest of a field's cells and their neighbours."""
    return nn.functional.max_pool3d(field.cell_densities()[None], 3, stride=1, padding=1)[0]


class _Seen(nn.Module):
    """A field's views and penalties, as a function of its parameters."""

    def __init__(self, field: NeRF) -> None:
        super().__init__()
        self.field = field

    def forward(self, views: Views, background: Tensor | None) -> Seen:
        with replaced(self.field, "occupancy", _occupancy(self.field)):
            render = self.field.render(views, background)
        return render, self.field.regularizer() if torch.is_grad_enabled() else 0


def _planes(resolution: int, features: int, width: int) -> nn.Module:
    """An embedding [B D] to three planes side by side [B 3F R R], which twice as many grid points refine each time."""
    layers: list[nn.Module] = [nn.LazyLinear(width * _COARSEST**2), nn.Unflatten(1, (width, _COARSEST, _COARSEST))]
    size = _COARSEST
    while size < resolution:
        layers += [nn.SiLU(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, width, 3, padding=1)]
        size *= 2
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, 3 * features, 1))
