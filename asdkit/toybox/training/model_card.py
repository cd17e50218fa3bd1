"""How good the prior and CLIP are, for the model card: `python -m asdkit.toybox.training.model_card`."""

import argparse
import json
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.formats.pictures import save_grid
from asdkit.priors.locate import EMBEDDED
from asdkit.priors.pretrained import Pretrained
from asdkit.rendering.cameras import Views, ring
from asdkit.scores.conditions import Condition
from asdkit.scores.ddim import ddim
from asdkit.scores.fields import CFG
from asdkit.toybox import world
from asdkit.toybox.clip import TinyCLIP
from asdkit.toybox.things import Thing

SCALE, STEPS, PROMPTS, CANDIDATES, BACKGROUND = 3.0, 50, 50, 200, 0.85
_AZIMUTHS = 24


def sample(prior: Pretrained, prompts: list[str], views: Views, seed: int) -> Float[Tensor, "N 3 H W"]:
    """One picture per prompt, each from its own camera; DDIM at CFG 3."""
    generator = generator_for(seed, 0, "samples")
    images = []
    prior.prepare([Condition(prompt) for prompt in prompts])
    for i, prompt in enumerate(prompts):
        size = prior.latent_shape(views.height, views.width)
        noise = torch.randn(1, *size, generator=generator)
        images.append(prior.decode(ddim(prior, CFG(prompt, SCALE), noise, STEPS, views[i : i + 1])))
    return torch.cat(images)


def drawn_things(held_out: bool, count: int, seed: int) -> list[Thing]:
    """`count` things of the trained or of the held-out compositions, as the world's sampler draws them."""
    generator = generator_for(seed, 0, "held-out things" if held_out else "trained things")
    return [world.sample_thing(generator, held_out) for _ in range(count)]


def sector_is_right(image: Float[Tensor, "3 H W"], thing: Thing, view: Views) -> bool:
    """Whether the nearest true render over the azimuths lies in the sector that was asked for."""
    elevation, distance = view.elevation.rad2deg().item(), view.distance.item()
    candidates = ring(_AZIMUTHS, elevation, distance, size=image.shape[-1])
    grey = image[:, :3, :].mean((1, 2))
    truth = world.render(thing, candidates, grey.expand(_AZIMUTHS, 3)).image
    best = (truth - image).square().flatten(1).mean(1).argmin()
    turn = candidates.azimuth[best] - view.azimuth[0]
    return bool(torch.atan2(turn.sin(), turn.cos()).abs() <= torch.pi / 8 + 1e-6)


def sector_views(count: int) -> Views:
    """Cameras for `count` samples: the eight sectors in turn, elevation 15 degrees."""
    return ring(8)[torch.arange(count) % 8]


def evaluate_samples(prior: Pretrained, clip: TinyCLIP, seed: int) -> tuple[dict[str, float], Tensor]:
    """R-precision of samples of trained and held-out prompts, the share of right sectors, and the pictures."""
    figures, sheets, right = {}, [], []
    for name, held_out in (("trained", False), ("held_out", True)):
        things = drawn_things(held_out, PROMPTS, seed)
        views = sector_views(PROMPTS)
        images = sample(prior, [thing.prompt for thing in things], views, seed)
        hits = [clip.is_first(image, thing.prompt, CANDIDATES) for image, thing in zip(images, things, strict=True)]
        figures[f"r_precision_{name}"] = sum(hits) / len(hits)
        right += [
            sector_is_right(images[i], thing, views[i : i + 1]) for i, thing in enumerate(things) if thing.has_front
        ]
        sheets.append(images)
    return figures | {"right_sector": sum(right) / len(right)}, torch.cat(sheets)


def evaluate_clip(clip: TinyCLIP, seed: int, count: int = 200) -> float:
    """Share of held-out renders whose own prompt is ranked first among the candidates."""
    generator = generator_for(seed, 0, "clip renders")
    hits = []
    for _ in range(count):
        thing, view = world.sample_thing(generator, held_out=True), world.sample_views(generator, 1)
        image = world.render(thing, view, world.sample_background(generator)).image[0]
        hits.append(clip.is_first(image, thing.prompt, CANDIDATES))
    return sum(hits) / len(hits)


def evaluate_vae(prior: Pretrained, seed: int, count: int = 200) -> float:
    """Mean PSNR in dB of decoded encodings of held-out renders."""
    generator = generator_for(seed, 0, "vae renders")
    values = []
    for _ in range(count):
        thing, view = world.sample_thing(generator, held_out=True), world.sample_views(generator, 1)
        image = world.render(thing, view, world.sample_background(generator)).image
        with torch.no_grad():
            error = (prior.decode(prior.encode(image)) - image).square().mean()
        values.append(-10 * error.log10().item())
    return sum(values) / len(values)


def main() -> None:
    """Measure, print, and write the contact sheet of the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=EMBEDDED, help="the prior's folder; the embedded one by default")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise")
    parser.add_argument("--sheet", type=Path, help="write the samples there as a PNG: 50 trained prompts, 50 held out")
    arguments = parser.parse_args()
    Pretrained(arguments.weights).setup()  # imports the libraries, which is not what is timed
    start = time.perf_counter()
    prior = Pretrained(arguments.weights)
    prior.setup()
    load_seconds = time.perf_counter() - start
    clip = TinyCLIP(prior.folder / "clip")
    figures = {
        "vae_psnr_db": evaluate_vae(prior, arguments.seed),
        "clip_retrieval": evaluate_clip(clip, arguments.seed),
    }
    samples, pictures = evaluate_samples(prior, clip, arguments.seed)
    facts = {"prior": prior.digest, "seed": arguments.seed, "load_seconds": round(load_seconds, 2)}
    print(json.dumps(facts | {name: round(value, 3) for name, value in (figures | samples).items()}, indent=2))
    if arguments.sheet:
        save_grid(pictures, arguments.sheet, columns=10, scale=2)


if __name__ == "__main__":
    main()
