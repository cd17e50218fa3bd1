"""Pictures edited in words by several methods, against the truth: `python -m asdkit.toybox.studies.edits`.

Writes `table.md` and `sheet.png` (the source, what each method made of it, the true target) into --out. Figure 9's
situations are among the pairs: a picture is simplified, refined, or its object replaced.
"""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.text import slug
from asdkit.formats.pictures import read_picture, save_grid
from asdkit.rendering.cameras import orbit
from asdkit.run.grid import Cell
from asdkit.run.tables import write_sheet
from asdkit.toybox import world
from asdkit.toybox.studies.study import make_study, rows_of, study_parser, write_table
from asdkit.toybox.training.common import psnr

METHODS = {
    "DDS": ["--config", "edit2d/dds"],
    "PDS": ["--config", "edit2d/pds"],
    "ASDEdit": [],
    "DeltaASD": ["--config", "edit2d/delta"],
}
_EDGE = 2
_RESULT = "images/00.png"
_COLUMNS = {"method": "method", "edit": "edit", "source_similarity": "similarity before", "similarity": "after"}
_COLUMNS |= {"outside": "change outside", "psnr_before": "PSNR before", "psnr_after": "after", "seconds": "seconds"}


class Edit(NamedTuple):
    """A source and a target of the toybox, seen from one place, and which of Figure 9's situations it is."""

    situation: str
    source: str
    target: str
    azimuth_deg: float

    def __str__(self) -> str:
        return f"{self.situation}: {self.source} → {self.target}"


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
    azimuth, elevation = (torch.tensor([math.radians(degrees)]) for degrees in (azimuth_deg, 20.0))
    return world.render(world.parse(prompt), orbit(azimuth, elevation, torch.tensor([3.4]), math.radians(40.0), 64, 64))


def change_outside(
    image: Float[Tensor, "1 3 H W"], source: Float[Tensor, "1 3 H W"], alphas: Float[Tensor, "N 1 H W"]
) -> float:
    """Mean absolute change of the pixels that lie more than 2 pixels outside of every silhouette."""
    edited = nn.functional.max_pool2d((alphas > 0).float().amax(0), 2 * _EDGE + 1, 1, _EDGE) > 0
    return (image - source).abs()[(~edited).expand(image.shape)].mean().item()


def picture(prompt: str, azimuth_deg: float, out: Path) -> Path:
    """The file of a true picture."""
    path = out / "truths" / f"{slug(prompt)}-{azimuth_deg:g}.png"
    save_grid(truth(prompt, azimuth_deg).image, path, columns=1)
    return path


def measured(row: dict[str, Any], edit: Edit, source: Path) -> dict[str, Any]:
    """A run's row with the change outside of the silhouettes, and PSNR to the true target."""
    before, after = truth(edit.source, edit.azimuth_deg), truth(edit.target, edit.azimuth_deg)
    image, unedited = read_picture(Path(row["folder"], _RESULT))[None], read_picture(source)[None]
    return row | {
        "outside": change_outside(image, unedited, torch.cat([before.alpha, after.alpha])),
        "psnr_before": psnr(unedited, after.image).item(),
        "psnr_after": psnr(image, after.image).item(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run, and write the table and the sheet; returns the exit code."""
    parser = study_parser(__doc__, "edits")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    chosen = parser.parse_args(arguments)
    edits = {str(edit): edit for edit in EDITS}
    sources = {words: picture(edit.source, edit.azimuth_deg, chosen.out) for words, edit in edits.items()}
    targets = [picture(edit.target, edit.azimuth_deg, chosen.out) for edit in EDITS]
    cells = []
    for method in chosen.methods:
        for words, edit in edits.items():
            options = [*METHODS[method], "--data.image", str(sources[words]), "--model.source", edit.source]
            cells.append(Cell(edit.target, {"method": method, "edit": words}, options))
    made = make_study(cells, "edit2d", chosen)
    rows = [measured(row, edits[row["edit"]], sources[row["edit"]]) for row in made.rows]
    write_table(rows, _COLUMNS, chosen.out / "table.md", means_of="method")
    sheet = rows_of([*sources.values(), *made.pictures(_RESULT), *targets], len(edits))
    write_sheet(sheet, chosen.out / "sheet.png", scale=2)
    return made.code


if __name__ == "__main__":
    sys.exit(main())
