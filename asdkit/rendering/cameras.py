"""Cameras. OpenCV axes (x right, y down, z forward), camera-to-world; the world is z-up, its front faces +x.

Azimuth 0 looks at the front from +x and grows counter-clockwise seen from above: at +90 degrees the camera stands at +y
and sees the object's left side. Elevation is positive above the ground plane. Angles are radians, degrees in `_deg`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asdkit.core.parts import require
from asdkit.core.randomness import Rows, to_device

PerView = Float[Tensor, " B"]
OPAQUE = 0.99  # opacity from which on everywhere nothing says what is the object


@dataclass(frozen=True)
class Views:
    """A batch of B pinhole cameras that look at one scene."""

    c2w: Float[Tensor, "B 4 4"]  # camera-to-world, OpenCV axes
    K: Float[Tensor, "B 3 3"]  # intrinsics in pixels; a pixel's centre is its index + 0.5
    azimuth: PerView  # radians
    elevation: PerView  # radians
    distance: PerView  # from the origin, in world units
    height: int  # image height in pixels
    width: int  # image width in pixels

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "Views":
        return replace(self, **{name: tensor[index] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> "Views":
        """The same cameras with their tensors on `device`."""
        moved: dict[str, Any] = {name: to_device(tensor, torch.device(device)) for name, tensor in self.tensors.items()}
        return replace(self, **moved)

    @property
    def tensors(self) -> dict[str, Any]:
        """What there is one of for each camera."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def w2c(self) -> Float[Tensor, "B 4 4"]:
        """World-to-camera matrices, the inverse of `c2w`."""
        rotation = self.c2w[:, :3, :3].mT
        return torch.cat([torch.cat([rotation, -rotation @ self.c2w[:, :3, 3:]], dim=2), self.c2w[:, 3:]], dim=1)

    def directions(self) -> Float[Tensor, "B P 3"]:
        """Through every pixel's centre, row by row, in world axes; their camera z is 1."""
        rows, columns = (torch.arange(size, device=self.K.device) + 0.5 for size in (self.height, self.width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(1, -1, 3).to(self.K)
        directions: Tensor = pixels @ torch.linalg.inv_ex(self.K).inverse.mT @ self.c2w[:, :3, :3].mT
        return directions


def joined(batches: "list[Views]") -> Views:
    """Several batches of cameras of one image size as one."""
    names = batches[0].tensors
    parts: dict[str, Any] = {name: torch.cat([getattr(views, name) for views in batches]) for name in names}
    return replace(batches[0], **parts)


class Posed(NamedTuple):
    """Pictures of the object by U known cameras, and which of these is the nearest to each of a step's B cameras."""

    views: Views
    image: Float[Tensor, "U 3 H W"]  # in [0,1], before `behind`
    alpha: Float[Tensor, "U 1 H W"]  # the object's opacity; 1 everywhere where nothing says what it is
    behind: Float[Tensor, "U 3"]
    nearest: Int[Tensor, " B"]  # on the CPU
    angle_deg: PerView  # between the two cameras as seen from the origin, on the CPU
    weights: tuple[float, float] = (0.0, 0.0)  # of colours and opacity in the generator's loss

    def to(self, device: torch.device | str) -> "Posed":
        """The same with the pictures and their cameras on `device`."""
        device = torch.device(device)
        image, alpha, behind = (to_device(values, device) for values in self[1:4])
        return self._replace(views=self.views.to(device), image=image, alpha=alpha, behind=behind)

    def of(self, rows: Rows) -> "Posed":
        """What some of a step's cameras are near to."""
        kept, nearest = rows.of(self.nearest).unique(return_inverse=True)
        kept = to_device(kept, self.image.device)
        image, alpha, behind = (values[kept] for values in self[1:4])
        return Posed(self.views[kept], image, alpha, behind, nearest, rows.of(self.angle_deg), self.weights)

    def difference(self, image: Float[Tensor, "U 3 H W"], alpha: Float[Tensor, "U 1 H W"]) -> Float[Tensor, ""]:
        """The weighted mean squared difference of the generator's own pictures by these cameras, over the B."""
        share = self.nearest.bincount(minlength=len(image)) / len(self.nearest)
        colours, opacity = ((a - b).square().flatten(1).mean(1) for a, b in ((image, self.image), (alpha, self.alpha)))
        has_mask = self.alpha.flatten(1).amin(1) < OPAQUE
        of_each = self.weights[0] * colours + self.weights[1] * opacity * has_mask
        return (to_device(share, image.device) * of_each).sum()


class Batch(NamedTuple):
    """What a step looks at: every DataModule yields these."""

    views: Views | None = None  # B cameras, or None for images that have none
    source: Float[Tensor, "B 3 H W"] | None = None  # one in [0,1], or one for each camera
    rows: Rows | None = None  # which samples of the step these are; None for all of them
    prompts: Sequence[str] = ()  # one for each sample, in the place of the run's; none where all have that
    references: Posed | None = None  # posed pictures of the object

    def to(self, device: torch.device | str) -> "Batch":
        """The same with its tensors on `device`."""
        source = None if self.source is None else to_device(self.source, torch.device(device))
        references = self.references and self.references.to(device)
        return self._replace(views=self.views and self.views.to(device), source=source, references=references)

    def split(self, count: int) -> "list[Batch]":
        """Parts of `count` samples each, which must divide their number; one part for 0 and where nobody knows it."""
        total, parts = len(self.views or self.prompts), []
        if not count or count >= total:
            return [self]
        require(total % count == 0, f"chunk must divide the number of views per step, {total}; got {count}.")
        for start in range(0, total, count):
            rows = Rows(start, start + count, total)
            each = self.source is not None and len(self.source) == total
            source, prompts = rows.of(self.source) if each else self.source, self.prompts[start : rows.stop]
            views, references = self.views and self.views[start : rows.stop], self.references
            parts.append(Batch(views, source, rows, prompts, references and references.of(rows)))
        return parts


def orbit(azimuth: PerView, elevation: PerView, distance: PerView, fov: float, height: int, width: int) -> Views:
    """Cameras that look at the origin, z up: elevations within (-pi/2, pi/2), the vertical field of view in radians."""
    cos_el = elevation.cos()
    outward = torch.stack([azimuth.cos() * cos_el, azimuth.sin() * cos_el, elevation.sin()], dim=1)
    forward = -outward
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=1)
    down = torch.linalg.cross(forward, right)
    c2w = torch.zeros(len(azimuth), 4, 4, dtype=azimuth.dtype, device=azimuth.device)
    c2w[:, :3, :3] = torch.stack([right, down, forward], dim=2)
    c2w[:, :3, 3] = outward * distance[:, None]
    c2w[:, 3, 3] = 1.0
    focal = 0.5 * height / math.tan(0.5 * fov)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=azimuth.dtype)
    return Views(c2w, K.to(azimuth.device).expand(len(azimuth), 3, 3), azimuth, elevation, distance, height, width)


def ring(
    count: int,
    elevation_deg: float = 15.0,
    distance: float = 3.4,
    fov_deg: float = 40.0,
    size: int = 64,
    offset_deg: float = 0.0,
) -> Views:
    """`count` cameras evenly around the object, the first at azimuth `offset_deg`; square images of `size` pixels."""
    azimuth = torch.arange(count) * (2 * math.pi / count) + math.radians(offset_deg)
    elevation = torch.full((count,), math.radians(elevation_deg))
    return orbit(azimuth, elevation, torch.full((count,), distance), math.radians(fov_deg), size, size)


def posed(c2w: Float[Tensor, "B 4 4"], K: Float[Tensor, "B 3 3"], height: int, width: int) -> Views:
    """Cameras of these matrices and intrinsics; azimuth, elevation and distance are those of where they stand."""
    x, y, z = c2w[:, :3, 3].unbind(1)
    azimuth, elevation = torch.atan2(y, x).float(), torch.atan2(z, torch.hypot(x, y)).float()
    return Views(c2w.float(), K.float(), azimuth, elevation, c2w[:, :3, 3].norm(dim=1).float(), height, width)


def unproject(depth: Float[Tensor, "B 1 H W"], views: Views) -> Float[Tensor, "B 3 H W"]:
    """The points in world units that pixels' centres see at a depth (camera z in world units)."""
    return (views.c2w[:, :3, 3:] + views.directions().mT * depth.flatten(2)).unflatten(2, depth.shape[2:])


def surface_normals(depth: Float[Tensor, "B 1 H W"], views: Views) -> Float[Tensor, "B 3 H W"]:
    """Unit normals of what a depth map shows, in world axes, towards the camera: of neighbouring pixels' points."""
    points = torch.nn.functional.pad(unproject(depth, views), (1, 1, 1, 1), mode="replicate")
    along_x = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    along_y = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    return torch.nn.functional.normalize(torch.linalg.cross(along_y, along_x, dim=1), dim=1)
