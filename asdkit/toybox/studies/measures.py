"""What studies measure beside the metrics of their runs."""

import json
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.data import Cameras
from asdkit.formats.names import FORMATS
from asdkit.formats.pictures import read_picture
from asdkit.generators.base import Generator
from asdkit.generators.from_file import object_of
from asdkit.rendering.cameras import Views
from asdkit.run.export import Choices, export
from asdkit.run.loading import load
from asdkit.toybox import world
from asdkit.toybox.studies.truths import Subject, camera, seen
from asdkit.toybox.training.common import psnr

_EDGE = 2  # pixels
_AWAY_DEG = 45.0
_FORMATS, _FACES = ("ply", "spz", "glb", "html", "mesh-glb"), 20_000


def edit(run: Path, subject: Subject) -> dict[str, float]:
    """What an edit has changed outside of the silhouettes, and PSNR to the true target, before and after."""
    before, after = (seen(prompt, subject.azimuth_deg) for prompt in (subject.source, subject.prompt))
    unedited, image = (read_picture(file)[None] for file in (str(subject.picture), run / "images/00.png"))
    return {
        "outside": change_outside(image, unedited, torch.cat([before.alpha, after.alpha])),
        "psnr_before": psnr(unedited, after.image).item(),
        "psnr_after": psnr(image, after.image).item(),
    }


def away(run: Path, subject: Subject) -> dict[str, float]:
    """PSNR to the truth of the novel views at least 45 degrees away from the subject's own, and of this view."""
    module, novel, given = load(run), Cameras().novel_views(), camera(subject.azimuth_deg)
    outward = [nn.functional.normalize(views.c2w[:, :3, 3], dim=1) for views in (novel, given)]
    far = novel[(outward[0] @ outward[1].T)[:, 0] <= math.cos(math.radians(_AWAY_DEG))]
    return {"psnr_away": _psnr(module.generator, subject, far), "psnr_given": _psnr(module.generator, subject, given)}


def refined(run: Path, subject: Subject) -> dict[str, float]:
    """PSNR to the truth over the novel views, of what the run was given and of what it has made."""
    assert subject.start is not None
    novel = Cameras().novel_views()
    before, after = (_psnr(thing, subject, novel) for thing in (object_of(subject.start), load(run).generator))
    return {"psnr_before": before, "psnr_after": after, "gain": after - before}


def _psnr(generator: Generator, subject: Subject, views: Views) -> float:
    """The mean over views, before the world's background."""
    background = torch.tensor(world.BACKGROUND)
    with torch.no_grad():
        image = generator.render(views, background).image
    return psnr(image, world.render(world.parse(subject.prompt), views).image).mean().item()


def change_outside(
    image: Float[Tensor, "1 3 H W"], source: Float[Tensor, "1 3 H W"], alphas: Float[Tensor, "N 1 H W"]
) -> float:
    """Mean absolute change of the pixels that lie more than 2 pixels outside of every silhouette."""
    edited = nn.functional.max_pool2d((alphas > 0).float().amax(0), 2 * _EDGE + 1, 1, _EDGE) > 0
    return (image - source).abs()[(~edited).expand(image.shape)].mean().item()


def files(run: Path, subject: Subject) -> dict[str, float]:
    """MB of memory, the number of parameters of a run's object, and the KB of the files that it is exported to."""
    generator = load(run).generator
    peak = json.loads((run / "run.json").read_text())["peak_mb"]
    named = {f: run / "export" / FORMATS[f] for f in _FORMATS if generator.splats() is not None or f == "mesh-glb"}
    if missing := [f for f, file in named.items() if not file.is_file()]:
        export(run, missing, run / "export", False, Choices(faces=_FACES))
    sizes = {f: file.stat().st_size / 1000 for f, file in named.items()}
    numbers = sum(parameter.numel() for parameter in generator.parameters())
    return {"peak": peak.get("cuda", peak["rss"]), "numbers": numbers, **sizes}
