"""The pictures of runs that are kept: small, beside `results.json`."""

import itertools
import statistics
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from asdkit.core.atomic import atomic
from asdkit.core.text import slug

CONTACT = "contact.png"
_PIXELS, _QUALITY = 512, 80  # about how wide a picture is kept, and how well


def kept(out: Path, folder: str, picture: str) -> Path:
    """The file that is kept of a picture, e.g. `contact.png`, of the run in a folder."""
    return out / "pictures" / f"{Path(folder).name}-{Path(picture).stem}.webp"


def of_truth(out: Path, prompt: str) -> Path:
    """The file of true pictures of a prompt."""
    return out / "pictures" / f"truth-{slug(prompt)}.webp"


def keep(picture: Path, file: Path) -> None:
    """Keep a picture as a file, each of whose pixels is the mean of a square of the picture's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small = Image.open(picture, formats=["PNG"]).convert("RGB")
    with atomic(file) as temporary:
        small.reduce(max(1, small.width // _PIXELS)).save(temporary, "WEBP", quality=_QUALITY)


@cache
def diversity(files: tuple[Path, ...]) -> float:
    """The root mean square difference of two kept pictures in [0,1] of the same size, on average over all pairs."""
    arrays = [np.asarray(Image.open(file).convert("RGB"), dtype=float) / 255 for file in files]
    return statistics.fmean(float(np.sqrt(np.square(a - b).mean())) for a, b in itertools.combinations(arrays, 2))
