"""Gaussians in a turned world."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.splat_tools import UPRIGHT, covariances, drawn, matrices, splat_transform, splats

from asdkit.formats import splat_ply
from asdkit.formats.rotation import rotated
from asdkit.formats.splat_files import write_splats
from asdkit.rendering.cameras import Views, ring

HALF_TURNS = [Rotation.from_rotvec(math.pi * axis) for axis in np.eye(3)]
TURNS = [Rotation.from_matrix(UPRIGHT), *HALF_TURNS, *(Rotation.random(random_state=seed) for seed in range(4))]


@pytest.mark.parametrize("turn", TURNS)
def test_turned_gaussians_look_the_same_to_turned_cameras(turn: Rotation) -> None:
    original, views, matrix = splats(degree=3), ring(3, size=24), torch.eye(4)
    matrix[:3, :3] = torch.from_numpy(turn.as_matrix())
    others = Views(matrix @ views.c2w, views.K, views.azimuth, views.elevation, views.distance, 24, 24)
    image = drawn(original, views)
    assert image.std() > 0.05 and (drawn(original._replace(sh=original.sh[:, :1]), views) - image).abs().max() > 0.05
    np.testing.assert_allclose(drawn(rotated(original, turn.as_matrix()), others), image, atol=1e-4)


@pytest.mark.parametrize("degree", [1, 3])
def test_turned_as_splat_transform_does(tmp_path: Path, degree: int) -> None:
    original = splats(degree=degree)
    write_splats(tmp_path / "a.ply", original)
    splat_transform(tmp_path / "a.ply", "-r", "25,-130,70", tmp_path / "b.ply")
    theirs = splat_ply.read_ply(tmp_path / "b.ply")
    engine = np.diag([-1.0, -1, 1])  # it turns in axes where x and y are reversed
    rotation = engine @ Rotation.from_euler("xyz", [25, -130, 70], degrees=True).as_matrix() @ engine
    ours = rotated(original, rotation)
    np.testing.assert_allclose(theirs.means, ours.means, atol=1e-6)
    np.testing.assert_allclose(covariances(theirs), covariances(ours), atol=1e-7)
    np.testing.assert_allclose(theirs.sh, ours.sh, atol=1e-5)
    np.testing.assert_allclose(matrices(ours.quats), rotation @ matrices(original.quats), atol=1e-6)


@pytest.mark.parametrize("matrix", [np.diag([1.0, 1, -1]), 2 * np.eye(3), np.full((3, 3), np.nan)])
def test_only_rotations_turn(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rotation"):
        rotated(splats(), matrix)
