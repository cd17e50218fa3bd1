"""Exact scores, of the latents of true pictures, and discriminators at their optimum: what a method itself does."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count
from asdkit.core.parts import preset, require
from asdkit.discriminators.divergences import Divergence, FDivergence
from asdkit.discriminators.gammas import BoundedGamma
from asdkit.lab import FiniteSetPrior, ParticleScore
from asdkit.priors.pretrained import Pretrained
from asdkit.scores.conditions import Condition
from asdkit.scores.fields import CFG, Field, Prompt, Scale
from asdkit.scores.prior import Adapter, Noised, Prior
from asdkit.toybox.truths import truths

OTHERS = ("a red car", "a blue chair", "a green tree", "a yellow house with a red roof")


class ToyboxTruths(Prior):
    """An exact prior: the denoiser of the latents of true pictures of a prompt. Adapters don't change it.

    Without a prompt, it is the denoiser of the pictures of this and of four other things.

    Args:
        path: the prior whose autoencoder makes the latents.
        pictures: the number of pictures of each thing, at most 256.
    """

    def __init__(self, path: str = "toybox", pictures: Count = 96) -> None:
        super().__init__()
        self.pictures, self.embedded, self.exact = pictures, Pretrained(path), FiniteSetPrior()
        self.schedule, self.network = self.exact.schedule, self.exact.network

    def setup(self) -> None:
        self.embedded.setup()

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.embedded.encode(images)

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return self.embedded.decode(x0)

    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Encode the pictures of new prompts, before random backgrounds."""
        for text in dict.fromkeys(condition.text for condition in conditions):
            if text and text not in self.exact.texts():
                others = () if self.exact.texts() else (other for other in OTHERS if not text.startswith(other))
                for thing in (text, *others):
                    self.exact.add(thing, self._latents(thing))

    def predict(
        self, x: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None
    ) -> list[Float[Tensor, "B C h w"]]:
        return self.exact.predict(x, conditions, adapter)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.embedded.digest} {self.spec}".encode()).hexdigest()[:12]

    @torch.no_grad()
    def _latents(self, text: str) -> Float[Tensor, "N C h w"]:
        bank = truths(text, self.pictures)
        require(bank is not None, f"ToyboxTruths knows the toybox's prompts alone; {text!r} is none.")
        assert bank is not None
        latents: Tensor = self.embedded.encode(bank.pictures())
        return latents


class ParticleOpinion(Field):
    """The exact fake score m of the batch's images, and what `asdkit.JSD` takes for log r by it: D(x_t; y) = ||m -
    eps||^2 - ||e_y - eps||^2 (per value).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.text = ParticleScore(), Prompt()

    def parts(self) -> list[Field]:
        return [self.fake, self.text]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.fake(x)

    def log_ratio(self, x: Noised) -> Float[Tensor, " B"]:
        """An estimate of log r, r the ratio of the prior's density at x_t to the images', up to a factor."""
        return ((self.fake(x) - x.eps).square() - (self.text(x) - x.eps).square()).flatten(1).mean(1)


@preset
def ParticleASD(scale: Scale = 7.5, gamma: BoundedGamma = -0.5, divergence: Divergence = "reverse_kl") -> Field:
    """ASD with an optimal discriminator, (m + gamma e_y) / (1 + gamma) by Eq. 10, where m is the images' exact score.

    Args:
        scale: the CFG scale lambda.
        gamma: the weight of the discriminator's penalty; 0 is VSD.
        divergence: by whose weights the residual counts, as in `JSD`; reverse_kl weighs all alike.
    """
    m = ParticleOpinion()
    return FDivergence(CFG(scale=scale) - (1 / (1 + gamma)) * (m + gamma * Prompt()), m, divergence)
