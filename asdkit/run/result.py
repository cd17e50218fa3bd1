"""What a run has made, in Python: pictures, an orbit and files, each made when it is asked for."""

import base64
import html
import sys
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from asdkit.core.parts import require
from asdkit.core.text import local
from asdkit.formats.names import FORMATS, Choices
from asdkit.formats.pictures import grid, save_webp
from asdkit.run.export import opened, refuse

_COLUMNS = 4
_NOTEBOOK_SIZE, _NOTEBOOK_FRAMES = 256, 24


class Result:
    """An object or pictures that a run has made. A notebook shows it by itself.

    Args:
        run: a run folder or a checkpoint, or a file of Gaussians.
        prompt: what to show in place of the run's own prompt, for a generator that knows many; a ValueError for others.
    """

    def __init__(self, run: str | Path, prompt: str = "") -> None:
        self.run = local(run)
        self._object = opened(self.run, prompt)
        self.prompt = self._object.name  # what it was made of; the file's name where nobody knows
        self.generator = self._object.generator  # the object itself, e.g. `asdkit.Gaussians`

    def views(self, size: int = 256, count: int = 8, elevation_deg: float = 20.0) -> Float[Tensor, "count 3 size size"]:
        """Pictures in [0,1] from `count` azimuths, the first from the front; images are given as they are."""
        if self.generator.flat:
            return self._object.render(None).image.cpu()
        return self._object.render(self._object.ring(count, elevation_deg, size)).image

    def orbit(self, size: int = 256, frames: int = 60) -> Float[Tensor, "frames 3 size size"]:
        """The frames of a film around the object; `save("orbit.webp")` writes one."""
        require(not self.generator.flat, f"{self.run} holds images, which have no orbit.")
        return self.views(size, frames)

    def save(self, path: str | Path, size: int = 512) -> Path:
        """Write it in the format that the file's name ends in, as `asdkit export` does; returns the file.

        Args:
            path: ends in .ply, .splat, .spz, .sog, .glb (Gaussians where it has some, else a mesh), .obj, .html, .mp4,
                .webp or .png; a file that exists is replaced.
            size: height and width of pictures in pixels.

        Raises:
            ValueError: another ending, or a format that can't hold it.
            MissingExtra: the format needs an extra that is not installed.
        """
        file, ending = local(path), Path(path).suffix.removeprefix(".").lower()
        if ending == "glb" and self.generator.splats() is None:
            ending = "mesh-glb"
        endings = ", .".join(name for name in FORMATS if name not in ("mesh-glb", "diffusers"))
        require(ending in FORMATS, f"{path} must end in .{endings}.")
        refuse(ending, self._object, self.run)
        replace(self._object, choices=Choices(size=size)).save(ending, file)  # which keeps no film of another size
        return file

    def show(self, size: int = 256) -> None:
        """Open the pictures from all around in the system's picture viewer, or show them in the notebook."""
        if "ipykernel" in sys.modules:
            from IPython.display import display

            display(self)
        else:
            self._sheet(size).show(self.prompt)

    def __repr__(self) -> str:
        return f"<{self.prompt!r}, {type(self.generator).__name__}, {self.run}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: an orbit, or the images, above the prompt and the run."""
        words = f"{html.escape(self.prompt)}<br><small>{html.escape(str(self.run))}</small>"
        return f'<figure><img src="{self._picture}" alt=""><figcaption>{words}</figcaption></figure>'

    @cached_property
    def _picture(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "orbit.webp")
            if self.generator.flat:
                self._sheet(_NOTEBOOK_SIZE).save(file, lossless=True)
            else:
                save_webp(self.orbit(_NOTEBOOK_SIZE, _NOTEBOOK_FRAMES), file)
            return f"data:image/webp;base64,{base64.b64encode(file.read_bytes()).decode()}"

    def _sheet(self, size: int) -> Image.Image:
        images = self.views(size)
        return grid(images, _COLUMNS, max(1, size // images.shape[-1]))
