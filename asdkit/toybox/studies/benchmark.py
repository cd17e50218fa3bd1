"""Prompts by several methods, each by the recipe's own command: `python -m asdkit.toybox.studies.benchmark`.

Ten prompts in 3D by gs3d, the main job; or, with `--recipe image2d`, six prompts in 2D. Writes `table.md` (the figures
of each run and their means) and `sheet.png` (each result below its truth) into --out. Runs that are finished there
already are kept, so that a stopped benchmark goes on.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from asdkit.core.text import slug
from asdkit.formats.pictures import save_grid
from asdkit.rendering.cameras import ring
from asdkit.run.grid import product
from asdkit.run.tables import write_sheet
from asdkit.toybox import world
from asdkit.toybox.image_judge import truths
from asdkit.toybox.studies.study import make_study, rows_of, study_parser, toybox_prompt, write_table

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


def true_views(prompt: str) -> Float[Tensor, "8 3 64 64"]:
    """A ring of true views."""
    return world.render(world.parse(prompt), ring(8, 20.0, size=64)).image


def true_pictures(prompt: str) -> Float[Tensor, "4 3 64 64"]:
    """True pictures of the view that the prompt names."""
    bank = truths(prompt)
    return (bank.on_black + (1 - bank.alpha) * world.BACKGROUND[0])[:4]


class Study(NamedTuple):
    """What a recipe is studied by: prompts, methods, figures of merit, and the pictures that would be right."""

    prompts: tuple[str, ...]
    methods: tuple[str, ...]
    figures: dict[str, str]
    truth: Callable[[str], Tensor]


_FIGURES = {"psnr": "PSNR dB", "iou": "IoU", "r_precision": "R-precision", "azimuth": "azimuth"}
_IMAGE_FIGURES = {"psnr": "PSNR dB", "r_precision": "R-precision", "saturation": "saturation"}
_IMAGE_FIGURES |= {"true_saturation": "the truth's", "sharpness": "sharpness", "true_sharpness": "the truth's"}
STUDIES = {
    "gs3d": Study(PROMPTS, ("ASD", "SDS7.5", "SDS100"), _FIGURES, true_views),
    "image2d": Study(IMAGE_PROMPTS, ("SDS7.5", "SDS100", "VSD", "ASD"), _IMAGE_FIGURES, true_pictures),
}


def write_truth(pictures: Tensor, prompt: str, out: Path) -> Path:
    """True pictures beside each other as in a run's contact sheet; returns the file."""
    path = out / "truths" / f"{slug(prompt)}.png"
    save_grid(pictures, path, columns=4, scale=max(1, 256 // pictures.shape[-1]))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run, and write the table and the sheet; returns the exit code."""
    parser = study_parser(__doc__, "benchmark")
    parser.add_argument("--recipe", default="gs3d", choices=STUDIES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="several of the recipe's by default")
    parser.add_argument("--prompts", nargs="+", type=toybox_prompt, help="ten or, of images, six by default")
    chosen = parser.parse_args(arguments)
    study = STUDIES[chosen.recipe]
    prompts = chosen.prompts or study.prompts
    methods = {method: METHODS[method] for method in chosen.methods or study.methods}
    made = make_study(product(prompts, {"method": methods}), chosen.recipe, chosen)
    columns = {"method": "method", "prompt": "prompt", **study.figures, "seconds": "seconds"}
    write_table(made.rows, columns, chosen.out / "table.md", means_of="method")
    truths = [write_truth(study.truth(prompt), prompt, chosen.out) for prompt in prompts]
    sheet = rows_of([*truths, *made.pictures("contact.png")], len(prompts))
    write_sheet(sheet, chosen.out / "sheet.png", scale=0.5)
    return made.code


if __name__ == "__main__":
    sys.exit(main())
