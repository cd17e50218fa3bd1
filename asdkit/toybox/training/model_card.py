"""How good the prior and CLIP are, for the model card: `python -m asdkit.toybox.training.model_card`.

The figures are printed as JSON, and for people as a Markdown table, with what is wanted, on the standard error.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from asdkit.formats.pictures import save_grid
from asdkit.priors.locate import EMBEDDED
from asdkit.priors.pretrained import Pretrained
from asdkit.run.tables import markdown
from asdkit.toybox.clip import TinyCLIP
from asdkit.toybox.training.evaluation import (
    Figures,
    evaluate_clip,
    evaluate_kid,
    evaluate_samples,
    evaluate_vae,
    evaluate_variety,
)

WANTED: dict[str, list[Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


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
    Pretrained(arguments.weights).setup()  # imports the libraries, which is not what is timed
    start = time.perf_counter()
    prior = Pretrained(arguments.weights)
    prior.setup()
    load_seconds = time.perf_counter() - start
    figures, pictures = evaluate(prior, TinyCLIP(prior.folder / "clip"), arguments.seed, arguments.samples)
    facts = {"prior": prior.digest, "seed": arguments.seed, "load_seconds": round(load_seconds, 2)}
    facts["seconds"] = round(time.perf_counter() - start)
    print(json.dumps(facts | {name: round(value, 4) for name, value in figures.items()}, indent=2))
    print(table(figures), file=sys.stderr)
    if arguments.sheet:
        save_grid(pictures, arguments.sheet, columns=10, scale=1)


if __name__ == "__main__":
    main()
