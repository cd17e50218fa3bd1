"""Gaussians in a turned world."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.splat_tools import UPRIGHT, drawn, splats

from asdkit.formats.splats import rotated
from asdkit.rendering.cameras import Views, ring

HALF_TURNS = [Rotation.from_rotvec(math.pi * axis) for axis in np.eye(3)]
TURNS = [Rotation.from_matrix(UPRIGHT), *HALF_TURNS, *(Rotation.random(random_state=seed) for seed in range(4))]


@pytest.mark.parametrize("turn", TURNS)
def test_turned_gaussians_look_the_same_to_turned_cameras(turn: Rotation) -> None:
    original, views, matrix = splats(degree=3), ring(3, size=24), torch.eye(4)
    matrix[:3, :3] = torch.from_numpy(turn.as_matrix())
    turned = Views(matrix @ views.c2w, views.K, views.azimuth, views.elevation, views.distance, 24, 24)
    image = drawn(original, views)
    assert image.std() > 0.05 and (drawn(original._replace(sh=original.sh[:, :1]), views) - image).abs().max() > 0.05
    np.testing.assert_allclose(drawn(rotated(original, turn.as_matrix()), turned), image, atol=1e-4)
