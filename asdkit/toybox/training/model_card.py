"""How good the prior and CLIP are, for the model card: `python -m asdkit.toybox.training.model_card`.

The figures are printed as JSON, and for people as a Markdown table, with what is wanted, on the standard error.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from asdkit.core.randomness import generator_for
from asdkit.formats.pictures import save_grid
from asdkit.priors.locate import EMBEDDED
from asdkit.priors.pretrained import Pretrained
from asdkit.rendering.cameras import Views, ring
from asdkit.run.tables import markdown
from asdkit.scores.equations import sharpness
from asdkit.scores.fields import CFG, ddim
from asdkit.scores.prior import Condition
from asdkit.toybox import world
from asdkit.toybox.captions import thing_of
from asdkit.toybox.clip import TinyCLIP
from asdkit.toybox.measures import diversity, kid, kid_error, psnr
from asdkit.toybox.things import Thing
from asdkit.toybox.truths import pictured

_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
WANTED: dict[str, list[Any]] = _DATA["wanted"]
VARIED: tuple[str, ...] = tuple(_DATA["varied"])
SCALE, STEPS, CANDIDATES = 3.0, 50, 200
_BATCH, _AZIMUTHS, _INSTANCES, _ALIKE = 25, 24, 8, 8
_OWN = "each its own prompt"  # what the prompts of a batch are in the place of
Figures = dict[str, float]


@torch.no_grad()
def sample(prior: Pretrained, prompts: list[str], views: Views, seed: int) -> Float[Tensor, "N 3 H W"]:
    """One picture per prompt, each from its own camera; DDIM at CFG 3, 25 at a time."""
    size = prior.latent_shape(views.height, views.width)
    noise = torch.randn(len(prompts), *size, generator=generator_for(seed, 0, "samples"))
    images = []
    prior.prepare([Condition(prompt) for prompt in prompts])
    for start in range(0, len(prompts), _BATCH):
        some = slice(start, start + _BATCH)
        x0 = ddim(prior, CFG(_OWN, SCALE), noise[some], STEPS, views[some], prompts={_OWN: prompts[some]})
        images.append(prior.decode(x0))
    return torch.cat(images)


def drawn_things(held_out: bool, count: int, seed: int, fits: Callable[[Thing], bool] = lambda _: True) -> list[Thing]:
    """`count` things of the trained or of the held-out compositions that fit, as the world's sampler draws them."""
    generator = generator_for(seed, 0, "held-out things" if held_out else "trained things")
    things: list[Thing] = []
    while len(things) < count:
        thing = world.sample_thing(generator, held_out)
        things += [thing] if fits(thing) else []
    return things


def sector_is_right(image: Float[Tensor, "3 H W"], thing: Thing, view: Views) -> bool:
    """Whether the nearest true render over the azimuths, a material's mean instance, is in the sector asked for."""
    elevation, distance = view.elevation.rad2deg().item(), view.distance.item()
    candidates = ring(_AZIMUTHS, elevation, distance, size=image.shape[-1])
    grey = image[:, :3, :].mean((1, 2))
    numbers = range(_INSTANCES if thing.material else 1)
    shown = [world.render(thing, candidates, grey.expand(_AZIMUTHS, 3), 2, number).image for number in numbers]
    best = (torch.stack(shown).mean(0) - image).square().flatten(1).mean(1).argmin()
    turn = candidates.azimuth[best] - view.azimuth[0]
    return bool(torch.atan2(turn.sin(), turn.cos()).abs() <= torch.pi / 8 + 1e-6)


def sector_views(count: int) -> Views:
    """Cameras for `count` samples: the eight sectors in turn, elevation 15 degrees."""
    return ring(8, size=world.SIZE)[torch.arange(count) % 8]


def evaluate_vae(prior: Pretrained, seed: int, count: int = 100) -> Figures:
    """Of decoded encodings of held-out renders, plain and textured: the mean PSNR, and the share of sharpness kept."""
    figures = {}
    for name, textured in (("plain", False), ("textured", True)):
        things = drawn_things(True, count, seed, lambda thing: bool(thing.material) == textured)  # noqa: B023
        generator = generator_for(seed, 0, f"{name} renders")
        images = pictured(things, world.sample_views(generator, count), generator)
        with torch.no_grad():
            decoded = torch.cat([prior.decode(prior.encode(some)) for some in images.split(_BATCH)])
        figures[f"vae_psnr_{name}_db"] = psnr(decoded, images).mean().item()
        figures[f"vae_sharpness_kept_{name}"] = (sharpness(decoded).mean() / sharpness(images).mean()).item()
    return figures


def evaluate_clip(clip: TinyCLIP, seed: int, count: int = 200) -> float:
    """Share of held-out renders whose own prompt is ranked first among the candidates."""
    generator = generator_for(seed, 0, "clip renders")
    things = [world.sample_thing(generator, held_out=True) for _ in range(count)]
    images = pictured(things, world.sample_views(generator, count), generator)
    return clip.are_first(images, [thing.prompt for thing in things], CANDIDATES).float().mean().item()


def evaluate_samples(prior: Pretrained, clip: TinyCLIP, seed: int, count: int = 100) -> tuple[Figures, Tensor]:
    """R-precision of samples of trained and held-out prompts, the share of right sectors, and the pictures."""
    figures, sheets, right = {}, [], []
    views = sector_views(count)
    for name, held_out in (("trained", False), ("held_out", True)):
        things = drawn_things(held_out, count, seed)
        prompts = [thing.prompt for thing in things]
        images = sample(prior, prompts, views, seed)
        figures[f"r_precision_{name}"] = clip.are_first(images, prompts, CANDIDATES).float().mean().item()
        fronted = [i for i, thing in enumerate(things) if thing.has_front]
        right += [sector_is_right(images[i], things[i], views[i : i + 1]) for i in fronted]
        sheets.append(images)
    return figures | {"right_sector": sum(right) / max(1, len(right))}, torch.cat(sheets)


def evaluate_variety(prior: Pretrained, seed: int, prompts: tuple[str, ...] = VARIED) -> Figures:
    """The mean pairwise distance of 8 samples of a textured prompt from one camera, and that of 8 true instances."""
    views, own, true = ring(1, size=world.SIZE)[torch.zeros(_ALIKE).long()], 0.0, 0.0
    generator = generator_for(seed, 0, "instances")
    for number, prompt in enumerate(prompts):
        thing = thing_of(prompt)
        own += diversity(sample(prior, [prompt] * _ALIKE, views, seed + 1 + number)) / len(prompts)
        true += diversity(pictured([thing] * _ALIKE, views, generator)) / len(prompts)
    return {"pairwise_distance": own, "true_pairwise_distance": true, "pairwise_distance_share": own / true}


def evaluate_kid(clip: TinyCLIP, images: Float[Tensor, "N 3 H W"], seed: int) -> Figures:
    """KID of samples of trained prompts to as many true pictures, and of other true pictures to these, with errors."""
    views = sector_views(len(images))
    sets = [images]
    for number in (seed + 1, seed + 2):
        things = drawn_things(False, len(views), number)
        sets.append(pictured(things, views, generator_for(number, 0, "true pictures")))
    own, others, true = map(clip.features, sets)
    figures = {"kid": kid(own, true), "kid_error": kid_error(own, true)}
    return figures | {"true_kid": kid(others, true), "true_kid_error": kid_error(others, true)}


def evaluate(prior: Pretrained, clip: TinyCLIP, seed: int, samples: int) -> tuple[Figures, Tensor]:
    """All figures, and the samples of the trained and then of the held-out prompts."""
    figures = evaluate_vae(prior, seed, samples) | {"clip_retrieval": evaluate_clip(clip, seed, 2 * samples)}
    of_samples, pictures = evaluate_samples(prior, clip, seed, samples)
    figures |= of_samples | evaluate_variety(prior, seed) | evaluate_kid(clip, pictures[:samples], seed)
    return figures, pictures


def table(figures: Figures) -> str:
    """The figures as a Markdown table, beside what is wanted and whether that is reached."""
    rows = []
    for name, (words, least) in WANTED.items():
        wanted = {} if least is None else {"wanted": least, "reached": "yes" if figures[name] >= least else "no"}
        rows.append({"figure": words, "value": figures[name]} | wanted)
    return markdown(rows, ["figure", "value", "wanted", "reached"])


def main() -> None:
    """Measure, print, and write the contact sheet of the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=EMBEDDED, help="the prior's folder; the embedded one by default")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise")
    parser.add_argument("--samples", type=int, default=100, help="of trained prompts, and as many of held-out ones")
    parser.add_argument("--sheet", type=Path, help="write the samples there as a PNG, those of trained prompts first")
    arguments = parser.parse_args()
    start, prior = time.perf_counter(), Pretrained(arguments.weights)
    prior.setup()
    figures, pictures = evaluate(prior, TinyCLIP(prior.folder / "clip"), arguments.seed, arguments.samples)
    facts = {"prior": prior.digest, "seed": arguments.seed, "seconds": round(time.perf_counter() - start)}
    print(json.dumps(facts | {name: round(value, 4) for name, value in figures.items()}, indent=2))
    print(table(figures), file=sys.stderr)
    if arguments.sheet:
        save_grid(pictures, arguments.sheet, columns=10, scale=1)


if __name__ == "__main__":
    main()
