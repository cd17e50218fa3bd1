"""Ten prompts by several methods, each by the main job's own command: `python -m asdkit.toybox.benchmark`.

Writes `table.md` (the figures of each run and their means) and `sheet.png` (each result above its truth) into --out.
Runs that are finished there already are kept, so that a stopped benchmark goes on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asdkit.files import slug, write_text
from asdkit.pictures import save_grid
from asdkit.toybox import world
from asdkit.views import ring

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
    "VSD": ["--model.guidance=VSD"],
}
_FIGURES = ("psnr", "iou", "r_precision", "azimuth")
_SIZE, _VIEWS = 64, 8


def run(prompt: str, method: str, out: Path, options: list[str]) -> dict:
    """One run of the main job, unless it is finished; its `run.json`."""
    folder = out / method / slug(prompt)
    report = folder / "run.json"
    if not report.is_file():
        command = [
            sys.executable,
            "-m",
            "asdkit",
            "fit",
            "--config",
            "gs3d",
            "--model.prompt",
            prompt,
            *METHODS[method],
        ]
        command += ["--run.root", str(out), "--run.recipe", method, "--run.name", slug(prompt), *options]
        subprocess.run(command, check=True)
    return json.loads(report.read_text())


def table(results: dict[str, dict[str, dict]]) -> str:
    """Markdown: a row for each run, and the means of each method."""
    lines = ["| method | prompt | PSNR dB | IoU | R-precision | azimuth | seconds |", "|---|---|---|---|---|---|---|"]
    for method, runs in results.items():
        rows = []
        for prompt, report in runs.items():
            figures = [report["metrics"].get(name) for name in _FIGURES]
            rows.append([*figures, report["seconds"]])
            lines.append(f"| {method} | {prompt} | " + " | ".join(map(_cell, rows[-1])) + " |")
        means = [_mean([value for value in column if value is not None]) for column in zip(*rows, strict=True)]
        lines.append(f"| **{method}** | **mean** | " + " | ".join(f"**{_cell(mean)}**" for mean in means) + " |")
    prior = next(iter(next(iter(results.values())).values()))["prior"]
    return "\n".join([*lines, "", f"Prior `{prior}`."]) + "\n"


def sheet(results: dict[str, dict[str, dict]], out: Path) -> None:
    """Each prompt's truth from eight azimuths, and under it what each method made of it; two prompts side by side."""
    blocks = []
    for prompt in next(iter(results.values())):
        truth = world.render(world.parse(prompt), ring(_VIEWS, 20.0, size=_SIZE)).image
        blocks.append([truth, *(_contact(out / method / slug(prompt) / "contact.png") for method in results)])
    if len(blocks) % 2 == 0:
        half = len(blocks) // 2
        pairs = zip(blocks[:half], blocks[half:], strict=True)
        blocks = [[torch.cat(side_by_side) for side_by_side in zip(*pair, strict=True)] for pair in pairs]
    save_grid(torch.cat([row for block in blocks for row in block]), out / "sheet.png", columns=len(blocks[0][0]))


def _contact(path: Path) -> torch.Tensor:
    """The eight pictures of a run's contact sheet [8,3,64,64]."""
    picture = Image.open(path).convert("RGB").resize((_SIZE * _VIEWS // 2, _SIZE * 2), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture)).float().view(2, _SIZE, _VIEWS // 2, _SIZE, 3) / 255
    return pixels.permute(0, 2, 4, 1, 3).reshape(_VIEWS, 3, _SIZE, _SIZE)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def main() -> None:
    """Run, and write the table and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the runs")
    parser.add_argument("--methods", nargs="+", default=["ASD", "SDS7.5", "SDS100"], choices=METHODS)
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS), help="prompts of the toybox")
    parser.add_argument("options", nargs="*", help="after --: further options of asdkit fit, for every run")
    arguments = parser.parse_args()
    results = {
        method: {prompt: run(prompt, method, arguments.out, arguments.options) for prompt in arguments.prompts}
        for method in arguments.methods
    }
    write_text(arguments.out / "table.md", table(results))
    sheet(results, arguments.out)
    print(table(results))


if __name__ == "__main__":
    main()
