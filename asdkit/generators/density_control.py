"""Density control: how the number of Gaussians changes. Whatever is drawn is drawn alike on every rank."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.optim import Optimizer

from asdkit.core.bounds import AtLeast, Between, NonNegative, Positive, Share, Whole
from asdkit.core.parts import Part, require
from asdkit.core.randomness import to_device
from asdkit.generators.gaussian_store import GaussianStore
from asdkit.rendering.projection import rotation_matrices

OpacityLimit = Annotated[float, AtLeast(0, below=1)]
RATIO_LIMIT = 51  # Gaussians that one relocated Gaussian is counted as, at most; as in gsplat


class Density(Part, ABC):
    """The decisions of a round of density control, which grows and prunes Gaussians. `rounds` times them."""

    follows_gradients = True  # whether the gradients of screen positions are added up

    @abstractmethod
    def round(self, store: GaussianStore, optimizer: Optimizer, number: int, generator: torch.Generator) -> None:
        """Grow, prune or move Gaussians; the optimiser forgets about what has changed.

        `number` counts the rounds that there could have been so far, and `generator` makes all random draws.
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

    Args:
        growth: the share of the Gaussians that a round adds.
        min_opacity: Gaussians at most this opaque are moved.
        noise: the factor of the tremor, which is multiplied by the learning rate of positions.
    """

    follows_gradients = False

    def __init__(
        self, growth: Share = 0.05, min_opacity: Annotated[float, Between(0, 1)] = 0.005, noise: NonNegative = 5e5
    ) -> None:
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


def relocation(
    opacity: Float[Tensor, " M"], ratio: Int64[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """What `ratio` equal Gaussians in one place, 51 at most, must be to look like one: Eq. 9 of arXiv 2404.09591.

    That is the opacity of each, 1 - (1 - opacity)^(1/ratio), and the factor of its standard deviations.
    """
    n = ratio.clamp(1, RATIO_LIMIT).double()
    old = opacity.double()
    new = 1 - (1 - old) ** (1 / n)
    k = torch.arange(1, RATIO_LIMIT + 1, device=opacity.device, dtype=torch.float64)
    log_choose = torch.lgamma(n + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma((n[:, None] - k).clamp(min=0) + 1)
    terms = (-1) ** (k + 1) * log_choose.exp() * new[:, None] ** k / k.sqrt()
    total = terms.where(k <= n[:, None], torch.zeros_like(terms)).sum(1)
    return new.to(opacity), (old / total).to(opacity)
