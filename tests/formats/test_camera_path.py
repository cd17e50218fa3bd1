"""nerfstudio's camera paths: what its cameras see, and files that are none."""

import json
import math
from pathlib import Path

import pytest
import torch

from asdkit.formats.poses import read_camera_path
from asdkit.rendering.cameras import ring


def written(path: Path, poses: list, **changes: object) -> Path:
    """A file with the names that nerfstudio's viewer writes."""
    frames = [{"camera_to_world": pose, "fov": 40.0, "aspect": 1} for pose in poses]
    sizes = {"render_width": 64, "render_height": 48, "fps": 24, "seconds": 4.0}
    facts = {"camera_type": "perspective", "camera_path": frames, "keyframes": [], "is_cycle": False} | sizes | changes
    path.write_text(json.dumps(facts))
    return path


FROM_ABOVE = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 5, 0, 0, 0, 1]  # its cameras look along -z, from (0, 0, 5)


def test_a_camera_sees_what_nerfstudios_sees(tmp_path: Path) -> None:
    """x is to the right of the picture's middle and y above it, by f / 5 pixels, f = height / (2 tan(fov / 2))."""
    views, fps = read_camera_path(written(tmp_path / "a.json", [FROM_ABOVE, FROM_ABOVE]))
    assert (len(views), views.width, views.height, fps) == (2, 64, 48, 24)
    points = torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]])
    seen = views.K[0] @ (views.w2c[0] @ points.T)[:3]
    step = 24 / math.tan(math.radians(20)) / 5
    torch.testing.assert_close((seen[:2] / seen[2]).T, torch.tensor([[32.0, 24], [32 + step, 24], [32, 24 - step]]))
    assert seen[2].tolist() == [5, 5, 5]
    torch.testing.assert_close(views.elevation, torch.full((2,), math.pi / 2))
    assert views.distance.tolist() == [5, 5]


def test_our_own_cameras_come_back(tmp_path: Path) -> None:
    """Turned by half a turn about their x axis, as OpenGL's cameras are; a film without `fps` has `seconds`."""
    cameras = ring(5, 20.0, 3.4, 40.0, size=48, offset_deg=10)
    opengl = cameras.c2w @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    path = written(tmp_path / "a.json", opengl.flatten(1).tolist(), render_width=48, fps=None, seconds=0.5)
    views, fps = read_camera_path(path)
    assert fps == 10
    for name, values in cameras.tensors.items():
        own, read = values, views.tensors[name]
        if name == "azimuth":
            own, read = (torch.stack([angle.cos(), angle.sin()]) for angle in (own, read))
        torch.testing.assert_close(read, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_path": []}, "0 pixels in all"),
        ({"camera_path": [{"fov": 40}]}, "no camera path of nerfstudio .KeyError"),
        ({"camera_path": [{"fov": 40, "camera_to_world": FROM_ABOVE[:15]}]}, "no camera path of nerfstudio"),
        ({"camera_path": [{"fov": 40, "camera_to_world": 2 * FROM_ABOVE}]}, "no camera path of nerfstudio"),
        ({"camera_path": [{"fov": 40, "camera_to_world": [2 * x for x in FROM_ABOVE]}]}, "no rotation and a position"),
        ({"camera_path": [{"fov": 40, "camera_to_world": [-1, *FROM_ABOVE[1:]]}]}, "no rotation and a position"),
        ({"camera_path": [{"fov": 40, "camera_to_world": [math.nan, *FROM_ABOVE[1:]]}]}, "no rotation and a position"),
        ({"camera_path": [{"fov": 180, "camera_to_world": FROM_ABOVE}]}, "within 0 and 180"),
        ({"camera_path": None}, "no camera path of nerfstudio"),
        ({"camera_type": "fisheye"}, "'fisheye'"),
        ({"render_width": 8}, "8x48 pixels"),
        ({"render_width": "wide"}, "no camera path of nerfstudio"),
        ({"render_width": 4096, "render_height": 4096, "camera_path": 17 * [{"fov": 9, "camera_to_world": FROM_ABOVE}]},
         "at most 268435456"),
        ({"fps": 0, "seconds": 0}, "no camera path of nerfstudio"),
        ({"fps": 1000}, "1000 frames per second"),
    ],
)  # fmt: skip
def test_what_is_no_camera_path_is_one_sentence(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read_camera_path(written(tmp_path / "a.json", [FROM_ABOVE], **changes))
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


def test_other_files_are_one_sentence(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"\xff", b"{" * 100_000, b"7"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json is no camera path"):
            read_camera_path(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"There is no camera path .*b\.json"):
        read_camera_path(tmp_path / "b.json")
