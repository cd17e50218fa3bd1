"""Exact scores, of the latents of true pictures, and discriminators at their optimum: what a method itself does."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count
from asdkit.core.parts import preset
from asdkit.core.randomness import generator_for
from asdkit.discriminators.gammas import BoundedGamma
from asdkit.lab import FiniteSetPrior, ParticleScore
from asdkit.priors.pretrained import Pretrained
from asdkit.scores.conditions import Condition
from asdkit.scores.fields import CFG, Field, Prompt, Scale
from asdkit.scores.prior import Adapter, Noised, Prior
from asdkit.toybox import world
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
        bank = truths(text)
        if bank is None:
            raise ValueError(f"ToyboxTruths knows the toybox's prompts alone; {text!r} is none.")
        generator, alpha = generator_for(0, 0, "backgrounds"), bank.alpha[: self.pictures]
        behind = torch.tensor([world.sample_background(generator) for _ in alpha])[:, :, None, None]
        latents: Tensor = self.embedded.encode(bank.on_black[: self.pictures] + (1 - alpha) * behind)
        return latents


@preset
def ParticleASD(scale: Scale = 7.5, gamma: BoundedGamma = -0.5) -> Field:
    """ASD with an optimal discriminator, (m + gamma e_y) / (1 + gamma) by Eq. 10, where m is the images' exact score.

    Args:
        scale: the CFG scale lambda.
        gamma: the weight of the discriminator's penalty; 0 is VSD.
    """
    return CFG(scale=scale) - (1 / (1 + gamma)) * (ParticleScore() + gamma * Prompt())
