"""Camera paths: nerfstudio's `camera_path.json`, as its viewer and its add-on for Blender write it."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asdkit.core.parts import require
from asdkit.core.text import local
from asdkit.formats.transforms import TO_OPENCV, as_written, is_pose
from asdkit.rendering.cameras import Views, posed

_SIZES = range(16, 4097)
MOST_PIXELS = 2**28  # of all frames: 3 GB of colours


class CameraPath(NamedTuple):
    """The cameras of a film, and its frames per second."""

    views: Views
    fps: int


def read_camera_path(path: str | Path) -> CameraPath:
    """The cameras of a file, in the world's own axes: z is up, and the object stands at the origin.

    Raises:
        ValueError: the file is missing or no camera path, or its pictures are too small or too large.
    """
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
    require(
        bool(((fovs > 0) & (fovs < 180)).all()), f"{file} has a field of view that is not within 0 and 180 degrees."
    )
    return CameraPath(_views(file, poses * TO_OPENCV, fovs.deg2rad(), width, height), fps)


def _views(file: Path, c2w: Tensor, fovs: Tensor, width: int, height: int) -> Views:
    require(is_pose(c2w), f"{file} has a camera whose matrix is no rotation and a position.")
    K = torch.zeros(len(c2w), 3, 3, dtype=c2w.dtype)
    K[:, 0, 0] = K[:, 1, 1] = 0.5 * height / (0.5 * fovs).tan()
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1.0
    return posed(c2w, K, height, width)
