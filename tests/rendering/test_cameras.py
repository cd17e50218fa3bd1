"""Cameras: where points land, which side is seen, and how batches are cut."""

import math

import pytest
import torch
from torch import Tensor

from asdkit.rendering.cameras import Views, joined, orbit, ring, surface_normals, unproject


def _view(azimuth_deg: float, elevation_deg: float = 0.0, distance: float = 3.0, fov_deg: float = 40.0) -> Views:
    angles = (torch.tensor([math.radians(a)], dtype=torch.float64) for a in (azimuth_deg, elevation_deg))
    return orbit(*angles, torch.tensor([distance], dtype=torch.float64), math.radians(fov_deg), 60, 80)


def _project(views: Views, point: list[float]) -> tuple[float, float, float]:
    """Pixel column, pixel row and depth of a world point, in the first camera."""
    camera = views.w2c[0] @ torch.tensor([*point, 1.0], dtype=torch.float64)
    u, v, w = (views.K[0] @ camera[:3]).tolist()
    return u / w, v / w, w


@pytest.mark.parametrize("azimuth", [0, 37, 90, 200, -60])
@pytest.mark.parametrize("elevation", [-30, 0, 50, 89])
def test_cameras_are_right_handed_and_look_at_the_origin(azimuth: float, elevation: float) -> None:
    views = _view(azimuth, elevation, 2.5)
    rotation = views.c2w[0, :3, :3]
    assert torch.allclose(rotation.T @ rotation, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0)
    assert _project(views, [0, 0, 0]) == pytest.approx((40, 30, 2.5))
    torch.testing.assert_close(views.w2c, torch.linalg.inv(views.c2w), atol=1e-12, rtol=0)
    assert rotation[2, 0].item() == pytest.approx(0)  # the image's rows are level
    assert rotation[2, 1].item() < 0  # and its down is the world's down


def test_the_front_is_seen_from_plus_x() -> None:
    views = _view(0)
    assert views.c2w[0, :3, 3].tolist() == pytest.approx([3, 0, 0])
    column, row, depth = _project(views, [0.5, 0.2, 0.1])
    focal = 30 / math.tan(math.radians(20))
    assert depth == pytest.approx(2.5)
    assert column == pytest.approx(40 + focal * 0.2 / 2.5)  # the object's left (+y) is on the image's right
    assert row == pytest.approx(30 - focal * 0.1 / 2.5)  # up is up


def test_the_left_side_and_the_top_are_seen_from_where_they_are() -> None:
    left, high = _view(90), _view(0, 30)
    assert left.c2w[0, :3, 3].tolist() == pytest.approx([0, 3, 0], abs=1e-12)
    assert _project(left, [0, 0.5, 0])[2] == pytest.approx(2.5)
    assert _project(left, [0.5, 0, 0])[0] < 40  # the front points to the image's left
    assert high.c2w[0, 2, 2:].tolist() == pytest.approx([-0.5, 1.5])  # forward goes down
    assert _project(high, [0, 0, 0.5])[2] < 3


@pytest.mark.parametrize("fov", [20.0, 40.0, 90.0])
def test_focal_length_from_the_vertical_field_of_view(fov: float) -> None:
    views = _view(0, fov_deg=fov)
    K = views.K[0]
    top = 3 * math.tan(math.radians(fov) / 2)
    assert _project(views, [0, 0, top])[1] == pytest.approx(0, abs=1e-9)
    assert _project(views, [0, 0, -top])[1] == pytest.approx(60)
    assert K[0, 0] == K[1, 1]
    assert K[:2, 2].tolist() == [40, 30]


def test_ring() -> None:
    """Azimuth, elevation and distance are those of where the cameras stand."""
    views = ring(4, elevation_deg=20, distance=3.4, offset_deg=30, size=48)
    assert len(views) == 4 and (views.height, views.width) == (48, 48)
    assert torch.rad2deg(views.azimuth).tolist() == pytest.approx([30, 120, 210, 300])
    assert views.K[0, 0, 0].item() == pytest.approx(24 / math.tan(math.radians(20)))
    x, y, z = views.c2w[:, :3, 3].T
    assert torch.allclose(torch.atan2(y, x) % (2 * math.pi), views.azimuth, atol=1e-5)
    for elevation in ((z / 3.4).asin(), views.elevation):
        assert elevation.rad2deg().tolist() == pytest.approx([20] * 4)
    for distance in (torch.stack([x, y, z]).norm(dim=0), views.distance):
        assert distance.tolist() == pytest.approx([3.4] * 4)


def test_parts_of_a_batch_and_batches_joined_in_order() -> None:
    whole = orbit(*(torch.rand(5) + k for k in (0, -0.5, 2)), 0.7, 24, 32)
    again = joined([whole[:2], whole[2:4], whole[torch.tensor([4])]])
    part = whole[torch.tensor([4, 0])]
    for name, values in whole.tensors.items():
        assert torch.equal(getattr(again, name), values) and torch.equal(getattr(part, name), values[[4, 0]])
    assert len(again) == 5 and len(part) == 2 and {(24, 32)} == {(v.height, v.width) for v in (again, part)}
    moved = whole.to("meta")
    assert moved.K.device.type == moved.distance.device.type == "meta"


def _ball_depth(views: Views, radius: float) -> Tensor:
    """Camera z of a ball around the origin; 0 where it is missed. In a camera's axes its centre is (0, 0, distance)."""
    sides = (torch.arange(size).to(views.K) + 0.5 for size in (views.height, views.width))
    row, column = torch.meshgrid(*sides, indexing="ij")
    x, y = (column - views.width / 2) / views.K[0, 0, 0], (row - views.height / 2) / views.K[0, 0, 0]
    squared, distance = x**2 + y**2 + 1, views.distance[:, None, None]
    inside = (distance / squared) ** 2 - (distance**2 - radius**2) / squared
    return torch.where(inside > 0, distance / squared - inside.clamp(min=0).sqrt(), 0)[:, None]


def test_depth_leads_back_to_the_points_and_their_normals() -> None:
    azimuth, elevation, distance = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 4.0], [0.2, -0.9], [3.0, 2.0]))
    views = orbit(azimuth, elevation, distance, 0.6, 24, 32)
    depth = _ball_depth(views, 0.5)
    hit = depth > 0
    points = unproject(depth, views)
    radius = points.norm(dim=1, keepdim=True)
    torch.testing.assert_close(radius[hit], torch.full_like(radius[hit], 0.5), atol=1e-9, rtol=0)
    for b in range(2):
        point = points[b, :, 12, 20]
        x, y, z = _project(views[b : b + 1], point.tolist())
        assert (x, y, z) == pytest.approx((20.5, 12.5, depth[b, 0, 12, 20].item()), abs=1e-4)
    inside = -torch.nn.functional.max_pool2d(-hit.double(), 5, 1, 2) > 0
    normals = surface_normals(depth, views)
    assert inside.sum() > 50
    error = (normals - points / 0.5).norm(dim=1, keepdim=True)
    assert error[inside].max() < 0.06


def test_a_wall_faces_the_camera_up_to_the_pictures_edge() -> None:
    views = orbit(torch.tensor([0.3, 4.0]), torch.tensor([0.2, -0.9]), torch.tensor([3.0, 2.0]), 0.6, 6, 8)
    normals = surface_normals(torch.full((2, 1, 6, 8), 2.0), views)
    torch.testing.assert_close(normals, -views.c2w[:, :3, 2][..., None, None].expand(2, 3, 6, 8), atol=1e-4, rtol=0)
