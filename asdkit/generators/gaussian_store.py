"""Gaussians in a store of fixed capacity: what density control works on."""

import logging
import math
from abc import ABC
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from asdkit.core.parts import require
from asdkit.formats.splats import Splats
from asdkit.generators.base import Generator
from asdkit.generators.gaussian_start import whereabouts
from asdkit.rendering.projection import rotation_matrices

_log = logging.getLogger(__name__)
DECIMATED = 0.9  # of the Gaussians, which no round should remove without a word
SPLIT_SHRINK = 1.6  # the halves of a split Gaussian are this much smaller


class GaussianStore(Generator, ABC):
    """Slots for Gaussians, and a mask of those that are alive.

    Growing writes into dead slots and dying clears the mask, so that parameters, the optimiser's state and checkpoints
    never change their shape. `grad_sum` and `grad_count` hold what the screen positions' gradients have added up to.
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh: nn.Parameter
    alive: Bool[Tensor, " C"]
    grad_sum: Float[Tensor, " C"]
    grad_count: Float[Tensor, " C"]
    _slots: tuple[Tensor, int, Tensor] | None = None

    def allocate(self, capacity: int, sh_degree: int, splats: Splats) -> None:
        """Make `capacity` slots, the first of which hold `splats`, of which there may not be more."""
        count, coefficients, kept = len(splats.means), splats.sh.shape[1], (sh_degree + 1) ** 2
        require(count <= capacity, f"capacity must be at least {count}, the file's number of Gaussians.")
        if splats.sh[:, kept:].any():
            degree = math.isqrt(coefficients) - 1
            _log.warning(
                "The Gaussians have colours of degree %d, of which those above %d are dropped; "
                "--model.generator.sh_degree=%d keeps them.", degree, sh_degree, degree,
            )  # fmt: skip
        sh = nn.functional.pad(splats.sh, (0, 0, 0, kept - coefficients))  # or cut, where it is negative
        for name, values in splats._replace(sh=sh)._asdict().items():
            slots = torch.zeros(capacity, *values.shape[1:])
            slots[:count] = values
            self.register_parameter(name, nn.Parameter(slots))
        self.quats.data[count:, 0] = 1
        self.register_buffer("alive", torch.arange(capacity) < count)
        self.register_buffer("grad_sum", torch.zeros(capacity))
        self.register_buffer("grad_count", torch.zeros(capacity))

    def all_slots(self) -> Splats:
        """The parameters of all slots."""
        return Splats(self.means, self.quats, self.log_scales, self.opacity_logits, self.sh)

    def living(self) -> Splats:
        """The Gaussians that are alive, with gradient."""
        slots = self.living_indices()
        return Splats(*(parameter.index_select(0, slots) for parameter in self.all_slots()))

    def living_indices(self) -> Int64[Tensor, " N"]:
        """Where the Gaussians are; looked up only after `alive` has changed, for a GPU must be waited for."""
        version = 0 if self.alive.is_inference() else self.alive._version
        if self._slots is None or self._slots[0] is not self.alive or self._slots[1] != version:
            self._slots = self.alive, version, self.alive.nonzero().squeeze(1)
        return self._slots[2]

    @property
    def num_alive(self) -> int:
        """The number of Gaussians."""
        return int(self.alive.sum())

    @property
    def opacities(self) -> Float[Tensor, " C"]:
        """Opacities of all slots, in (0,1)."""
        return self.opacity_logits.data.sigmoid()

    @property
    def sizes(self) -> Float[Tensor, " C"]:
        """Largest standard deviation of each slot, in world units."""
        return self.log_scales.data.amax(1).exp()

    def mean_gradients(self) -> Float[Tensor, " C"]:
        """Mean norm of the gradients on the screen over the views that saw a Gaussian; -1 where there was none."""
        seen = self.alive & (self.grad_sum > 0)
        return (self.grad_sum / self.grad_count.clamp(min=1)).where(seen, -1)

    def prune(self, optimizer: torch.optim.Optimizer, min_opacity: float, max_size: float) -> None:
        """Empty the slots of Gaussians that are too faint or too large, but never that of the most opaque."""
        faint, large = self.alive & (self.opacities < min_opacity), self.alive & (self.sizes > max_size)
        doomed = faint | large
        doomed[self.opacities.where(self.alive, -1).argmax()] = False
        if int(doomed.sum()) > DECIMATED * self.num_alive:
            _log.warning(
                "Density control leaves %d of %d Gaussians: %d are less opaque than its prune_opacity, %g, %d wider "
                "than its prune_scale, %g; %s. Change these numbers, or take --model.generator.initial.fit=true.",
                self.num_alive - int(doomed.sum()), self.num_alive, faint.sum(), min_opacity, large.sum(), max_size,
                whereabouts(self.means.data[self.alive]),
            )  # fmt: skip
        self.alive &= ~doomed
        self.forget(optimizer, doomed.nonzero().squeeze(1))

    def copy(self, parents: Int64[Tensor, " M"]) -> Int64[Tensor, " M"]:
        """Fill as many free slots with copies of the parents, in order; returns these slots."""
        children = (~self.alive).nonzero().squeeze(1)[: len(parents)]
        self.fill(children, parents)
        return children

    def fill(self, slots: Int64[Tensor, " M"], parents: Int64[Tensor, " M"]) -> None:
        """Make each of the slots a copy of its parent."""
        for parameter in self.all_slots():
            parameter.data[slots] = parameter.data[parents]
        self.alive[slots] = True

    def split(self, parents: Int64[Tensor, " M"], children: Int64[Tensor, " M"], draws: Float[Tensor, "2 M 3"]) -> None:
        """Moves parent and child to two draws from the parent's Gaussian and makes both smaller."""
        rotation = rotation_matrices(self.quats.data[parents])
        offsets = (rotation @ (draws * self.log_scales.data[parents].exp())[..., None]).squeeze(-1)
        for slots, offset in zip((parents, children), offsets, strict=True):
            self.means.data[slots] += offset
            self.log_scales.data[slots] -= torch.tensor(SPLIT_SHRINK).log().to(self.log_scales)

    def forget(self, optimizer: torch.optim.Optimizer, slots: Int64[Tensor, " M"]) -> None:
        """Zeroes what the optimiser remembers about slots."""
        for parameter in self.all_slots():
            for value in self._moments(optimizer, parameter):
                value[slots] = 0

    def reset_opacities(self, optimizer: torch.optim.Optimizer, opacity: float) -> None:
        """Makes every Gaussian at most this opaque, and forgets where opacities were going."""
        self.opacity_logits.data.clamp_(max=float(torch.tensor(opacity).logit()))
        for value in self._moments(optimizer, self.opacity_logits):
            value.zero_()

    def _moments(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                yield value
