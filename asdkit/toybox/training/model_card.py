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
from asdkit.toybox import captions, catalogue, measures, world
from asdkit.toybox.clip import TinyCLIP

SCALE, STEPS, PROMPTS, CANDIDATES = 3.0, 50, 50, 200
TEXTURED = (
    "a red striped ball",
    "a red and white striped mug",
    "a green spotted cube",
    "a blue checkered teapot",
    "a wooden chair",
    "a brick house",
)
_AZIMUTHS, _INSTANCES, _TRUTHS, _RENDERS = 24, 12, 1000, 200
Pictures = Float[Tensor, "N 3 H W"]


def sample(prior: Pretrained, prompts: list[str], views: Views, seed: int) -> Pictures:
    """One picture per prompt, each from its own camera; DDIM at CFG 3."""
    generator = generator_for(seed, 0, "samples")
    size = prior.latent_shape(views.height, views.width)
    prior.prepare([Condition(prompt) for prompt in dict.fromkeys(prompts)])
    images = []
    for i, prompt in enumerate(prompts):
        noise = torch.randn(1, *size, generator=generator)
        images.append(prior.decode(ddim(prior, CFG(prompt, SCALE), noise, STEPS, views[i : i + 1])))
    return torch.cat(images)


def drawn_things(held_out: bool, count: int, seed: int) -> list[catalogue.Thing]:
    """`count` things of the trained or of the held-out compositions, as the world's sampler draws them."""
    generator = generator_for(seed, 0, "held-out things" if held_out else "trained things")
    return [world.sample_thing(generator, held_out) for _ in range(count)]


def truth(things: list[catalogue.Thing], views: Views, seed: int) -> Pictures:
    """A true picture of an instance of each thing, on a background as training draws it."""
    generator = generator_for(seed, 0, "true backgrounds")
    pictures = [
        world.render(thing, views[i : i + 1], world.sample_background(generator), variation=i).image
        for i, thing in enumerate(things)
    ]
    return torch.cat(pictures)


def sector_is_right(image: Float[Tensor, "3 H W"], thing: catalogue.Thing, view: Views) -> bool:
    """Whether the nearest true render of a plain thing over the azimuths lies in the sector that was asked for."""
    elevation, distance = view.elevation.rad2deg().item(), view.distance.item()
    candidates = ring(_AZIMUTHS, elevation, distance, size=image.shape[-1])
    grey = image[:, :3, :].mean((1, 2))
    true = world.render(thing, candidates, grey.expand(_AZIMUTHS, 3)).image
    best = (true - image).square().flatten(1).mean(1).argmin()
    turn = candidates.azimuth[best] - view.azimuth[0]
    return bool(torch.atan2(turn.sin(), turn.cos()).abs() <= torch.pi / 8 + 1e-6)


def sector_views(count: int) -> Views:
    """Cameras for `count` samples: the eight sectors in turn, elevation 15 degrees."""
    return ring(8, size=world.SIZE)[torch.arange(count) % 8]


def evaluate_samples(prior: Pretrained, clip: TinyCLIP, seed: int) -> tuple[dict[str, float], Pictures]:
    """R-precision and KID of samples of trained and held-out prompts, the share of right sectors, and the pictures."""
    figures, sheets, right = {}, [], []
    views = sector_views(PROMPTS)
    for name, held_out in (("trained", False), ("held_out", True)):
        things = drawn_things(held_out, PROMPTS, seed)
        images = sample(prior, [thing.prompt for thing in things], views, seed)
        hits = [clip.is_first(image, thing.prompt, CANDIDATES) for image, thing in zip(images, things, strict=True)]
        figures[f"r_precision_{name}"] = sum(hits) / len(hits)
        facing = [i for i, thing in enumerate(things) if thing.has_front and not thing.material]
        right += [sector_is_right(images[i], things[i], views[i : i + 1]) for i in facing]
        sheets.append(images)
    samples = torch.cat(sheets)
    things = [thing for held_out in (False, True) for thing in drawn_things(held_out, _TRUTHS // 2, seed + 1)]
    true = truth(things, sector_views(_TRUTHS), seed)
    kid = measures.kid(clip.embed(samples), clip.embed(true))
    return figures | {"right_sector": sum(right) / len(right), "kid": kid[0], "kid_error": kid[1]}, samples


def evaluate_diversity(prior: Pretrained, seed: int) -> tuple[dict[str, float], Pictures]:
    """The mean pairwise distance of samples of textured prompts from one camera over that of true instances."""
    shares, sheets = {}, []
    views = sector_views(1)[torch.zeros(_INSTANCES, dtype=torch.long)]
    for prompt in TEXTURED:
        samples = sample(prior, [prompt] * _INSTANCES, views, seed)
        true = truth([captions.parse(prompt)] * _INSTANCES, views, seed)
        shares[prompt] = measures.pairwise_distance(samples) / measures.pairwise_distance(true)
        sheets.append(samples)
    return {"diversity": sum(shares.values()) / len(shares), "least_diversity": min(shares.values())}, torch.cat(sheets)


def evaluate_clip(clip: TinyCLIP, seed: int) -> float:
    """Share of held-out renders whose own prompt is ranked first among the candidates."""
    things, views = drawn_things(True, _RENDERS, seed), drawn_views(seed)
    pictures = zip(truth(things, views, seed), things, strict=True)
    hits = [clip.is_first(image, thing.prompt, CANDIDATES) for image, thing in pictures]
    return sum(hits) / len(hits)


def drawn_views(seed: int) -> Views:
    """Cameras as training draws them."""
    return world.sample_views(generator_for(seed, 0, "views of renders"), _RENDERS)


def evaluate_vae(prior: Pretrained, seed: int) -> dict[str, float]:
    """Mean PSNR in dB of decoded encodings of held-out renders, plain and textured, and their relative sharpness."""
    things = drawn_things(True, _RENDERS, seed)
    true = truth(things, drawn_views(seed), seed)
    with torch.no_grad():
        decoded = torch.cat([prior.decode(prior.encode(part)) for part in true.split(20)]).clamp(0, 1)
    figures = {}
    for name in ("plain", "textured"):
        rows = torch.tensor([(thing.material == "") == (name == "plain") for thing in things])
        figures[f"vae_psnr_{name}_db"] = measures.psnr(decoded[rows], true[rows]).mean().item()
        sharp = [measures.sharpness(pictures[rows]).mean().item() for pictures in (decoded, true)]
        figures[f"vae_sharpness_{name}"] = sharp[0] / sharp[1]
    return figures


def main() -> None:
    """Measure, print, and write the contact sheet of the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=EMBEDDED, help="the prior's folder; the embedded one by default")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="PNG for the samples: 50 trained prompts, 50 held out; instances go beside it",
    )
    arguments = parser.parse_args()
    Pretrained(arguments.weights).setup()  # imports the libraries, which is not what is timed
    start = time.perf_counter()
    prior = Pretrained(arguments.weights)
    prior.setup()
    load_seconds = time.perf_counter() - start
    clip = TinyCLIP(prior.folder / "clip")
    figures = evaluate_vae(prior, arguments.seed) | {"clip_retrieval": evaluate_clip(clip, arguments.seed)}
    samples, pictures = evaluate_samples(prior, clip, arguments.seed)
    diversity, instances = evaluate_diversity(prior, arguments.seed)
    facts = {"prior": prior.digest, "seed": arguments.seed, "load_seconds": round(load_seconds, 2)}
    results = figures | samples | diversity
    print(json.dumps(facts | {name: round(value, 4) for name, value in results.items()}, indent=2))
    if arguments.sheet:
        save_grid(pictures, arguments.sheet, columns=10)
        save_grid(instances, arguments.sheet.with_stem(f"{arguments.sheet.stem}-instances"), columns=_INSTANCES)


if __name__ == "__main__":
    main()
