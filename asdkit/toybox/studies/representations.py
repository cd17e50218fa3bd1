"""One prompt in every representation, compared: `python -m asdkit.toybox.studies.representations`.

Each is a run of `asdkit fit` and of `asdkit export`. Writes `table.md` (quality, seconds, memory, sizes of files) and
`sheet.png` (the truth, and each result below it) into --out. Runs that are finished there already are kept.
"""

import argparse
import json
import sys
from pathlib import Path

from asdkit.formats.names import FORMATS
from asdkit.run.export import Choices, export
from asdkit.run.grid import product
from asdkit.run.loading import load
from asdkit.run.tables import write_sheet
from asdkit.toybox.studies.benchmark import true_views, write_truth
from asdkit.toybox.studies.study import Made, make_study, rows_of, study_parser, toybox_prompt, write_table

REPRESENTATIONS = {
    "Gaussians": [],
    "Gaussians, MCMC": ["--model.generator.density=MCMC"],
    "Gaussians, coarse to fine": ["--config", "gs3d/coarse_to_fine"],
    "Surfels": ["--model.generator.mode=surfels"],
    "NeRF, voxels": ["--model.generator=NeRF"],
    "NeRF, planes": ["--model.generator=NeRF", "--model.generator.encoding=TriPlane"],
    "NeRF, then Gaussians": ["--config", "gs3d/from_nerf"],
}
_FIELD, _FROM_FIELD = "NeRF, voxels", "NeRF, then Gaussians"  # the second starts from what the first has made
_FIGURES = {"psnr": "PSNR dB", "iou": "IoU", "r_precision": "R-precision"}
_FILES = ("ply", "spz", "glb", "html", "mesh-glb")
_FACES = 20_000


def sizes(run: Path) -> dict[str, float]:
    """The number of parameters of a run's object, and the KB of the files that it is exported to."""
    generator = load(run).generator
    formats = [f for f in _FILES if generator.splats() is not None or f == "mesh-glb"]
    files = {f: run / "export" / FORMATS[f] for f in formats}
    if missing := [f for f in formats if not files[f].is_file()]:
        export(run, missing, run / "export", False, Choices(faces=_FACES))
    numbers = sum(parameter.numel() for parameter in generator.parameters())
    return {"numbers": numbers, **{f"{f} KB": file.stat().st_size / 1000 for f, file in files.items()}}


def make_representations(names: list[str], chosen: argparse.Namespace) -> Made:
    """Make the runs; the one that starts from the field comes after the others, the field among them."""
    options = {name: REPRESENTATIONS[name] for name in names}
    if _FROM_FIELD in options:
        first = {name: REPRESENTATIONS[name] for name in {**options, _FIELD: []} if name != _FROM_FIELD}
        grid = make_study(product([chosen.prompt], {"representation": first}), "gs3d", chosen).grid
        [field] = [grid.run_folder(cell) for cell in grid.cells if cell.labels["representation"] == _FIELD]
        options[_FROM_FIELD] = [*options[_FROM_FIELD], f"--model.generator.init={field}"]
    return make_study(product([chosen.prompt], {"representation": options}), "gs3d", chosen)


def main(arguments: list[str] | None = None) -> int:
    """Run, and write the table and the sheet; returns the exit code."""
    parser = study_parser(__doc__, "representations")
    parser.add_argument("--prompt", type=toybox_prompt, default="a yellow duck", help="of the toybox")
    parser.add_argument("--only", nargs="+", choices=REPRESENTATIONS, help="some of them; all by default")
    chosen = parser.parse_args(arguments)
    made = make_representations(chosen.only or list(REPRESENTATIONS), chosen)
    for row in made.rows:
        peak = json.loads(Path(row["folder"], "run.json").read_text())["peak_mb"]
        row |= {"peak": peak.get("cuda", peak["rss"])} | sizes(Path(row["folder"]))
    columns = {"representation": "representation", **_FIGURES, "seconds": "seconds", "peak": "peak MB"}
    columns |= {"numbers": "numbers learned", **{f"{f} KB": f"{f} KB" for f in _FILES}}
    write_table(made.rows, columns, chosen.out / "table.md")
    truth = write_truth(true_views(chosen.prompt), chosen.prompt, chosen.out)
    write_sheet(rows_of([truth, *made.pictures("contact.png")], 1), chosen.out / "sheet.png", scale=0.5)
    return made.code


if __name__ == "__main__":
    sys.exit(main())
