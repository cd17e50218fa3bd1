"""transforms.json: axes, intrinsics and lenses of nerfstudio, instant-ngp and Blender, against numbers by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from asdkit.formats.pictures import read_cutout
from asdkit.formats.poses import read_transforms, undistorted

# A camera at (0, -4, 0) that looks along +y, z up. In OpenGL's axes its columns are right (1,0,0), up (0,0,1) and
# backward (0,-1,0); in OpenCV's right (1,0,0), down (0,0,-1) and forward (0,1,0).
OPENGL = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
OPENCV = [[1, 0, 0, 0], [0, 0, 1, -4], [0, -1, 0, 0], [0, 0, 0, 1]]
LENS = {"fl_x": 100.0, "fl_y": 110.0, "cx": 31.0, "cy": 17.0, "w": 60, "h": 40}


def write(folder: Path, frame: dict[str, Any] | None = None, **whole: Any) -> Path:
    """A folder with one frame, whose picture is of 60 x 40 pixels."""
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (60, 40), (200, 100, 0)).save(folder / "images" / "a.png")
    first = {"file_path": "images/a.png", "transform_matrix": OPENGL} | (frame or {})
    (folder / "transforms.json").write_text(json.dumps({**whole, "frames": [first]}))
    return folder


def test_poses_and_intrinsics_are_the_files_the_frames_or_of_an_angle(tmp_path: Path) -> None:
    (frame,) = read_transforms(write(tmp_path, {"transform_matrix": OPENGL[:3]}, **LENS) / "transforms.json")
    assert frame.c2w.tolist() == OPENCV and frame.picture == tmp_path / "images" / "a.png"
    assert frame.K.tolist() == [[100, 0, 31], [0, 110, 17], [0, 0, 1]] and (frame.width, frame.height) == (60, 40)
    (frame,) = read_transforms(write(tmp_path, {"fl_x": 50, "fl_y": 60}, **LENS))
    assert frame.c2w.tolist() == OPENCV and (frame.K[0, 0], frame.K[1, 1], frame.K[0, 2]) == (50, 60, 31)
    (frame,) = read_transforms(write(tmp_path, {"file_path": "images/a"}, camera_angle_x=math.radians(90)))
    assert frame.K.tolist() == [[pytest.approx(30), 0, 30], [0, pytest.approx(30), 20], [0, 0, 1]]  # 60 / 2 / tan 45


@pytest.mark.parametrize(
    "numbers", [(0.2, -0.05, 0.01, 0.002, 0, 0), (0, 0, 0, 0, 0.03, -0.02), (0.1, 0, 0, 0, 0.01, 0.02)]
)
def test_a_lens_is_undone(numbers: tuple[float, ...]) -> None:
    """OpenCV's model says where the lens had put what a pinhole camera sees at (x, y). A picture of these places' own
    coordinates, which bilinear sampling reads exactly, is read there.
    """
    size, focal = 64, 80.0
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2) / focal
    picture = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1])  # x, then y
    straight = undistorted(picture, K, numbers)
    k1, k2, k3, k4, p1, p2 = numbers
    x, y = picture
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    expected = torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        ]
    )
    torch.testing.assert_close(straight[:, 16:-16, 16:-16], expected[:, 16:-16, 16:-16], atol=1e-12, rtol=0)
    assert undistorted(picture, K, (0.0,) * 6) is picture


def test_a_cutout_is_colour_times_opacity(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 2), (255, 51, 0, 102)).save(tmp_path / "a.png")
    Image.new("L", (4, 2), 127).save(tmp_path / "mask.png")
    assert read_cutout(tmp_path / "a.png")[:, 0, 0].tolist() == pytest.approx([0.4, 0.08, 0, 0.4])
    half = 127 / 255
    masked = read_cutout(tmp_path / "a.png", tmp_path / "mask.png")[:, 1, 3].tolist()
    assert masked == pytest.approx([0.4 * half, 0.08 * half, 0, 0.4 * half])
    Image.new("L", (2, 2)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"The mask .*small.png has 2x2 pixels, and .*a.png has 4x2"):
        read_cutout(tmp_path / "a.png", tmp_path / "small.png")


def test_pictures_without_an_ending_and_angles(tmp_path: Path) -> None:
    angles = {"camera_angle_x": math.radians(90), "camera_angle_y": 2 * math.atan(0.5)}
    write(tmp_path, {"file_path": "images/a.05"}, **angles)
    path = (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "a.05.png")
    (frame,) = read_transforms(tmp_path)
    assert frame.picture == path and (frame.width, frame.height) == (60, 40)
    assert (frame.K[0, 0].item(), frame.K[1, 1].item()) == pytest.approx((30, 40))
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^[^(]*a.05.png can't be read as a picture"):
        read_transforms(tmp_path)


@pytest.mark.parametrize(
    ("frame", "whole", "said"),
    [
        ({}, {"camera_model": "OPENCV_FISHEYE"}, "those of OPENCV, PINHOLE"),
        ({}, {"is_fisheye": True}, "of the model OPENCV_FISHEYE"),
        ({"transform_matrix": [[-1, 0, 0, 0], *OPENGL[1:]]}, LENS, "has a transform_matrix for a.png that is no pose"),
        ({"transform_matrix": [[2, 0, 0, 0], *OPENGL[1:]]}, LENS, "has a transform_matrix for a.png that is no pose"),
        ({"transform_matrix": [[1, 0], [0, 0, 1]]}, LENS, "is no pose|expected sequence"),
        ({"transform_matrix": "north"}, LENS, "is no transforms.json as nerfstudio writes it"),
        ({"file_path": "b.png"}, LENS, "names a picture .*b.png, which is not there"),
        ({}, {"camera_angle_x": 0}, r"as nerfstudio writes it \(ZeroDivisionError"),
        ({}, {}, r"as nerfstudio writes it \(KeyError"),
        ({}, LENS | {"fl_x": -1}, "has numbers for a.png that no camera has"),
        ({}, LENS | {"k1": math.nan}, "has numbers for a.png that no camera has"),
        ({}, LENS | {"w": "wide"}, r"as nerfstudio writes it \(ValueError"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path: Path, frame: dict[str, Any], whole: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_transforms(write(tmp_path, frame, **whole))
    assert "\n" not in str(error.value)


def test_a_folder_without_frames_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a folder with a transforms.json"):
        read_transforms(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="which says where"):
        read_transforms(tmp_path)
    for text, said in (
        ("{", "is no transforms.json"),
        ("[]", "is no"),
        ('{"frames": []}', "has 0 frames; from 1 to 2000"),
    ):
        (tmp_path / "transforms.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_transforms(tmp_path)
