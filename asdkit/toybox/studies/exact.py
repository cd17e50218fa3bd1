"""Runs with exact scores, those of the latents of true pictures: what a method itself does."""

from collections.abc import Callable
from functools import cache

import torch

from asdkit.core.randomness import generator_for
from asdkit.generators.images import Latents
from asdkit.lab import FiniteSetPrior, ParticleScore
from asdkit.priors.pretrained import Pretrained
from asdkit.rendering.cameras import Batch
from asdkit.scores.draws import Draws
from asdkit.scores.equations import inject, weight
from asdkit.scores.fields import CFG, Field, Noise, Prompt
from asdkit.scores.timesteps import Timesteps
from asdkit.toybox import world
from asdkit.toybox.image_judge import DRIFT_FROM, figures, truths

GAMMA = -0.5
METHODS: dict[str, Callable[[str, float], Field]] = {  # e_phi is at Eq. 10's optimum, (m + gamma e_y) / (1 + gamma)
    "SDS, exact scores": lambda y, scale: CFG(y, scale) - Noise(),
    "VSD, exact scores": lambda y, scale: CFG(y, scale) - ParticleScore(),
    f"ASD, gamma {GAMMA}, exact scores": lambda y, scale: (
        CFG(y, scale) - (1 / (1 + GAMMA)) * (ParticleScore() + GAMMA * Prompt(y))
    ),
}
OTHERS = ("a red car", "a blue chair", "a green tree", "a yellow house with a red roof")
_PARTICLES, _POINTS = 4, 96


@cache
def embedded() -> Pretrained:
    """The embedded prior, whose autoencoder the exact scores share."""
    prior = Pretrained("toybox")
    prior.setup()
    return prior


@cache
def exact_prior(prompt: str) -> FiniteSetPrior:
    """The exact denoiser of the latents of true pictures of the prompt; of these and other things without one."""
    prior, generator = FiniteSetPrior(), generator_for(0, 0, "backgrounds")
    for text in (prompt, *(other for other in OTHERS if not prompt.startswith(other))):
        on_black, alpha = (part[:_POINTS] for part in truths(text))
        behind = torch.tensor([world.sample_background(generator) for _ in alpha])[:, :, None, None]
        with torch.no_grad():
            prior.add(text, embedded().encode(on_black + (1 - alpha) * behind))
    return prior


def run(method: str, scale: float, seed: int, prompt: str, steps: int) -> dict[str, float]:
    """Figures of what the method makes of random latents under the exact prior, as image2d starts and steps."""
    prior, guidance = exact_prior(prompt), METHODS[method](prompt, scale)
    draws, latents = Draws(prior, Timesteps(), seed), Latents(count=_PARTICLES, init_seed=seed)
    latents.setup(embedded())
    optimizer, before = torch.optim.Adam(latents.parameter_groups()), torch.empty(0)
    for step in range(steps):
        x0 = latents.encoded(prior, Batch())[0]
        x = draws.draw(x0, Batch(None), step, "noise")
        optimizer.zero_grad()
        inject(x0, weight("sigma2", x.alpha, x.sigma) * guidance(x)).backward()
        optimizer.step()
        if step + 1 == round(DRIFT_FROM * steps):
            before = latents.render(None).image.detach()
    images = latents.render(None).image.detach()
    return figures(images, prompt) | {"drift": (images - before).abs().mean().item()}
