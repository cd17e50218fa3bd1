"""Solid textures and soft occlusion against slow formulas of their own."""

import math

import numpy as np
import pytest
import torch

from asdkit.rendering.cameras import ring
from asdkit.toybox import raycaster as shapes
from asdkit.toybox.captions import parse
from asdkit.toybox.materials import MATERIALS, Texture, paint, shade
from asdkit.toybox.things import COLOURS, Thing, primitives
from asdkit.toybox.world import render

RED, WHITE = (np.array(COLOURS[word]) for word in ("red", "white"))


def _texture(word: str) -> Texture:
    return parse(f"a red {word} ball").texture(5)


def _painted(word: str, points: np.ndarray) -> np.ndarray:
    """On a surface that faces +x."""
    return paint(_texture(word), points, np.tile([1.0, 0.0, 0.0], (len(points), 1)))


def _in_periods(word: str, points: np.ndarray) -> np.ndarray:
    texture = _texture(word)
    assert np.allclose(texture.turn @ texture.turn.T, np.eye(3)) and np.linalg.det(texture.turn) > 0.99
    low, high = MATERIALS[word].scale
    assert low <= texture.scale <= high
    return points @ texture.turn.T / texture.scale + texture.shift


POINTS = np.random.default_rng(0).uniform(-0.95, 0.95, (400, 3))


def test_stripes_are_half_periods_of_a_plane_wave_and_squares_alternate_along_each_axis() -> None:
    striped, checkered = (_in_periods(word, POINTS) for word in ("striped", "checkered"))
    for word, share in {"striped": striped[:, 2] % 1 > 0.5, "checkered": np.floor(checkered).sum(1) % 2}.items():
        assert np.allclose(_painted(word, POINTS), np.where(share[:, None], WHITE, RED)) and 0.3 < share.mean() < 0.7


def test_spots_are_balls_on_a_body_centred_lattice() -> None:
    """The nearest of all lattice points around, by brute force."""
    steps = np.arange(-8, 9)
    corners = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3).astype(float)
    lattice = np.concatenate([corners, corners + 0.5])
    distance = np.linalg.norm(_in_periods("spotted", POINTS)[:, None] - lattice, axis=2).min(1)
    expected = np.where((distance < 0.36)[:, None], WHITE, RED)
    assert np.allclose(_painted("spotted", POINTS), expected) and 0.2 < (distance < 0.36).mean() < 0.6


def test_bricks_overlap_by_half_and_are_twice_as_long_as_high() -> None:
    """On a wall that faces +x: grey joints level all along, and upright ones that shift by half a brick."""
    points = np.stack([np.full(4000, 0.5), *np.random.default_rng(1).uniform(-0.9, 0.9, (2, 4000))], axis=1)
    x, y, z = _in_periods("brick", points).T
    row = np.floor(z)
    level = np.abs(z - np.round(z)) < 0.07
    across = (y + row) / 2
    upright = np.abs(across - np.round(across)) < 0.035
    painted = _painted("brick", points)
    mortar = (painted == 0.8).all(1)
    assert np.array_equal(mortar, level | upright) and 0.1 < mortar.mean() < 0.4
    assert np.allclose(painted[~mortar], RED)


def _waves(points: np.ndarray, phases: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    octaves = [(2.0 * 2**i, 0.5 * 0.5**i, phases[i]) for i in range(3)]
    bent = [np.sin(f * y + p[1]) + np.cos(f * z + p[2]) for f, _, p in octaves]
    return sum(h * np.sin(f * x + p[0] + 1.3 * b) for (f, h, p), b in zip(octaves, bent, strict=True))


def test_wood_has_rings_around_an_axis_and_marble_has_veins_along_disturbed_planes() -> None:
    """Rings of one period by the distance from the axis; veins where a disturbed plane wave is near 0; both smooth."""
    for word in ("wooden", "marble"):
        colours, moved = _painted(word, POINTS), _painted(word, POINTS + 1e-4)
        assert np.abs(colours - moved).max() < 0.02
        assert colours[:, 0].min() < 0.65 * RED[0] and colours[:, 0].max() > 0.97 * RED[0]
    points = _in_periods("wooden", POINTS)
    phases = _texture("wooden").phases
    rings = np.hypot(points[:, 0], points[:, 1]) + 0.35 * _waves(points * [0.3, 0.3, 0.15], phases)
    dark = (0.5 + 0.5 * np.sin(2 * np.pi * rings)) ** 2
    assert np.allclose(_painted("wooden", POINTS), RED * (1 - 0.45 * dark)[:, None])
    points = _in_periods("marble", POINTS)
    phases = _texture("marble").phases
    vein = np.abs(np.sin(np.pi * (points[:, 2] + 0.6 * _waves(0.8 * points, phases))))
    share = 0.9 * np.maximum(0, 1 - 2.2 * vein)[:, None]
    vein_colour = 0.35 * RED if RED @ [0.3, 0.6, 0.1] > 0.3 else 0.5 + RED / 2
    assert np.allclose(_painted("marble", POINTS), (1 - share) * RED + share * vein_colour)


@pytest.mark.parametrize("word", MATERIALS)
def test_instances_differ_and_each_stays_as_it_is(word: str) -> None:
    """Only what the material paints: a house's windows and its roof of another colour stay."""
    thing = parse(f"a red {word} house with a blue roof")
    assert thing is not None
    first, same, second = (render(thing, ring(4), instance=number) for number in (3, 3, 4))
    assert torch.equal(first.image, same.image) and torch.equal(first.alpha, second.alpha)
    changed = (first.image - second.image).abs().amax(1, keepdim=True) > 0.1
    assert 0.02 < changed.float().sum() / first.alpha.sum() < 0.9
    blue = (first.image[:, 2:] > 2 * first.image[:, :1]) & (first.alpha == 1)
    assert (blue & changed).sum() < 0.05 * blue.sum()


def test_a_ball_darkens_what_faces_it() -> None:
    """cos(angle) r^2 / d^2 of the light, times the strength, on a floor under a ball; the floor alone is all lit."""
    floor = shapes.place(shapes.BOX, (1.0, 1.0, 1.0), (0, 0, -0.5), (0.9, 0.9, 0.01))
    ball = shapes.place(shapes.ELLIPSOID, (1.0, 1.0, 1.0), (0, 0, 0.2), (0.2, 0.2, 0.2))
    view = ring(1, elevation_deg=89.0, size=128)
    c2w, K = view.c2w.double().numpy(), view.K.double().numpy()
    plain = Thing("ball", "red").texture()
    lit, dark = (shade(p, plain, c2w[0], K[0], 128, 128, 1) for p in ([floor], [floor, ball]))
    depth, ratio = dark[4], dark[0] / np.maximum(lit[0], 1e-9)
    rows, columns = np.nonzero((np.abs(depth - lit[4]) < 1e-6) & (depth > 0))
    rays = np.stack([(columns + 0.5 - K[0, 0, 2]) / K[0, 0, 0], (rows + 0.5 - K[0, 1, 2]) / K[0, 1, 1]], 1)
    local = np.concatenate([rays, np.ones((len(rays), 1))], 1) * depth[rows, columns][:, None]
    points = local @ c2w[0, :3, :3].T + c2w[0, :3, 3]
    towards = np.array([0, 0, 0.2]) - points
    squared = (towards**2).sum(1)
    expected = 1 - 0.55 * towards[:, 2] / np.sqrt(squared) * 0.04 / squared
    top = points[:, 2] > -0.4901
    assert top.sum() > 500 and np.abs(ratio[rows, columns] - expected)[top].max() < 1e-4
    assert math.isclose(ratio[rows, columns][top].max(), expected[top].max(), rel_tol=1e-4)


def test_the_light_is_the_formula_and_a_thing_does_not_darken_itself() -> None:
    """On a ring, whose inside faces its own middle: sky by height, and the sun by the square of what faces it."""
    ring_of_red = Thing("ring", "red")
    view = ring(1, elevation_deg=50.0, size=96)
    c2w, K = view.c2w.double().numpy(), view.K.double().numpy()
    _, index, normal = shapes.trace(primitives(ring_of_red), c2w[0], K[0], 96, 96)
    facing = 0.5 + 0.5 * normal @ np.array([0.72, 0.35, 0.60])
    light = 0.48 + 0.20 * (0.5 + 0.5 * normal[..., 2]) + 0.45 * facing**2
    expected = np.minimum(1, RED * light[..., None]) * (index >= 0)[..., None]
    image = shade(primitives(ring_of_red), ring_of_red.texture(), c2w[0], K[0], 96, 96, 1)[:3].transpose(1, 2, 0)
    assert (index >= 0).sum() > 800 and np.abs(image - expected).max() < 1e-5
