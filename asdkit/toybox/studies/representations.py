"""One prompt in every representation, compared: `python -m asdkit.toybox.studies.representations`.

Each is a run of `asdkit fit` and of `asdkit export`. Writes `table.md` (quality, seconds, memory, sizes of files) and
`sheet.png` (the truth, and each result below it) into --out. Runs that are finished there already are kept.
"""

import argparse
from pathlib import Path

import torch

from asdkit.core.atomic import write_text
from asdkit.formats.names import FORMATS
from asdkit.formats.pictures import save_grid
from asdkit.rendering.cameras import ring
from asdkit.run.export import Choices, export
from asdkit.run.loading import load
from asdkit.toybox import world
from asdkit.toybox.studies.benchmark import STUDIES, cell, contact
from asdkit.toybox.studies.runs import fit

REPRESENTATIONS = {
    "Gaussians": [],
    "Gaussians, MCMC": ["--model.generator.density=MCMC"],
    "Gaussians, coarse to fine": ["--config", "gs3d/coarse_to_fine"],
    "Surfels": ["--model.generator.surfels=true"],
    "NeRF, voxels": ["--model.generator=NeRF"],
    "NeRF, planes": ["--model.generator=NeRF", "--model.generator.encoding=TriPlane"],
    "NeRF, then Gaussians": ["--config", "gs3d/from_nerf", "--model.generator.init=OUT/nerf-voxels"],
}
_FIGURES = {"psnr": "PSNR dB", "iou": "IoU", "r_precision": "R-precision"}
_FILES = ("ply", "spz", "glb", "html", "mesh-glb")
_FACES = 20_000


def run(name: str, prompt: str, out: Path) -> dict:
    """One run, unless it is finished, and its files; `run.json` with the number of parameters and the files' sizes."""
    options = [option.replace("OUT", str(out)) for option in REPRESENTATIONS[name]]
    folder = out / _slug(name)
    report = fit(folder, ["--config", "gs3d", *options, "--model.prompt", prompt])
    generator = load(folder).generator
    formats = [f for f in _FILES if generator.splats() is not None or f == "mesh-glb"]
    export(folder, formats, folder / "export", True, Choices(faces=_FACES))
    report["numbers"] = sum(parameter.numel() for parameter in generator.parameters())
    report["sizes"] = {f: (folder / "export" / FORMATS[f]).stat().st_size for f in formats}
    return report


def table(reports: dict[str, dict]) -> str:
    """Markdown: a row for each representation."""
    heads = [*_FIGURES.values(), "seconds", "peak MB", "numbers learned", *(f"{f} KB" for f in _FILES)]
    lines = [f"| representation | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, report in reports.items():
        row = [report["metrics"].get(figure) for figure in _FIGURES]
        row += [report["seconds"], report["peak_mb"].get("cuda", report["peak_mb"]["rss"]), report["numbers"]]
        row += [report["sizes"][f] / 1000 if f in report["sizes"] else None for f in _FILES]
        lines.append(f"| {name} | " + " | ".join(map(cell, row)) + " |")
    return "\n".join([*lines, "", f"Prior `{next(iter(reports.values()))['prior']}`."]) + "\n"


def _slug(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")


def main() -> None:
    """Run, and write the table and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/representations"), help="folder of the runs")
    parser.add_argument("--prompt", default="a yellow duck", help="of the toybox")
    parser.add_argument("--only", nargs="+", choices=REPRESENTATIONS, help="some of them; all by default")
    arguments = parser.parse_args()
    names, out = arguments.only or list(REPRESENTATIONS), arguments.out
    reports = {name: run(name, arguments.prompt, out) for name in names}
    write_text(out / "table.md", table(reports))
    study = STUDIES["gs3d"]
    truth = world.render(world.parse(arguments.prompt), ring(study.views, 20.0, size=64)).image
    rows = [truth, *(contact(out / _slug(name) / "contact.png", study) for name in names)]
    save_grid(torch.cat(rows), out / "sheet.png", columns=study.views)
    print(table(reports))


if __name__ == "__main__":
    main()
