"""True pictures of prompts: a bank for finding the nearest, what the prior was trained on, and exact scores of them."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Count
from asdkit.core.parts import preset
from asdkit.core.randomness import generator_for
from asdkit.discriminators.gammas import BoundedGamma
from asdkit.discriminators.gan import Divergence, FDivergence
from asdkit.lab import FiniteSetPrior, ParticleScore
from asdkit.priors.pretrained import Pretrained
from asdkit.rendering.cameras import Views
from asdkit.scores.fields import CFG, Expression, Field, Prompt, Scale
from asdkit.scores.prior import Adapter, Condition, Noised, Prior
from asdkit.toybox import world
from asdkit.toybox.captions import parse, thing_of, view_words
from asdkit.toybox.things import Thing

TRUTHS = 256
OTHERS = ("a red car", "a blue chair", "a green tree", "a yellow house with a red roof")
_TRIES, _SUPERSAMPLE = 8192, 2  # as the pictures that the prior was trained on


class Truths(NamedTuple):
    """True pictures of a prompt on black, in [0,1], and their alphas."""

    on_black: Float[Tensor, "N 3 H W"]
    alpha: Float[Tensor, "N 1 H W"]

    def pictures(self) -> Float[Tensor, "N 3 H W"]:
        """They before random plain backgrounds, always the same ones."""
        random = generator_for(0, 0, "backgrounds")
        behind = torch.tensor([world.sample_background(random) for _ in self.alpha])[:, :, None, None]
        return self.on_black + (1 - self.alpha) * behind

    def nearest(self, images: Float[Tensor, "B 3 H W"], count: int = 1) -> tuple[Tensor, Tensor]:
        """The `count` truths nearest to each image, on the background that fits it, best first, and their alphas."""
        clear, nearest, alphas = 1 - self.alpha, [], []
        for image in images:
            behind = (clear * (image - self.on_black)).flatten(2).sum(2) / clear.square().flatten(2).sum(2)
            pictures = self.on_black + clear * behind.clamp(0, 1)[:, :, None, None]
            best = (pictures - image).square().flatten(1).mean(1).topk(count, largest=False).indices
            nearest.append(pictures[best])
            alphas.append(self.alpha[best])
        return torch.cat(nearest), torch.cat(alphas)


@lru_cache(maxsize=8)
def truths(prompt: str, count: int = TRUTHS) -> Truths | None:
    """A prompt's pictures from training cameras, of the view it names, each another instance; None of another world."""
    if (thing := parse(prompt)) is None:
        return None
    words = prompt.lower().rstrip(".").rpartition(", ")[2] if "," in prompt else ""
    views = world.sample_views(generator_for(0, 0, "truths"), _TRIES, world.SIZE)
    places = zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    fits = [not words or words in (view_words(*place), view_words(*place, ways=4)) for place in places]
    chosen = views[torch.tensor(fits).nonzero()[:count, 0]]
    shown = [world.render(thing, chosen[i : i + 1], (0.0,) * 3, _SUPERSAMPLE, i) for i in range(len(chosen))]
    return Truths(torch.cat([truth.image for truth in shown]), torch.cat([truth.alpha for truth in shown]))


def true_pictures(prompt: str, count: int, generator: torch.Generator) -> Float[Tensor, "count 3 H W"]:
    """Pictures of a prompt as the prior was trained on: of random instances and backgrounds, from random cameras."""
    return pictured([thing_of(prompt)] * count, world.sample_views(generator, count, world.SIZE), generator)


def pictured(things: list[Thing], views: Views, generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """A picture of each thing from its own camera, of a random instance before a random background."""
    pictures = []
    for i, thing in enumerate(things):
        background = world.sample_background(generator)
        instance = int(torch.randint(1 << 40, (), generator=generator))
        pictures.append(world.render(thing, views[i : i + 1], background, _SUPERSAMPLE, instance).image)
    return torch.cat(pictures)


class ToyboxTruths(Prior):
    """An exact prior: the denoiser of the latents of true pictures of a prompt. Adapters don't change it.

    Without a prompt, it is the denoiser of the pictures of this and of four other things.

    Args:
        path: the prior whose autoencoder makes the latents.
        pictures: the number of pictures of each thing.
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

    @torch.no_grad()
    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Encode the pictures of new prompts, before random backgrounds."""
        for text in dict.fromkeys(condition.text for condition in conditions):
            if text and text not in self.exact.texts():
                others = () if self.exact.texts() else (other for other in OTHERS if not text.startswith(other))
                for thing in (text, *others):
                    if (bank := truths(thing, self.pictures)) is None:
                        raise ValueError(f"ToyboxTruths knows the toybox's prompts alone; {thing!r} is none.")
                    self.exact.add(thing, self.embedded.encode(bank.pictures()))

    def predict(self, x: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Tensor]:
        return self.exact.predict(x, conditions, adapter)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.embedded.digest} {self.spec}".encode()).hexdigest()[:12]


class ParticleOpinion(Expression):
    """The exact fake score m of the batch's images, and by it what `asdkit.JSD` takes for log r."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.text = ParticleScore(), Prompt()

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return self.fake(x)

    def log_ratio(self, x: Noised) -> Float[Tensor, " B"]:
        """||m - eps||^2 - ||e_y - eps||^2 per value, where r is the prior's density at x_t over the images', about."""
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
