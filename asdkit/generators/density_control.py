"""Gaussians in a store of fixed capacity, and how density control changes their number, alike on every rank."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from asdkit.core.bounds import AtLeast, Between, NonNegative, Positive, Share, Whole
from asdkit.core.parts import Part, require
from asdkit.core.randomness import to_device
from asdkit.formats.splats import Splats
from asdkit.generators.base import Generator
from asdkit.generators.gaussian_start import whereabouts
from asdkit.rendering.projection import rotation_matrices

_log = logging.getLogger(__name__)
Numbers = Float[Tensor, " M"]
Opacity = Annotated[float, Between(0, 1)]
OpacityLimit = Annotated[float, AtLeast(0, below=1)]
RATIO_LIMIT = 51  # Gaussians that one relocated Gaussian is counted as, at most; as in gsplat


class GaussianStore(Generator, ABC):
    """Slots for Gaussians, and a mask of those that are alive. Growing fills dead slots and dying clears the mask, so
    that parameters, the optimiser's state and checkpoints keep their shape.
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh: nn.Parameter
    alive: Bool[Tensor, " C"]
    grad_sum: Float[Tensor, " C"]  # of the gradients' norms at screen positions, and below of the views
    grad_count: Float[Tensor, " C"]
    _slots: tuple[Tensor, int, Tensor] | None = None

    def allocate(self, capacity: int, sh_degree: int, splats: Splats) -> None:
        """Make `capacity` slots, the first of which hold `splats`, of which there may not be more."""
        count, coefficients, kept = len(splats.means), splats.sh.shape[1], (sh_degree + 1) ** 2
        require(count <= capacity, f"capacity must be at least {count}, the file's number of Gaussians.")
        if splats.sh[:, kept:].any():
            degree = math.isqrt(coefficients) - 1
            dropped = f"of which those above {sh_degree} are dropped; --model.generator.sh_degree={degree} keeps them"
            _log.warning("The Gaussians have colours of degree %d, %s.", degree, dropped)
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
        return (self.grad_sum / self.grad_count.clamp(min=1)).where(self.alive & (self.grad_sum > 0), -1)

    def prune(self, optimizer: Optimizer, min_opacity: float, max_size: float) -> None:
        """Empty the slots of Gaussians that are too faint or too large, but never that of the most opaque."""
        faint, large = self.alive & (self.opacities < min_opacity), self.alive & (self.sizes > max_size)
        doomed = faint | large
        doomed[self.opacities.where(self.alive, -1).argmax()] = False
        if (removed := int(doomed.sum())) > 0.9 * self.num_alive:  # which no round should do without a word
            left, where = f"{self.num_alive - removed} of {self.num_alive}", whereabouts(self.means.data[self.alive])
            faints = f"{faint.sum()} are less opaque than its prune_opacity, {min_opacity:g}"
            others = f"{large.sum()} wider than its prune_scale, {max_size:g}"
            advice = "Change these numbers, or take --model.generator.initial.fit=true."
            _log.warning("Density control leaves %s Gaussians: %s, %s; %s. %s", left, faints, others, where, advice)
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
        """Moves parent and child to two draws from the parent's Gaussian; both get 1.6 times smaller, as in 3DGS."""
        rotation = rotation_matrices(self.quats.data[parents])
        offsets = (rotation @ (draws * self.log_scales.data[parents].exp())[..., None]).squeeze(-1)
        for slots, offset in zip((parents, children), offsets, strict=True):
            self.means.data[slots] += offset
            self.log_scales.data[slots] -= torch.tensor(1.6).log().to(self.log_scales)

    def forget(self, optimizer: Optimizer, slots: Int64[Tensor, " M"]) -> None:
        """Zeroes what the optimiser remembers about slots."""
        for parameter in self.all_slots():
            for value in self._moments(optimizer, parameter):
                value[slots] = 0

    def reset_opacities(self, optimizer: Optimizer, opacity: float) -> None:
        """Makes every Gaussian at most this opaque, and forgets where opacities were going."""
        self.opacity_logits.data.clamp_(max=float(torch.tensor(opacity).logit()))
        for value in self._moments(optimizer, self.opacity_logits):
            value.zero_()

    def _moments(self, optimizer: Optimizer, parameter: nn.Parameter) -> list[Tensor]:
        values = optimizer.state.get(parameter, {}).values()
        return [value for value in values if isinstance(value, Tensor) and value.shape == parameter.shape]


class Density(Part, ABC):
    """The decisions of a round of density control, which grows and prunes Gaussians. `rounds` times them."""

    follows_gradients = True  # whether the gradients of screen positions are added up

    @abstractmethod
    def round(self, store: GaussianStore, optimizer: Optimizer, number: int, generator: torch.Generator) -> None:
        """Grow, prune or move Gaussians in the round of this `number`; the optimiser forgets about what has changed.
        `generator` makes all random draws.
        """

    def every_step(self, store: GaussianStore, lr: float, generator: torch.Generator) -> None:
        """Called after every step of the optimiser, and after its round; `lr` is the step's rate of positions."""


class Fraction(Density):
    """Prunes Gaussians, then grows a fixed share of them: the ones with the largest mean gradient on the screen.

    The scale of gradients differs a hundredfold between methods and priors; a share needs no tuning.

    Args:
        fraction: the share of the Gaussians that grows in a round.
        split_scale: a growing Gaussian is split into two smaller ones if its largest standard deviation is above this
            (world units); otherwise it is doubled.
        prune_opacity: Gaussians less opaque than this are removed in a round.
        prune_scale: Gaussians with a standard deviation above this (world units) are removed in a round.
    """

    def __init__(
        self,
        fraction: Share = 0.05,
        split_scale: Positive = 0.03,
        prune_opacity: OpacityLimit = 0.01,
        prune_scale: Positive = 0.5,
    ) -> None:
        self.fraction, self.split_scale = fraction, split_scale
        self.prune_opacity, self.prune_scale = prune_opacity, prune_scale

    def round(self, store: GaussianStore, optimizer: Optimizer, number: int, generator: torch.Generator) -> None:
        store.prune(optimizer, self.prune_opacity, self.prune_scale)
        gradients = store.mean_gradients()
        count = min(round(self.fraction * store.num_alive), int((~store.alive).sum()), int((gradients > 0).sum()))
        parents = gradients.argsort(descending=True, stable=True)[:count]
        large = store.sizes[parents] > self.split_scale
        children = store.copy(parents)
        draws = torch.randn(2, count, 3, generator=generator).to(store.means)
        store.split(parents[large], children[large], draws[:, large])
        doubled = torch.cat([parents[~large], children[~large]])
        opacity = 1 - (1 - store.opacities[doubled]).sqrt()  # two of them look like the parent did
        store.opacity_logits.data[doubled] = opacity.clamp(1e-6, 1 - 1e-6).logit()
        store.forget(optimizer, torch.cat([children, parents[large]]))


class Threshold(Density):
    """The density control of 3D Gaussian splatting: it takes the same decisions as gsplat's DefaultStrategy.

    Gaussians whose gradient is above a threshold are copied, or split if they are large. Faint and huge ones are then
    removed, and now and then all opacities are lowered. If the capacity is too small, the largest gradients go first.

    Args:
        gradient: a Gaussian grows if its mean gradient on the screen is above this, in units of half the image.
        split_scale: growing Gaussians with a standard deviation above this (world units) are split.
        prune_opacity: Gaussians less opaque than this are removed in a round.
        prune_scale: Gaussians with a standard deviation above this (world units) are removed in a round.
        reset_rounds: the number of rounds between two resets of opacity to twice `prune_opacity`; 0 for never.

    Raises:
        ValueError: resets to an opacity outside (0,1).
    """

    def __init__(
        self,
        gradient: Positive = 2e-4,
        split_scale: Positive = 0.03,
        prune_opacity: OpacityLimit = 0.005,
        prune_scale: Positive = 0.5,
        reset_rounds: Whole = 0,
    ) -> None:
        require(not reset_rounds or 0 < prune_opacity < 0.5, "a reset of opacity needs a prune_opacity in (0, 0.5).")
        self.gradient, self.split_scale, self.reset_rounds = gradient, split_scale, reset_rounds
        self.prune_opacity, self.prune_scale = prune_opacity, prune_scale

    def round(self, store: GaussianStore, optimizer: Optimizer, number: int, generator: torch.Generator) -> None:
        gradients = store.mean_gradients()
        wanted = gradients > self.gradient
        parents = gradients.argsort(descending=True, stable=True)[: min(int(wanted.sum()), int((~store.alive).sum()))]
        parents = parents.sort().values
        large = store.sizes[parents] > self.split_scale
        children = store.copy(parents)
        draws = torch.randn(2, int(large.sum()), 3, generator=generator).to(store.means)
        store.split(parents[large], children[large], draws)
        store.forget(optimizer, torch.cat([children, parents[large]]))
        store.prune(optimizer, self.prune_opacity, self.prune_scale)
        if self.reset_rounds and number % self.reset_rounds == 0:
            store.reset_opacities(optimizer, 2 * self.prune_opacity)


class MCMC(Density):
    """3D Gaussian splatting as Markov chain Monte Carlo (arXiv 2404.09591), as in gsplat's MCMCStrategy.

    Faint Gaussians move to opaque ones, and new ones are added there up to the capacity. A Gaussian's position trembles
    the more, the more transparent it is. A move does not change what the Gaussians look like together (Eq. 9 there).
    The defaults are for one object of a few thousand Gaussians. gsplat's, 0.005 and 5e5, are for large scenes: with
    them up to a fifth of the Gaussians drift away from the object and stay there as faint clouds.

    Args:
        growth: the share of the Gaussians that a round adds.
        min_opacity: Gaussians at most this opaque are moved.
        noise: the factor of the tremor, which is multiplied by the learning rate of positions.
    """

    follows_gradients = False

    def __init__(self, growth: Share = 0.05, min_opacity: Opacity = 0.02, noise: NonNegative = 5e4) -> None:
        self.growth, self.min_opacity, self.noise = growth, min_opacity, noise

    def round(self, store: GaussianStore, optimizer: Optimizer, number: int, generator: torch.Generator) -> None:
        store.forget(optimizer, self._relocate(store, store.alive & (store.opacities <= self.min_opacity), generator))
        free = (~store.alive).nonzero().squeeze(1)[: int(self.growth * store.num_alive)]
        new = torch.zeros_like(store.alive).index_fill(0, free, True)
        store.forget(optimizer, self._relocate(store, new, generator))

    def every_step(self, store: GaussianStore, lr: float, generator: torch.Generator) -> None:
        draws = to_device(torch.randn(store.means.shape, generator=generator), store.means.device).to(store.means)
        axes = rotation_matrices(store.quats.data) * store.log_scales.data.exp()[:, None]
        tremor = (100 * (0.005 - store.opacities)).sigmoid() * (lr * self.noise)
        moves = (axes @ (axes.transpose(1, 2) @ (draws * tremor[:, None])[..., None])).squeeze(-1)
        store.means.data += moves.where(store.alive[:, None], torch.zeros_like(moves))

    def _relocate(self, store: GaussianStore, taken: Tensor, generator: torch.Generator) -> Int64[Tensor, " M"]:
        """Fills the slots `taken` from the other Gaussians, drawn by opacity; returns all slots that have changed."""
        targets, sources = taken.nonzero().squeeze(1), (store.alive & ~taken).nonzero().squeeze(1)
        if not len(targets) or not len(sources):
            return targets[:0]
        odds = store.opacities[sources].cpu()
        parents = sources[torch.multinomial(odds, len(targets), True, generator=generator).to(sources.device)]
        ratio = 1 + torch.bincount(parents, minlength=len(taken))[parents]
        opacity, shrink = relocation(store.opacities[parents], ratio)
        store.opacity_logits.data[parents] = opacity.clamp(self.min_opacity, 1 - 1e-7).logit()
        store.log_scales.data[parents] += shrink.log()[:, None]
        store.fill(targets, parents)
        return torch.cat([targets, parents])


def relocation(opacity: Numbers, ratio: Int64[Tensor, " M"]) -> tuple[Numbers, Numbers]:
    """What `ratio` equal Gaussians in one place, 51 at most, must be to look like one (Eq. 9 of arXiv 2404.09591): the
    opacity of each, 1 - (1 - opacity)^(1/ratio), and the factor of its standard deviations.
    """
    n = ratio.clamp(1, RATIO_LIMIT).double()
    old = opacity.double()
    new = 1 - (1 - old) ** (1 / n)
    k = torch.arange(1, RATIO_LIMIT + 1, device=opacity.device, dtype=torch.float64)
    log_choose = torch.lgamma(n + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma((n[:, None] - k).clamp(min=0) + 1)
    terms = (-1) ** (k + 1) * log_choose.exp() * new[:, None] ** k / k.sqrt()
    return new.to(opacity), (old / terms.where(k <= n[:, None], torch.zeros_like(terms)).sum(1)).to(opacity)
