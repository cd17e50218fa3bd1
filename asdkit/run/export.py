"""What runs have made, brought back from their files: `asdkit export` for other tools, and `Result` for Python."""

import base64
import html
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pytorch_lightning.cli import instantiate_module
from rich.console import Console
from rich.progress import track
from torch import Tensor

from asdkit.core.atomic import write_bytes
from asdkit.core.parts import require
from asdkit.core.text import local
from asdkit.core.trust import trusting
from asdkit.distillation import Distillation
from asdkit.formats.glb import TO_GLTF
from asdkit.formats.html import write_html
from asdkit.formats.mesh.extract import Mesh, extract
from asdkit.formats.mesh.write import Texture, bake, write_mesh
from asdkit.formats.names import FORMATS, Choices
from asdkit.formats.pictures import grid, save_grid, save_mp4, save_webp
from asdkit.formats.poses import MOST_PIXELS, CameraPath, read_camera_path
from asdkit.formats.splat_files import is_splats, write_splats
from asdkit.formats.splats import Splats, rotated
from asdkit.formats.spz import encode_spz
from asdkit.generators import from_checkpoint
from asdkit.generators.amortized import Amortized3D
from asdkit.generators.base import Generator, Render
from asdkit.generators.gaussians import object_of
from asdkit.generators.networks import Network
from asdkit.rendering.cameras import Views, joined, ring, surface_normals
from asdkit.rendering.rays import Volume
from asdkit.run.side_files import refuse_links

_FOV_DEG, _DISTANCE, _ELEVATION_DEG = 40.0, 3.4, 20.0
_ROOM = 3.75  # distance, in half sides of the cube that holds the object, from which it is seen whole
_PIXELS, _FILLED = 64, 0.75  # of the look that says how large an object is, and how much of a picture it then fills
_COLUMNS, _FPS = 8, 20
_NOTEBOOK_SIZE, _NOTEBOOK_FRAMES = 256, 24
_LOOKS = ((-25.0, 8), (10.0, 8), (50.0, 8))  # elevations in degrees and cameras whose silhouettes meshes are held to
_UPS = {"z": np.eye(3), "y": TO_GLTF, "-y": np.diag([1.0, -1.0, -1.0]) @ TO_GLTF}


@dataclass
class Exported:
    """An object, and what several formats share of it."""

    name: str  # its prompt, or the name of its file
    generator: Generator
    background: float  # grey level behind it, in [0,1]
    choices: Choices = field(default_factory=Choices)

    @cached_property
    def volume(self) -> Volume | None:
        """Its surface and colours, where it has some in three dimensions."""
        return self.generator.volume()

    @property
    def half(self) -> float:
        """Half the side of the cube that holds it; where it says none, of what the cameras of training see."""
        return self.volume.half if self.volume else _DISTANCE / _ROOM

    @cached_property
    def distance(self) -> float:
        """From where the object fills most of a picture; its cube also holds what floats around it, hardly seen."""
        far = max(_DISTANCE, _ROOM * self.half)
        alpha = self.render(ring(_COLUMNS, _ELEVATION_DEG, far, _FOV_DEG, _PIXELS)).alpha
        edges = torch.linspace(-1, 1, _PIXELS + 1).abs()
        reach = torch.maximum(edges[1:], edges[:-1])  # of a pixel, from the middle of the picture; its edge has 1
        seen = torch.maximum(reach[:, None], reach)[(alpha > 0.5).any(0)[0]]
        return far * min(1.0, float(seen.max()) / _FILLED) if len(seen) else far

    def ring(self, count: int, elevation_deg: float, size: int) -> Views:
        """Cameras around the object, which see it whole."""
        return ring(count, elevation_deg, self.distance, _FOV_DEG, size)

    @torch.no_grad()
    def render(self, views: Views | None) -> Render:
        """What cameras see, one after the other; a terminal shows how far they are."""
        device = next(self.generator.parameters()).device
        plain = torch.full((3,), self.background, device=device)
        if views is None:
            return self.generator.render(None, plain)
        console = Console(stderr=True)
        frames = track(range(len(views)), "pictures", console=console, transient=True, disable=not console.is_terminal)
        parts = [self.generator.render(views[i : i + 1].to(device), plain) for i in frames]
        return Render(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))

    def save(self, name: str, path: Path) -> list[Path]:
        """Write the object to a file in a format, by its name in `FORMATS`; returns the files."""
        return _WRITERS[name](self, path) or [path]

    @cached_property
    def path(self) -> CameraPath:
        """The cameras of films: those of a file, or an orbit."""
        if self.choices.cameras:
            return read_camera_path(self.choices.cameras)
        pixels = self.choices.frames * self.choices.size**2
        asks = f"--frames and --size ask for {pixels} pixels in all"
        require(pixels <= MOST_PIXELS, f"{asks}; at most {MOST_PIXELS} are possible.")
        return CameraPath(self.ring(self.choices.frames, _ELEVATION_DEG, self.choices.size), _FPS)

    @cached_property
    def film(self) -> Float[Tensor, "T 3 H W"]:
        """The frames of a film."""
        return self.render(self.path.views).image

    @cached_property
    def mesh(self) -> tuple[Mesh, Texture | None]:
        """The mesh, and its texture."""
        rings = [self.ring(count, elevation_deg, 128) for elevation_deg, count in _LOOKS]
        alpha = torch.cat([self.render(views).alpha for views in rings])
        assert self.volume is not None, "see refuse"
        mesh = extract(self.volume, joined(rings), alpha, self.choices.resolution, self.choices.faces)
        return mesh, bake(mesh, self.volume, self.choices.texture) if self.choices.texture else None


def load(path: Path, prompt: str = "") -> Distillation:
    """A run with its generator's weights alone, on the CPU, from a checkpoint or a run folder's last; it runs no code.

    A prompt takes the place of the run's. A ValueError if there is no checkpoint, or it is broken or of something else.
    """
    saved = from_checkpoint.read(path)
    if not saved.arguments.keys() <= inspect.signature(Distillation).parameters.keys():
        raise ValueError(f"{saved.file} is the checkpoint of something else than a distillation.")
    try:
        generator = from_checkpoint.started_anyhow(saved.arguments["generator"])
        with trusting():
            own = {"generator": generator} | ({"prompt": prompt} if prompt else {})
            module = instantiate_module(Distillation, saved.arguments | own)
    except Exception as error:  # of jsonargparse, or of a part that does not like its arguments
        raise from_checkpoint.cannot_build(saved.file, error) from None
    from_checkpoint.restore(module.generator, saved)
    return module


def opened(path: Path, prompt: str = "") -> Exported:
    """The object of a run folder, a checkpoint or a file of Gaussians, or that of a prompt; a ValueError if broken."""
    if is_splats(path) or not path.exists():
        require(not prompt, f"{path} is a file of Gaussians, of no prompt; leave the prompt out.")
        return Exported(path.stem, object_of(path), 1.0)
    module = load(path, prompt)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    of_prompts = isinstance(module.generator, Network | Amortized3D)
    require(of_prompts or not prompt, f"{path} is of its own prompt alone, {module.prompt!r}; leave the prompt out.")
    if prompt or module.generator.volume() is None:  # the prior decodes latents, or its network makes the images
        module.prior.setup()
        module.prior.to(device)
        module.generator.setup(module.prior)
    module.generator.to(device)
    return Exported(module.prompt, module.generator, module.rendering.background)


def export(path: Path, formats: Sequence[str], out: Path | None, force: bool, choices: Choices) -> Iterator[Path]:
    """Write the object that `path` names in some of `FORMATS`, into `out` or `export` there, and give each file.

    An unknown format, a file that exists or an object that a format can't hold is a ValueError, before anything is
    written; an extra that is not installed is a MissingExtra.
    """
    for name in formats or [""]:
        require(name in FORMATS, f"There is no format {name!r}; there are {', '.join(FORMATS)}.")
    films = {"mp4", "webp"} & {*formats}
    require(bool(films) or not choices.cameras, "--cameras is of films alone; add mp4 or webp to --format.")
    exported = opened(path, choices.prompt)
    exported.choices = choices
    if out is None and path.is_dir():
        refuse_links(path)
    out = local(out or (path if path.is_dir() else path.parent) / "export")
    require(out.is_dir() or not out.exists(), f"{out} is a file; name a folder with --out.")
    beside = ("mesh.mtl", "mesh.png") if choices.texture and "obj" in formats else ()
    existing = [out / name for name in (*(FORMATS[name] for name in formats), *beside) if (out / name).exists()]
    if existing and not force:
        raise ValueError(f"{existing[0]} exists; name another folder with --out, or give --force to replace it.")
    for name in formats:
        refuse(name, exported, path)
    if films:
        exported.path  # noqa: B018, it reads the file of cameras
    for name in dict.fromkeys(formats):
        yield from exported.save(name, out / FORMATS[name])


def refuse(name: str, exported: Exported, path: Path) -> None:
    """Raise a ValueError if a format can't hold the object."""
    generator, kind = exported.generator, type(exported.generator).__name__
    has_volume, pictures = generator.volume() is not None, "export png, mp4 or webp"
    if name == "diffusers":
        require(isinstance(generator, Network), f"{name} holds networks and {path} is made of {kind}.")
    elif name != "png" and generator.flat:
        raise ValueError(f"{name} holds 3D objects and {path} is made of {kind}; export png.")
    if _WRITERS[name] is _mesh:
        require(has_volume, f"{name} is cut from a density in space, and {kind} has no volume(); {pictures}.")
    if _WRITERS[name] in (_splats, _html) and generator.splats() is None:
        start = f"export mesh-glb, or let Gaussians start from it with --model.generator.init={path}"
        raise ValueError(f"{name} holds Gaussians and {path} is made of {kind}; {start if has_volume else pictures}.")


def _splats(exported: Exported, path: Path) -> None:
    up, splats = exported.choices.up, cast(Splats, exported.generator.splats())  # see refuse
    turned = splats if up == "z" or path.suffix == ".glb" else rotated(splats, _UPS[up])
    if path.suffix == ".spz":
        write_bytes(path, encode_spz(path, turned, exported.choices.spz_version))
    else:
        write_splats(path, turned)


def _html(exported: Exported, path: Path) -> None:
    grey, splats = (exported.background,) * 3, cast(Splats, exported.generator.splats())
    write_html(path, splats, exported.name, grey, distance=exported.distance, fov_deg=_FOV_DEG)


def _png(exported: Exported, path: Path) -> None:
    """A row of views each of the picture, the opacity, the depth (near is bright) and the normals."""
    if exported.generator.flat:
        images = exported.render(None).image
        return save_grid(images, path, min(len(images), _COLUMNS))
    views = exported.ring(_COLUMNS, _ELEVATION_DEG, exported.choices.size)
    image, alpha, depth = exported.render(views)
    hit = (alpha > 0.5).float()
    nearness = (0.5 + 0.5 * (exported.distance - depth) / exported.half).clamp(0, 1) * hit
    normals = (0.5 + 0.5 * surface_normals(depth, views)) * hit
    return save_grid(torch.cat([image, alpha.expand_as(image), nearness.expand_as(image), normals]), path, _COLUMNS)


def _mesh(exported: Exported, path: Path) -> list[Path]:
    return write_mesh(path, *exported.mesh)


_WRITERS: dict[str, Callable[[Exported, Path], list[Path] | None]] = {  # the files, where there are several
    "ply": _splats, "splat": _splats, "spz": _splats, "sog": _splats, "glb": _splats, "html": _html,
    "mesh-glb": _mesh, "obj": _mesh,
    "mp4": lambda exported, path: save_mp4(exported.film, path, exported.path.fps),
    "webp": lambda exported, path: save_webp(exported.film, path, exported.path.fps),
    "png": _png,
    "diffusers": lambda exported, path: cast(Network, exported.generator).write_model(path),
}  # fmt: skip


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
        require(size > 0 and count > 0, f"Pictures need a size and a count of at least 1; got {size} and {count}.")
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
        return grid(images, _COLUMNS // 2, max(1, size // images.shape[-1]))
