"""Prompts by several methods, each by the recipe's own command: `python -m asdkit.toybox.studies.benchmark`.

Ten prompts in 3D by gs3d, the main job; or, with `--recipe image2d`, six prompts in 2D. Writes `table.md` (the figures
of each run and their means) and `sheet.png` (each result below its truth) into --out. Runs that are finished there
already are kept, so that a stopped benchmark goes on.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from asdkit.core.atomic import write_text
from asdkit.core.text import slug
from asdkit.formats.pictures import save_grid
from asdkit.rendering.cameras import ring
from asdkit.toybox import world
from asdkit.toybox.image_judge import truths
from asdkit.toybox.studies.runs import fit

PROMPTS = (
    "a yellow duck",
    "a red car",
    "a blue chair",
    "a yellow house with a red roof",
    "an orange fish",
    "a purple mug",
    "a white rocket with red fins",
    "a red mushroom",
    "a green tree",
    "a green cone on a blue cylinder",
)
METHODS = {
    "ASD": [],
    "SDS7.5": ["--model.guidance=SDS", "--model.guidance.scale=7.5"],
    "SDS100": ["--model.guidance=SDS", "--model.guidance.scale=100"],
    "NeRF": ["--model.generator=NeRF"],
    "VSD": ["--model.guidance=VSD", "--model.guidance.scale=7.5"],
}
IMAGE_PROMPTS = (
    "a yellow duck, left side view",
    "a red car, front left view",
    "a blue chair, front left view",
    "a yellow house with a red roof, front right view",
    "a green tree",
    "a green cone on a blue cylinder",
)
_SIZE = 64


class Study(NamedTuple):
    """What a recipe is studied by: prompts, methods, figures of merit, and the pictures of its contact sheet."""

    prompts: tuple[str, ...]
    methods: tuple[str, ...]
    figures: dict[str, str]
    views: int
    columns: int


STUDIES = {
    "gs3d": Study(
        PROMPTS,
        ("ASD", "SDS7.5", "SDS100"),
        {"psnr": "PSNR dB", "iou": "IoU", "r_precision": "R-precision", "azimuth": "azimuth"},
        views=8,
        columns=4,
    ),
    "image2d": Study(
        IMAGE_PROMPTS,
        ("SDS7.5", "SDS100", "VSD", "ASD"),
        {
            "psnr": "PSNR dB",
            "r_precision": "R-precision",
            "saturation": "saturation",
            "true_saturation": "the truth's",
            "sharpness": "sharpness",
            "true_sharpness": "the truth's",
        },
        views=4,
        columns=4,
    ),
}


def run(recipe: str, prompt: str, method: str, out: Path, options: list[str]) -> dict:
    """One run of the recipe, unless it is finished; its `run.json`."""
    command = ["--config", recipe, "--model.prompt", prompt, *METHODS[method], *options]
    return fit(out / method / slug(prompt), command)


def table(results: dict[str, dict[str, dict]], study: Study = STUDIES["gs3d"]) -> str:
    """Markdown: a row for each run, and the means of each method."""
    names = [*study.figures.values(), "seconds"]
    lines = [f"| method | prompt | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for method, runs in results.items():
        rows = []
        for prompt, report in runs.items():
            rows.append([*(report["metrics"].get(name) for name in study.figures), report["seconds"]])
            lines.append(f"| {method} | {prompt} | " + " | ".join(map(cell, rows[-1])) + " |")
        means = [_mean([value for value in column if value is not None]) for column in zip(*rows, strict=True)]
        lines.append(f"| **{method}** | **mean** | " + " | ".join(f"**{cell(mean)}**" for mean in means) + " |")
    prior = next(iter(next(iter(results.values())).values()))["prior"]
    return "\n".join([*lines, "", f"Prior `{prior}`."]) + "\n"


def sheet(results: dict[str, dict[str, dict]], out: Path, study: Study) -> None:
    """Each prompt's truth, and under it what each method made of it; two prompts side by side."""
    blocks = []
    for prompt in next(iter(results.values())):
        made = [contact(out / method / slug(prompt) / "contact.png", study) for method in results]
        blocks.append([_truth(prompt, study), *made])
    if len(blocks) % 2 == 0:
        half = len(blocks) // 2
        pairs = zip(blocks[:half], blocks[half:], strict=True)
        blocks = [[torch.cat(side_by_side) for side_by_side in zip(*pair, strict=True)] for pair in pairs]
    save_grid(torch.cat([row for block in blocks for row in block]), out / "sheet.png", columns=len(blocks[0][0]))


def _truth(prompt: str, study: Study) -> Float[Tensor, "N 3 64 64"]:
    """A ring of true views or, of a study of images, some true pictures of the view that the prompt names."""
    if study.views == 8:
        return world.render(world.parse(prompt), ring(study.views, 20.0, size=_SIZE)).image
    bank = truths(prompt)
    return (bank.on_black + (1 - bank.alpha) * world.BACKGROUND[0])[: study.views]


def contact(path: Path, study: Study) -> Float[Tensor, "N 3 64 64"]:
    """The pictures of a run's contact sheet."""
    rows, columns = study.views // study.columns, study.columns
    picture = Image.open(path).convert("RGB").resize((_SIZE * columns, _SIZE * rows), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture)).float().view(rows, _SIZE, columns, _SIZE, 3) / 255
    return pixels.permute(0, 2, 4, 1, 3).reshape(study.views, 3, _SIZE, _SIZE)


def cell(value: float | None) -> str:
    """A number for a table, to three figures; nothing for None."""
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def main() -> None:
    """Run, and write the table and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="gs3d", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the runs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="several of the recipe's by default")
    parser.add_argument("--prompts", nargs="+", help="prompts of the toybox; ten or, of images, six by default")
    parser.add_argument("options", nargs="*", help="after --: further options of asdkit fit, for every run")
    arguments = parser.parse_args()
    study, out = STUDIES[arguments.recipe], arguments.out
    results = {
        method: {
            prompt: run(arguments.recipe, prompt, method, out, arguments.options)
            for prompt in arguments.prompts or study.prompts
        }
        for method in arguments.methods or study.methods
    }
    write_text(out / "table.md", table(results, study))
    sheet(results, out, study)
    print(table(results, study))


if __name__ == "__main__":
    main()
