"""Pictures edited in words by several methods, against the truth: `python -m asdkit.toybox.studies.edits`.

Writes `table.md` and `sheet.png` (the source, what each method made of it, the true target) into --out. Figure 9's
situations are among the pairs: a picture is simplified, refined, or its object replaced.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.atomic import write_text
from asdkit.core.text import slug
from asdkit.formats.pictures import read_picture, save_grid
from asdkit.rendering.cameras import orbit
from asdkit.toybox import world
from asdkit.toybox.studies.runs import fit, side_by_side
from asdkit.toybox.training.common import psnr

METHODS = {
    "DDS": ["--config", "edit2d/dds"],
    "PDS": ["--config", "edit2d/pds"],
    "ASDEdit": [],
    "DeltaASD": ["--config", "edit2d/delta"],
}
_EDGE = 2


class Edit(NamedTuple):
    """A source and a target of the toybox, seen from one place, and which of Figure 9's situations it is."""

    situation: str
    source: str
    target: str
    azimuth_deg: float


EDITS = (
    Edit("recolour", "a yellow duck", "a red duck", 90.0),
    Edit("recolour", "a white snowman with a blue hat", "a white snowman with a red hat", 20.0),
    Edit("simplify", "a green cone on a blue cylinder", "a blue cylinder", 0.0),
    Edit("refine", "a yellow house", "a yellow house with a red roof", 45.0),
    Edit("replace", "a green tree", "a red mushroom", 0.0),
    Edit("replace", "a red car", "a blue truck", 60.0),
)


def truth(prompt: str, azimuth_deg: float) -> world.Truth:
    """The thing from this azimuth, 20 degrees above."""
    place = [torch.tensor([value]) for value in (math.radians(azimuth_deg), math.radians(20.0), 3.4)]
    return world.render(world.parse(prompt), orbit(*place, math.radians(40.0), 64, 64))


def change_outside(
    image: Float[Tensor, "1 3 H W"], source: Float[Tensor, "1 3 H W"], alphas: Float[Tensor, "N 1 H W"]
) -> float:
    """Mean absolute change of the pixels that lie more than 2 pixels outside of every silhouette."""
    edited = nn.functional.max_pool2d((alphas > 0).float().amax(0), 2 * _EDGE + 1, 1, _EDGE) > 0
    return (image - source).abs()[(~edited).expand(image.shape)].mean().item()


def run(method: str, edit: Edit, out: Path, options: list[str]) -> dict[str, float]:
    """One edit by the recipe edit2d: the CLIP's similarities, the change outside, and PSNR to the true target."""
    folder, picture = out / method / slug(edit.target), out / "sources" / f"{slug(edit.source)}.png"
    before, after = truth(edit.source, edit.azimuth_deg), truth(edit.target, edit.azimuth_deg)
    save_grid(before.image, picture, 1)
    words = ["--model.source", edit.source, "--model.target", edit.target]
    command = ["--config", "edit2d", *METHODS[method], "--data.image", str(picture), *words, *options]
    report = fit(folder, command)
    image, source = read_picture(folder / "images" / "00.png")[None], read_picture(picture)[None]
    return {
        "before": report["metrics"]["source_similarity"],
        "after": report["metrics"]["similarity"],
        "outside": change_outside(image, source, torch.cat([before.alpha, after.alpha])),
        "psnr_before": psnr(source, after.image).item(),
        "psnr_after": psnr(image, after.image).item(),
        "seconds": report["seconds"],
    }


def table(results: dict[tuple[str, Edit], dict[str, float]]) -> str:
    """Markdown: a row for each edit, and the means of each method."""
    names = ("before", "after", "outside", "psnr_before", "psnr_after", "seconds")
    lines = [
        "| method | edit | similarity before | after | change outside | PSNR before | after | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(method for method, _ in results):
        rows = [(edit, found) for (by, edit), found in results.items() if by == method]
        for edit, found in rows:
            cells = " | ".join(f"{found[name]:.3g}" for name in names)
            lines.append(f"| {method} | {edit.situation}: {edit.source} → {edit.target} | {cells} |")
        means = " | ".join(f"**{sum(found[name] for _, found in rows) / len(rows):.3g}**" for name in names)
        lines.append(f"| **{method}** | **mean** | {means} |")
    return "\n".join(lines) + "\n"


def sheet(methods: list[str], out: Path) -> None:
    """A column for each edit: the source, the methods in the table's order, the true target."""
    rows = [torch.cat([truth(edit.source, edit.azimuth_deg).image for edit in EDITS])]
    for method in methods:
        rows.append(
            torch.stack([read_picture(out / method / slug(edit.target) / "images" / "00.png") for edit in EDITS])
        )
    rows.append(torch.cat([truth(edit.target, edit.azimuth_deg).image for edit in EDITS]))
    save_grid(torch.cat(rows), out / "sheet.png", columns=len(EDITS), scale=2)


def main() -> None:
    """Run, and write the table and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/edits"), help="folder of the runs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("options", nargs="*", help="after --: further options of asdkit fit, for every run")
    arguments = parser.parse_args()
    cells = [(method, edit) for method in arguments.methods for edit in EDITS]
    found = side_by_side(lambda cell: run(*cell, arguments.out, arguments.options), cells, arguments.jobs)
    results = dict(zip(cells, found, strict=True))
    write_text(arguments.out / "table.md", table(results))
    sheet(arguments.methods, arguments.out)
    print(table(results))


if __name__ == "__main__":
    main()
