"""The solid textures and the ambient occlusion against closed forms, slow loops and random rays."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from asdkit.rendering.cameras import ring
from asdkit.toybox import materials, primitives, raycaster
from asdkit.toybox.catalogue import Thing
from asdkit.toybox.materials import MATERIALS, draw_texture, second_share
from asdkit.toybox.world import render

UNIT = np.eye(3, 4)
POINTS = np.random.default_rng(0).uniform(-20, 20, (4000, 3))


def shares(code: int, points: np.ndarray, frame: np.ndarray = UNIT) -> np.ndarray:
    return np.array([second_share(code, frame, *point) for point in points])


@pytest.mark.parametrize("name", MATERIALS)
def test_a_share_is_a_share_and_both_colours_are_there(name: str) -> None:
    share = shares(MATERIALS[name].code, POINTS)
    assert share.min() >= 0 and share.max() <= 1
    assert 0.1 < share.mean() < 0.9 and (share < 0.3).mean() > 0.1 and (share > 0.5).mean() > 0.1


@pytest.mark.parametrize(
    ("code", "shift"),
    [
        (materials.STRIPED, (1, 0.3, -7.2)),
        (materials.CHECKERED, (1, 1, 0)),
        (materials.CHECKERED, (0, 2, 0)),
        (materials.BRICK, (2.2, 0, 0)),
        (materials.BRICK, (0, 2.2, 0)),
        (materials.BRICK, (1.1, 1.1, 1)),
    ],
)
def test_periods(code: int, shift: tuple[float, float, float]) -> None:
    """What repeats after which step; half a step changes it."""
    share = shares(code, POINTS[:500])
    assert np.allclose(shares(code, POINTS[:500] + np.array(shift)), share, atol=1e-6)
    assert np.abs(shares(code, POINTS[:500] + np.array(shift) / 2) - share).mean() > 0.05


def test_plain_stripes_and_checks() -> None:
    """By definition: nothing; the sine's sign away from the edges; the parity of the cell."""
    assert shares(materials.PLAIN, POINTS[:50]).max() == 0
    wave = np.sin(2 * math.pi * POINTS[:, 0])
    sure = np.abs(wave) > 0.13
    assert np.array_equal(shares(materials.STRIPED, POINTS)[sure], (wave > 0)[sure].astype(float))
    assert np.array_equal(shares(materials.CHECKERED, POINTS), np.floor(POINTS).sum(1) % 2)


def test_spots_and_mortar_take_the_volume_of_their_shapes() -> None:
    """One ball of radius 0.36 a cell; all of a brick's box but what is further than 0.075 from its walls."""
    grid = np.array(list(product(np.linspace(0, 8, 48, endpoint=False) + 0.04, repeat=3)))
    assert shares(materials.SPOTTED, grid).mean() == pytest.approx(4 / 3 * math.pi * 0.36**3, rel=0.03)
    cell = np.array(list(product(np.linspace(0, 2.2, 44, endpoint=False) + 0.01, repeat=2)))
    bricks = np.array([(x, y, z) for x, y in cell for z in np.linspace(0, 1, 40, endpoint=False) + 0.0125])
    inner = (1 - 2 * 0.075 / 2.2) ** 2 * (1 - 2 * 0.075)
    assert shares(materials.BRICK, bricks).mean() == pytest.approx(1 - inner, rel=0.05)


def test_noise_blends_the_corners() -> None:
    """A corner has its own number, the middle of a cell the mean of eight; the numbers are spread evenly."""
    corners = [materials._hash(i, j, k, 0) for i, j, k in product((3, 4), (-2, -1), (7, 8))]
    assert materials._noise(3.0, -2.0, 7.0) == pytest.approx(corners[0])
    assert materials._noise(3.5, -1.5, 7.5) == pytest.approx(sum(corners) / 8)
    numbers = np.array([materials._hash(i, j, k, 0) for i, j, k in product(range(16), repeat=3)])
    counts, _ = np.histogram(numbers, 16, (0, 1))
    assert ((counts - 256) ** 2 / 256).sum() < 40  # chi-squared with 15 degrees of freedom: p = 0.0005


@pytest.mark.parametrize("name", MATERIALS)
def test_an_instance_has_a_period_a_direction_and_a_phase_of_its_own(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    material = MATERIALS[name]
    textures = [draw_texture(material, (0.9, 0.1, 0.1), None, generator) for _ in range(300)]
    frames = np.stack([texture.frame for texture in textures])
    periods = 1 / np.linalg.norm(frames[:, 0, :3], axis=1)
    assert material.periods[0] <= periods.min() < periods.max() <= material.periods[1]
    rotations = frames[:, :, :3] * periods[:, None, None]
    assert np.allclose(rotations @ rotations.swapaxes(1, 2), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(rotations), 1)
    upright = np.allclose(rotations[:, 2], (0, 0, 1))
    assert upright == material.upright
    assert np.abs(rotations.mean(0) - upright * np.diag((0, 0, 1))).max() < 0.15
    assert np.abs(frames[:, :, 3] % 1 - 0.5).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("centre", [(0.0, 0.0, 1.4), (0.8, 0.0, 1.1), (0.9, -0.5, 0.8)])
def test_ambient_occlusion_is_a_balls_share_of_the_sky(centre: tuple[float, float, float]) -> None:
    """Of random rays, weighted by the cosine as the light of a grey sky is, the share that a ball of 0.4 stops."""
    ball = primitives.place(primitives.ELLIPSOID, (1, 1, 1), centre, (0.4, 0.4, 0.4))
    floor = primitives.place(primitives.BOX, (1, 1, 1), (0, 0, -1), (1, 1, 1))
    scene = primitives.pack([floor, ball])
    open_share = raycaster._openness(0, np.zeros(3), np.array([0.0, 0.0, 1.0]), scene)
    u, v = np.random.default_rng(0).uniform(size=(2, 400_000))
    rays = np.stack([np.sqrt(u) * np.cos(2 * math.pi * v), np.sqrt(u) * np.sin(2 * math.pi * v), np.sqrt(1 - u)], 1)
    along = rays @ np.array(centre)
    stopped = (along > 0) & (np.dot(centre, centre) - along**2 < 0.4**2)
    assert 1 - open_share == pytest.approx(raycaster._OCCLUSION * stopped.mean(), rel=0.02)


def test_a_thing_of_a_material_has_many_instances_and_a_plain_one_has_one() -> None:
    views = ring(2)
    striped, plain = Thing("mug", "red", "white", material="striped"), Thing("mug", "red")
    first, second = render(striped, views, variation=1), render(striped, views, variation=2)
    assert torch.equal(first.image, render(striped, views, variation=1).image)
    assert torch.equal(first.alpha, second.alpha) and torch.equal(first.alpha, render(plain, views).alpha)
    assert (first.image - second.image).abs().mean() > 0.02
    assert torch.equal(render(plain, views, variation=1).image, render(plain, views, variation=2).image)


def test_a_texture_paints_what_has_the_main_colour_alone() -> None:
    """The wheels of a wooden car and the eyes of a striped cat stay as they are."""
    views = ring(4)
    plain = render(Thing("cat", "yellow"), views)
    instances = torch.stack(
        [render(Thing("cat", "yellow", material="striped"), views, variation=k).image for k in range(12)]
    )
    fixed = instances.std(0).amax(1, keepdim=True) < 1e-6
    inside = plain.alpha > 0.99
    assert 0.02 < (fixed & inside).sum() / inside.sum() < 0.3
    assert (instances[0] - plain.image).abs()[(fixed & inside).expand(-1, 3, -1, -1)].max() < 1e-6
