"""Posed pictures of the object: one, or a folder of them, and what a step's cameras have near to them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from asdkit.core.bounds import AtLeast, Between, NonNegative, Weight, settings
from asdkit.core.parts import Part, require
from asdkit.core.ramps import Ramp, value_at
from asdkit.core.randomness import to_device
from asdkit.formats.pictures import read_cutout
from asdkit.formats.poses import Frame, read_transforms, undistorted
from asdkit.rendering.cameras import OPAQUE, Posed, Views, orbit, posed

Colour = Float[Tensor, " 3"]


@settings
class Reconstruction:
    """The weights of the loss that pulls the generator's pictures to the references, seen from the same cameras.

    Args:
        image: the weight of the mean squared difference of the colours.
        mask: the weight of the mean squared difference of the opacity, for pictures with a mask.
    """

    image: Weight | Ramp = 1e4
    mask: Weight | Ramp = 1e3


@dataclass(frozen=True)
class References:
    """Pictures with their cameras: N squares, colours times opacity beside opacity, as bytes."""

    cutouts: UInt8[Tensor, "N 4 S S"]
    views: Views
    reconstruction: Reconstruction = Reconstruction()

    def near(self, views: Views, backdrop: Colour | None, plain: Colour, step: int = 0) -> Posed:
        """The picture nearest to each camera of a step, at the step's size and on the device of the backdrops.

        It stands before `backdrop` where it has a mask, and else, or if that is None, before the `plain` one.
        """
        cosines = _outward(views) @ _outward(self.views).mT
        distinct, nearest = cosines.argmax(1).unique(return_inverse=True)
        cutouts = _resized(to_device(self.cutouts[distinct], plain.device).float() / 255, views.height)
        colours, alpha = cutouts.split([3, 1], dim=1)
        has_mask = alpha.flatten(1).amin(1, keepdim=True) < OPAQUE
        behind = torch.where(has_mask, plain if backdrop is None else backdrop, plain)
        weights = value_at(self.reconstruction.image, step), value_at(self.reconstruction.mask, step)
        return Posed(
            _scaled(self.views[distinct], views.height).to(plain.device),
            colours + (1 - alpha) * behind[:, :, None, None],
            alpha, behind, nearest, cosines.amax(1).clamp(-1, 1).acos().rad2deg(), weights,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The pictures and cameras, for a checkpoint."""
        weights = vars(self.reconstruction).items()
        plain = {name: weight.spec["init_args"] if isinstance(weight, Ramp) else weight for name, weight in weights}
        return {"cutouts": self.cutouts, "views": dict(vars(self.views)), "weights": plain}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "References":
        """The references whose `state_dict` this is."""
        weights = {k: Ramp(**weight) if isinstance(weight, dict) else weight for k, weight in state["weights"].items()}
        return cls(state["cutouts"], Views(**state["views"]), Reconstruction(**weights))


class PosedPictures(Part, ABC):
    """Pictures of the wanted object, whose cameras are known.

    Args:
        reconstruction: the weights of the pictures in the generator's loss.
    """

    def __init__(self, reconstruction: Reconstruction = Reconstruction()) -> None:
        self.reconstruction = reconstruction

    @abstractmethod
    def read(self, size: int, distance: float, fov_deg: float) -> References:
        """The pictures at this size; the other numbers are those of the run's own cameras."""


class ReferenceView(PosedPictures):
    """A picture of the object from one camera, which looks at the origin. The picture's middle square is taken.

    Transparent parts of the picture, and black parts of its mask, do not belong to the object. Without either, the
    picture is taken to stand before the plain background (`rendering.background`), and no silhouette is learned.

    Args:
        file: the picture.
        azimuth_deg: the azimuth of its camera in degrees: 0 in front, 90 at the object's left side.
        elevation_deg: the elevation of its camera in degrees above the ground.
        mask: a picture of the same size, white where the object is. Empty for the picture's own transparency.
        distance: the distance of the camera from the origin in world units; 0 for the middle of the run's own cameras.
        fov_deg: the vertical field of view of the square in degrees; 0 for the field of view of the run's own cameras.
        reconstruction: the picture's weights in the generator's loss.
    """

    def __init__(
        self,
        file: str,
        azimuth_deg: Annotated[float, Between(-1e3, 1e3)] = 0.0,
        elevation_deg: Annotated[float, Between(-90, 90)] = 20.0,
        mask: str = "",
        distance: NonNegative = 0.0,
        fov_deg: Annotated[float, AtLeast(0, below=180)] = 0.0,
        reconstruction: Reconstruction = Reconstruction(),
    ) -> None:
        super().__init__(reconstruction)
        require(bool(file), "There is no picture to start from; give one by --data.references.file FILE.")
        self.file, self.mask, self.distance, self.fov_deg = file, mask, distance, fov_deg
        self.azimuth_deg, self.elevation_deg = azimuth_deg, elevation_deg

    def read(self, size: int, distance: float, fov_deg: float) -> References:
        azimuth, elevation = (torch.tensor([degrees]).deg2rad() for degrees in (self.azimuth_deg, self.elevation_deg))
        place = torch.tensor([self.distance or distance])
        views = orbit(azimuth, elevation, place, math.radians(self.fov_deg or fov_deg), size, size)
        return References(_cut(read_cutout(self.file, self.mask), size), views, self.reconstruction)


class PosedFolder(PosedPictures):
    """A folder of photographs with a transforms.json, in the format of nerfstudio, instant-ngp and Blender's scenes.

    The middle square of each photograph is taken, without the lens's distortion. Masks count as in ReferenceView.

    Args:
        path: the folder, or its JSON file.
        front_deg: the azimuth in degrees, in the file's own world, from which the object's front is seen.
        centre: whether the point that the cameras look at becomes the origin.
        scale: the number of world units in a unit of the file. 0 chooses it such that what the photographs show at the
            origin gets the size that the run's own cameras see.
        reconstruction: the photographs' weights in the generator's loss.
    """

    def __init__(
        self,
        path: str,
        front_deg: Annotated[float, Between(-1e3, 1e3)] = 0.0,
        centre: bool = True,
        scale: NonNegative = 0.0,
        reconstruction: Reconstruction = Reconstruction(),
    ) -> None:
        super().__init__(reconstruction)
        require(bool(path), "There is no folder of pictures; give one by --data.references.path FOLDER.")
        self.path, self.front_deg, self.centre, self.scale = path, front_deg, centre, scale

    def read(self, size: int, distance: float, fov_deg: float) -> References:
        frames = read_transforms(self.path)
        squares, K = zip(*(_square(frame, size) for frame in frames), strict=True)
        views = self._views(frames, torch.stack(K), size, distance, fov_deg)
        return References(torch.cat(squares), views, self.reconstruction)

    def _views(self, frames: list[Frame], K: Tensor, size: int, distance: float, fov_deg: float) -> Views:
        c2w = torch.stack([frame.c2w for frame in frames])
        eyes, forward = c2w[:, :3, 3], c2w[:, :3, 2]
        if self.centre:
            eyes = eyes - _meeting_point(eyes, forward)
        reach = (eyes.norm(dim=1) * size / 2 / K[:, 1, 1]).mean()  # half the height that they see at the origin
        far = reach > 1e-9 * c2w[:, :3, 3].norm(dim=1).max()  # photographs from one point meet there, but for rounding
        cure = "set --data.references.centre=false" if self.centre else "move them away from the file's origin"
        require(bool(far), f"The cameras of {self.path} stand where they look; {cure}.")
        eyes = eyes * (self.scale or distance * math.tan(math.radians(fov_deg) / 2) / reach)
        turn = torch.tensor(-self.front_deg, dtype=c2w.dtype).deg2rad()
        cos, sin = turn.cos(), turn.sin()
        turned = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=c2w.dtype)
        c2w[:, :3, :3], c2w[:, :3, 3] = turned @ c2w[:, :3, :3], eyes @ turned.T
        return posed(c2w, K, size, size)


def _square(frame: Frame, size: int) -> tuple[UInt8[Tensor, "1 4 S S"], Float[Tensor, "3 3"]]:
    cutout = read_cutout(frame.picture, frame.mask or "")
    height, width = cutout.shape[1:]
    K = torch.diag(torch.tensor([width / frame.width, height / frame.height, 1.0]).to(frame.K)) @ frame.K
    cutouts, side = _cut(undistorted(cutout, K, frame.distortion), size), min(height, width)
    K[:2, 2] -= torch.tensor([(width - side) // 2, (height - side) // 2])
    K[:2] *= size / side
    return cutouts, K


def _cut(picture: Float[Tensor, "4 H W"], size: int) -> UInt8[Tensor, "1 4 size size"]:
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return (_resized(picture[None, :, top : top + side, left : left + side], size) * 255).round().byte()


def _meeting_point(eyes: Float[Tensor, "N 3"], forward: Float[Tensor, "N 3"]) -> Float[Tensor, " 3"]:
    """The point with the least squared distances from the lines of sight."""
    across = torch.eye(3, dtype=eyes.dtype) - forward[:, :, None] * forward[:, None]
    point: Tensor = torch.linalg.pinv(across.sum(0), rtol=1e-9) @ (across @ eyes[:, :, None]).sum(0)[:, 0]
    return point


def _outward(views: Views) -> Float[Tensor, "B 3"]:
    return torch.nn.functional.normalize(views.c2w[:, :3, 3], dim=1)


def _scaled(views: Views, size: int) -> Views:
    K = views.K * torch.tensor([size / views.width, size / views.height, 1.0])[:, None]
    return replace(views, K=K, height=size, width=size)


def _resized(pictures: Float[Tensor, "N C S S"], size: int) -> Float[Tensor, "N C size size"]:
    if pictures.shape[-1] == size:
        return pictures
    return torch.nn.functional.interpolate(pictures, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
