"""`asdkit export`: an object as files that other tools open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import Whole, Within, checked
from asdkit.core.parts import require
from asdkit.formats.glb import TO_GLTF
from asdkit.formats.html import write_html
from asdkit.formats.names import FORMATS
from asdkit.formats.pictures import save_grid, save_mp4, save_webp
from asdkit.formats.rotation import rotated
from asdkit.formats.splat_files import is_splats, write_splats
from asdkit.generators.base import Generator, Render
from asdkit.generators.from_file import object_of
from asdkit.rendering.cameras import Views, joined, ring, surface_normals
from asdkit.run.loading import load

_FOV_DEG, _DISTANCE, _ELEVATION_DEG = 40.0, 3.4, 20.0
_ROOM = 3.75  # distance, in half sides of the cube that holds the object, from which it is seen whole
_COLUMNS = 8
_LOOKS = ((-25.0, 8), (10.0, 8), (50.0, 8))  # elevations in degrees and cameras whose silhouettes meshes are held to
_UPS = {"z": np.eye(3), "y": TO_GLTF, "-y": np.diag([1.0, -1.0, -1.0]) @ TO_GLTF}


@checked
@dataclass(frozen=True)
class Choices:
    """How an object is exported.

    Args:
        up: the axis that points up in .ply, .splat and .spz files: z as in the world, y, or -y.
        size: height and width of pictures in pixels.
        frames: of a film.
        resolution: of the grid that meshes are cut from.
        faces: triangles of a mesh at most, from 100 on; 0 for as many as there are.
        texture: height and width of a mesh's texture in pixels, from 64 on; 0 for colours at the vertices.

    Raises:
        ValueError: a number out of its range, or no such axis.
    """

    up: str = "z"
    size: Annotated[int, Within(16, 4096)] = 512
    frames: Annotated[int, Within(2, 1000)] = 60
    resolution: Annotated[int, Within(16, 512)] = 128
    faces: Whole = 0
    texture: Annotated[int, Within(0, 4096)] = 0

    def __post_init__(self) -> None:
        require(self.up in _UPS, f"--up must be z, y or -y; got {self.up}.")
        require(not 0 < self.faces < 100, f"--faces must be 100 at least, or 0 for all; got {self.faces}.")
        require(not 0 < self.texture < 64, f"--texture must be 64 at least, or 0 for none; got {self.texture}.")


@dataclass
class Exported:
    """An object, and what several formats share of it.

    Args:
        name: its prompt, or the name of its file.
        generator: shows it.
        background: grey level behind it, in [0,1].
        choices: how it is exported.
    """

    name: str
    generator: Generator
    background: float
    choices: Choices = field(default_factory=Choices)

    @cached_property
    def distance(self) -> float:
        """From where the whole object is seen; that of training where this is enough."""
        volume = self.generator.volume()
        return max(_DISTANCE, _ROOM * volume.half) if volume else _DISTANCE

    def ring(self, count: int, elevation_deg: float, size: int) -> Views:
        """Cameras around the object."""
        return ring(count, elevation_deg, self.distance, _FOV_DEG, size)

    @torch.no_grad()
    def render(self, views: Views | None) -> Render:
        """What cameras see, one after the other."""
        device = next(self.generator.parameters()).device
        plain = torch.full((3,), self.background, device=device)
        if views is None:
            return self.generator.render(None, plain)
        parts = [self.generator.render(views[i : i + 1].to(device), plain) for i in range(len(views))]
        return Render(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))

    @cached_property
    def film(self) -> Float[Tensor, "T 3 H W"]:
        """The frames of an orbit."""
        return self.render(self.ring(self.choices.frames, _ELEVATION_DEG, self.choices.size)).image

    @cached_property
    def mesh(self) -> tuple:
        """The mesh, and its texture or None."""
        from asdkit.formats.mesh.extract import extract
        from asdkit.formats.mesh.texture import bake

        seen = [(views, self.render(views).alpha) for views in (self.ring(n, e, 128) for e, n in _LOOKS)]
        volume, views = self.generator.volume(), joined([views for views, _ in seen])
        alpha = torch.cat([alpha for _, alpha in seen])
        mesh = extract(volume, views, alpha, self.choices.resolution, self.choices.faces)
        return mesh, bake(mesh, volume, self.choices.texture) if self.choices.texture else None


def opened(path: Path) -> Exported:
    """The object of a run folder, of a checkpoint, or of a file of Gaussians.

    Raises:
        ValueError: there is none, or it is broken.
    """
    if is_splats(path) or not path.exists():
        return Exported(path.stem, object_of(path), 1.0)
    module = load(path)
    if module.generator.volume() is None:  # images may be latents, which the prior decodes
        module.prior.setup()
        module.generator.setup(module.prior)
    module.generator.to("cuda" if torch.cuda.is_available() else "cpu")
    return Exported(module.prompt, module.generator, module.rendering.background)


def export(path: Path, formats: Sequence[str], out: Path | None, force: bool, choices: Choices) -> list[Path]:
    """Write an object in several formats; returns the files.

    Args:
        path: a run folder, a checkpoint, or a file of Gaussians.
        formats: some of `FORMATS`.
        out: folder of the files; `export` beside or in what `path` names when None.
        force: replace files that exist.
        choices: how.

    Raises:
        ValueError: before anything is written: an unknown format, a file that exists, or an object that a format can't
            hold.
        MissingExtra: a format needs an extra that is not installed.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"There is no format {unknown[0] if unknown else ''!r}; there are {', '.join(FORMATS)}.")
    exported = opened(path)
    exported.choices = choices
    out = out or (path if path.is_dir() else path.parent) / "export"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out.")
    targets = {name: out / FORMATS[name] for name in formats}
    beside = [out / f"mesh{suffix}" for suffix in (".mtl", ".png") if choices.texture and "obj" in targets]
    existing = [str(target) for target in (*targets.values(), *beside) if target.exists()]
    if existing and not force:
        raise ValueError(f"{existing[0]} exists; name another folder with --out, or give --force to replace it.")
    for name in targets:
        _refuse(name, exported, path)
    return [file for name, target in targets.items() for file in _WRITERS[name](exported, target)]


def _refuse(name: str, exported: Exported, path: Path) -> None:
    """Raise a ValueError if a format can't hold the object."""
    kind = type(exported.generator).__name__
    if name != "png" and exported.generator.volume() is None:
        raise ValueError(f"{name} holds 3D objects and {path} is made of {kind}; export png.")
    if _WRITERS[name] in (_splats, _html) and exported.generator.splats() is None:
        raise ValueError(
            f"{name} holds Gaussians and {path} is made of {kind}; export mesh-glb, or let Gaussians start from it "
            f"with --model.generator.init={path}."
        )


def _splats(exported: Exported, path: Path) -> list[Path]:
    splats = exported.generator.splats()
    if path.suffix != ".glb" and exported.choices.up != "z":
        splats = rotated(splats, _UPS[exported.choices.up])
    write_splats(path, splats)
    return [path]


def _html(exported: Exported, path: Path) -> list[Path]:
    grey = (exported.background,) * 3
    write_html(path, exported.generator.splats(), exported.name, grey, distance=exported.distance, fov_deg=_FOV_DEG)
    return [path]


def _mesh(exported: Exported, path: Path) -> list[Path]:
    from asdkit.formats.mesh.write import write_mesh

    return write_mesh(path, *exported.mesh)


def _mp4(exported: Exported, path: Path) -> list[Path]:
    save_mp4(exported.film, path)
    return [path]


def _webp(exported: Exported, path: Path) -> list[Path]:
    save_webp(exported.film, path)
    return [path]


def _png(exported: Exported, path: Path) -> list[Path]:
    """A row of views each of the picture, the opacity, the depth (near is bright) and the normals."""
    volume = exported.generator.volume()
    if volume is None:
        images = exported.render(None).image
        save_grid(images, path, min(len(images), _COLUMNS))
        return [path]
    views = exported.ring(_COLUMNS, _ELEVATION_DEG, exported.choices.size)
    image, alpha, depth = exported.render(views)
    hit = (alpha > 0.5).float()
    nearness = (0.5 + 0.5 * (exported.distance - depth) / volume.half).clamp(0, 1) * hit
    normals = (0.5 + 0.5 * surface_normals(depth, views)) * hit
    rows = [image, alpha.expand_as(image), nearness.expand_as(image), normals]
    save_grid(torch.cat(rows), path, _COLUMNS)
    return [path]


_WRITERS: dict[str, Callable[[Exported, Path], list[Path]]] = {
    "ply": _splats, "splat": _splats, "spz": _splats, "glb": _splats, "html": _html, "mesh-glb": _mesh, "obj": _mesh,
    "mp4": _mp4, "webp": _webp, "png": _png,
}  # fmt: skip
