"""Score fields averaged over several noises, weighted by how a scorer likes what each denoises to."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count, Positive
from asdkit.core.parts import Part
from asdkit.scores.cfg_options import PLAIN_CFG, CFGOptions
from asdkit.scores.conditions import Condition
from asdkit.scores.fields import CFG, Expression, Field, Scale
from asdkit.scores.prior import Need, Noised


class Scorer(Part, ABC):
    """Gives pictures scores, e.g. by how well they fit the prompt."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "B 3 H W"], prompt: str) -> Float[Tensor, " B"]:
        """How well images in [0,1] fit a prompt, the larger the better."""


class Reweighted(Expression):
    """RewardSDS: draws several noises for each x0; a residual weighs more if a scorer likes the picture its noise
    denoises to.

    Args:
        field: the residual that is weighted.
        scorer: the part that scores the denoised pictures.
        draws: the number of noises for each x0, including the given one.
        temperature: the temperature of the softmax. A small one follows the best draw alone; a large one is the plain
            mean.
        scale: the CFG scale at which the pictures are denoised.
    """

    def __init__(
        self, field: Field, scorer: Scorer, draws: Count = 4, temperature: Positive = 0.1, scale: Scale = 7.5
    ) -> None:
        super().__init__()
        self.field, self.scorer, self.draws, self.temperature = field, scorer, draws, temperature
        self.judged = CFG(scale=scale)

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.field.take_words(prompt, source, cfg)
        self.judged.take_words(prompt, source, PLAIN_CFG)  # pictures are judged as the plain prediction shows them

    def needs(self, x: Noised) -> list[Need]:
        return []

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        copies = x.derived(self, lambda: self._copies(x))
        copies.prefetch(self.field.needs(copies) + self.judged.needs(copies))
        residual = self.field(copies).reshape(self.draws, *x.eps.shape)
        with torch.no_grad():
            pictures = x.prior.decode(copies.to_x0(self.judged(copies)))
            wanted = Condition(str(self.judged.prompt.text))
            judged = copies.by_own(wanted, lambda own, rows: {"": self.scorer(pictures[rows], own.text)})
            scores = judged[""].reshape(self.draws, -1)
        weights = torch.softmax(scores / self.temperature, dim=0)
        return (weights[:, :, None, None, None].to(residual) * residual).sum(0)

    def _copies(self, x: Noised) -> Noised:
        """`draws` copies of the batch, the first with its own eps."""
        n = self.draws
        eps = torch.cat([x.eps, x.randn((n - 1) * len(x.t), *x.eps.shape[1:])])
        views = None if x.views is None else x.views[torch.arange(len(x.t), device=x.t.device).repeat(n)]
        source = None if x.source is None else x.source.repeat(n, 1, 1, 1)
        x0, prompts = x.x0.repeat(n, 1, 1, 1), {text: list(own) * n for text, own in x.prompts.items()}
        return Noised(x.prior, x0, x.t.repeat(n), eps, views, x.step, source, x.random, prompts)
