"""One HTML file that shows Gaussians in a browser: opened by a double click, without network access.

The page, `viewer.html` beside this module, is WebGL2 and JavaScript without any library. It draws by the rules of
`asdkit.rendering.rasterize`, in 16-bit floats where the browser has them, and sorts at every movement of the camera.
The Gaussians lie in it as base64 of one record each, little endian: the centre in three float32; float16 numbers for
three logarithms of standard deviations, the rotation v/(1+w) of the quaternion (w,v) of norm 1 with w >= 0, the opacity
in [0,1] and all coefficients of the spherical harmonics (red, green, blue); zeros up to a multiple of 16 bytes.
"""

import base64
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np

from asdkit.core.atomic import write_text
from asdkit.core.text import rendered
from asdkit.formats.splats import Splats, to_be_written

_TEMPLATE = Path(__file__).with_name("viewer.html")


def write_html(
    path: Path,
    splats: Splats,
    title: str,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    azimuth_deg: float = 30.0,
    elevation_deg: float = 15.0,
    distance: float = 3.4,
    fov_deg: float = 40.0,
) -> None:
    """Writes a page, whole or not at all, that shows Gaussians and lets one turn, move and enlarge them.

    The title is shown and never interpreted. The first camera is that of the arguments, its field of view over the
    window's shorter side, or that of `#azimuth=90&elevation=20&distance=3.4` after the file's address. It is a
    ValueError if there are no Gaussians, or values that float16 (of centres: float32) can't hold.
    """
    data = base64.b64encode(_records(path, splats)).decode()
    count, coefficients = splats.sh.shape[:2]
    camera = {"azimuth": azimuth_deg, "elevation": elevation_deg, "distance": distance, "fov": fov_deg}
    scene = camera | {"background": background, "degree": math.isqrt(coefficients) - 1, "data": data}
    template = _TEMPLATE.read_text(encoding="utf-8")
    values = {"title": title, "count": f"{count:,}", "scene": json.dumps(scene)}
    values |= {f"{element}_hash": _hash(template, element) for element in ("style", "script")}
    write_text(path, rendered(_TEMPLATE, values))


def _records(path: Path, splats: Splats) -> bytes:
    means, quats, _, opacities, sh = to_be_written(path, splats)
    quats = quats * np.copysign(1, quats[:, :1])
    columns = splats.log_scales, quats[:, 1:] / (1 + quats[:, :1]), opacities[:, None], sh.reshape(len(sh), -1)
    with np.errstate(over="ignore"):
        halves = np.concatenate(columns, axis=1).astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError(f"{path} was not written: some Gaussians have values that are too large for float16.")
    padding = -(12 + 2 * halves.shape[1]) % 16
    centres = means.astype("<f4").view(np.uint8)
    return np.pad(np.hstack([centres, halves.view(np.uint8)]), ((0, 0), (0, padding))).tobytes()


def _hash(template: str, element: str) -> str:
    """The hash by which the page's policy allows its one script or style, and nothing else that the page may hold."""
    content = re.search(f"<{element}>(.*?)</{element}>", template, re.DOTALL)[1]
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"
