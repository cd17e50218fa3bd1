"""Files of cameras: nerfstudio's `camera_path.json`, and posed photographs by a `transforms.json`.

Cameras there look along -z, with y up in their pictures (OpenGL's axes); here they have OpenCV's (x right, y down, z
forward). The world's z axis points up in both. A `transforms.json` is nerfstudio's, instant-ngp's or Blender's.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.parts import require
from asdkit.core.text import existing, first_line, local
from asdkit.formats.pictures import read_picture
from asdkit.rendering.cameras import Views, posed

_SIZES = range(16, 4097)
MOST_PIXELS = 2**28  # of all frames: 3 GB of colours
TO_OPENCV = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)  # times the columns of a camera-to-world matrix
_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")  # with what perspective cameras have; others bend straight lines
_MOST = 2000  # frames
_KIND = "transforms.json as nerfstudio writes it"


class CameraPath(NamedTuple):
    """The cameras of a film."""

    views: Views
    fps: int  # frames per second


def read_camera_path(path: str | Path) -> CameraPath:
    """The cameras of a file in the world's axes (z up, the object at the origin); a ValueError if it can't be read."""
    file = local(path)
    require(file.is_file(), f"There is no camera path {file}.")
    with as_written(file, "camera path of nerfstudio"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        frames, width, height = facts["camera_path"], int(facts["render_width"]), int(facts["render_height"])
        poses = torch.tensor([frame["camera_to_world"] for frame in frames], dtype=torch.float64)
        poses = poses.reshape(len(frames), 4, 4)
        fovs = torch.tensor([frame["fov"] for frame in frames], dtype=torch.float64).reshape(len(frames))
        fps = round(float(facts.get("fps") or len(frames) / facts["seconds"]))
    kind = facts.get("camera_type", "perspective")
    require(kind == "perspective", f"{file} has cameras of the kind {kind!r}; perspective ones are read.")
    require(width in _SIZES and height in _SIZES, f"{file} asks for {width}x{height} pixels; 16 to 4096 are possible.")
    pixels = len(poses) * width * height
    require(0 < pixels <= MOST_PIXELS, f"{file} asks for {pixels} pixels in all; at most {MOST_PIXELS} are possible.")
    require(1 <= fps <= 120, f"{file} asks for {fps} frames per second; 1 to 120 are possible.")
    possible = bool(((fovs > 0) & (fovs < 180)).all())
    require(possible, f"{file} has a field of view that is not within 0 and 180 degrees.")
    require(is_pose(poses), f"{file} has a camera whose matrix is no rotation and a position.")
    K = torch.zeros(len(poses), 3, 3, dtype=poses.dtype)
    K[:, 0, 0] = K[:, 1, 1] = 0.5 * height / (0.5 * fovs.deg2rad()).tan()
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1.0
    return CameraPath(posed(poses * TO_OPENCV, K, height, width), fps)


class Frame(NamedTuple):
    """A photograph and its camera."""

    picture: Path
    mask: Path | None
    c2w: Float[Tensor, "4 4"]  # camera-to-world, OpenCV axes, in the file's units of length
    K: Float[Tensor, "3 3"]  # intrinsics, in pixels of a picture of this size
    width: int
    height: int
    distortion: tuple[float, ...]  # k1, k2, k3, k4 of the radius, and p1, p2


def read_transforms(path: str | Path) -> list[Frame]:
    """The photographs of a folder with a `transforms.json`, or of such a file; a ValueError if they can't be read."""
    file = existing(path, "a folder with a transforms.json, or such a file")
    file = file / "transforms.json" if file.is_dir() else file
    require(file.is_file(), f"There is no {file}, which says where the pictures were taken from.")
    with as_written(file, _KIND):
        whole = json.loads(file.read_text("utf-8"))
        described = [{**whole, **frame} for frame in whole["frames"]]
        pictures = [_picture(file.parent / facts["file_path"]) for facts in described]
    require(0 < len(described) <= _MOST, f"{file} has {len(described)} frames; from 1 to {_MOST} are read.")
    for facts, picture in zip(described, pictures, strict=True):
        model = "OPENCV_FISHEYE" if facts.get("is_fisheye") else facts.get("camera_model", _MODELS[0])
        require(model in _MODELS, f"{file} has cameras of the model {model}; those of {', '.join(_MODELS)} are read.")
        require(picture.is_file(), f"{file} names a picture {picture}, which is not there.")
        if {"w", "h"} - facts.keys():
            facts["h"], facts["w"] = read_picture(picture).shape[1:]
    with as_written(file, _KIND):
        frames = [_frame(file, picture, facts) for facts, picture in zip(described, pictures, strict=True)]
    for picture, _, c2w, K, width, height, distortion in frames:
        fits = c2w.shape == (4, 4) and is_pose(c2w)
        require(fits, f"{file} has a transform_matrix for {picture.name} that is no pose.")
        is_finite = bool(K.isfinite().all()) and all(map(math.isfinite, distortion))
        is_lens = is_finite and min(float(K[0, 0]), float(K[1, 1]), width, height) > 0
        require(is_lens, f"{file} has numbers for {picture.name} that no camera has.")
    return frames


def _picture(path: Path) -> Path:
    named = path.with_name(f"{path.name}.png")  # Blender's have no ending
    return path if path.is_file() or not named.is_file() else named


def _frame(file: Path, picture: Path, facts: dict[str, Any]) -> Frame:
    width, height = int(facts["w"]), int(facts["h"])
    c2w = torch.tensor(facts["transform_matrix"], dtype=torch.float64)
    c2w = torch.cat([c2w, torch.tensor([[0.0, 0.0, 0.0, 1.0]]).to(c2w)]) if c2w.shape == (3, 4) else c2w
    K = torch.eye(3, dtype=c2w.dtype)
    K[0, 0] = _focal(facts, "x", width)
    K[1, 1] = _focal(facts, "y", height) if {"fl_y", "camera_angle_y"} & facts.keys() else K[0, 0]
    K[0, 2], K[1, 2] = float(facts.get("cx", width / 2)), float(facts.get("cy", height / 2))
    mask = file.parent / facts["mask_path"] if facts.get("mask_path") else None
    distortion = tuple(float(facts.get(name, 0.0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    return Frame(picture, mask, c2w * TO_OPENCV if c2w.shape == (4, 4) else c2w, K, width, height, distortion)


def _focal(facts: dict[str, Any], axis: str, pixels: int) -> float:
    known = facts.get(f"fl_{axis}")
    return float(0.5 * pixels / math.tan(0.5 * facts[f"camera_angle_{axis}"]) if known is None else known)


def undistorted(image: Float[Tensor, "C H W"], K: Float[Tensor, "3 3"], distortion: tuple[float, ...]) -> Tensor:
    """The picture of a pinhole camera of the same intrinsics; the edge goes on where the lens saw nothing."""
    if not any(distortion):
        return image
    k1, k2, k3, k4, p1, p2 = distortion
    height, width = image.shape[1:]
    rows, columns = (torch.arange(size, dtype=K.dtype) + 0.5 for size in (height, width))
    y, x = torch.meshgrid((rows - K[1, 2]) / K[1, 1], (columns - K[0, 2]) / K[0, 0], indexing="ij")
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    u, v = bent_x * K[0, 0] + K[0, 2], bent_y * K[1, 1] + K[1, 2]
    grid = torch.stack([2 * u / width - 1, 2 * v / height - 1], dim=-1).to(image)
    return torch.nn.functional.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]


@contextmanager
def as_written(file: Path, kind: str) -> Iterator[None]:
    """Whatever is missing within, or of another kind, is a ValueError: the file is not `kind`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{file} is no {kind} ({type(error).__name__}: {first_line(error)}).") from None


def is_pose(c2w: Float[Tensor, "*B 4 4"]) -> bool:
    """Whether matrices are a rotation, which does not mirror, and a position."""
    rotation = c2w[..., :3, :3]
    rigid = torch.allclose(rotation @ rotation.mT, torch.eye(3).to(c2w), atol=1e-3)
    return rigid and bool((torch.linalg.det(rotation) > 0).all() and c2w.isfinite().all())
