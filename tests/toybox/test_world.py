"""The procedural world against closed forms, brute force and its own promises."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from asdkit.rendering.cameras import Views, ring
from asdkit.toybox import raycaster as shapes
from asdkit.toybox.captions import OVERHEAD, VIEW_WORDS, caption, parse, view_words, vocabulary
from asdkit.toybox.materials import MATERIALS
from asdkit.toybox.things import COLOURS, KINDS, Kind, Thing, build, is_held_out, things
from asdkit.toybox.world import render, sample_background, sample_thing, sample_views

FRONTED = [kind for kind, entry in KINDS.items() if entry.front]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _camera(views: Views) -> tuple[np.ndarray, np.ndarray]:
    return views.c2w[0].double().numpy(), views.K[0].double().numpy()


def _rays(views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] and world directions [H,W,3] of unit camera z, of the first camera."""
    c2w, K = _camera(views)
    u = (np.arange(views.width) + 0.5 - K[0, 2]) / K[0, 0]
    v = (np.arange(views.height) + 0.5 - K[1, 2]) / K[1, 1]
    grid = np.stack([*np.meshgrid(u, v), np.ones((views.height, views.width))], axis=-1)
    return c2w[:3, 3], grid @ c2w[:3, :3].T


def test_ball_matches_the_closed_form() -> None:
    """Silhouette and depth of the sphere of radius 0.85, from an oblique camera."""
    views = ring(1, elevation_deg=25.0, offset_deg=37.0)
    origin, rays = _rays(views)
    a, b = (rays * rays).sum(-1), rays @ origin
    disc = b * b - a * (origin @ origin - 0.85**2)
    truth = render(Thing("ball", "red"), views, supersample=1)
    hit = disc > 0
    assert np.array_equal(truth.alpha[0, 0].numpy() > 0.5, hit)
    expected = np.where(hit, (-b - np.sqrt(np.maximum(disc, 0))) / a, 0.0)
    assert np.abs(truth.depth[0, 0].numpy() - expected).max() < 1e-5
    area = render(Thing("ball", "red"), views).alpha.sum().item()
    radius = 0.85 / math.sqrt(3.4**2 - 0.85**2) * 32 / math.tan(math.radians(20))
    assert area == pytest.approx(math.pi * radius**2, rel=0.01)


def test_torus_matches_a_dense_march() -> None:
    """A turned, unevenly scaled torus against 4000 tiny steps of its implicit function."""
    place = (0.1, -0.05, 0.08), (0.7, 0.5, 0.6), (50.0, 20.0, 30.0)
    torus = shapes.place(shapes.TORUS, (1, 0, 0), *place, param=0.35)
    views = ring(1, size=32, offset_deg=20.0)
    depth, index, _ = shapes.trace([torus], *_camera(views), 32, 32)
    origin, rays = _rays(views)
    W = np.linalg.inv(torus.matrix[:, :3])
    o, d = W @ (origin - torus.matrix[:, 3]), rays @ W.T
    ts = np.linspace(2.0, 5.0, 4000)
    p = o + d[:, :, None, :] * ts[:, None]
    inside = (np.hypot(p[..., 0], p[..., 1]) - 1) ** 2 + p[..., 2] ** 2 < 0.35**2
    hit = inside.any(-1)
    assert 100 < hit.sum() < 900
    assert ((index >= 0) != hit).sum() <= 2
    both = hit & (index >= 0)
    assert np.abs(ts[inside.argmax(-1)] - depth)[both].max() < 3e-3


@pytest.mark.parametrize("shape", range(6))
def test_normals_are_the_gradient_of_the_surface(shape: int) -> None:
    """The cross product of neighbouring hit points agrees with the normal on smooth parts."""
    primitive = shapes.place(shape, (1, 0, 0), (0.05, 0.1, 0.0), (0.5, 0.35, 0.6), (20.0, 30.0, 50.0), param=0.4)
    views = ring(1, elevation_deg=30.0, size=256, offset_deg=25.0)
    depth, index, normal = shapes.trace([primitive], *_camera(views), 256, 256)
    origin, rays = _rays(views)
    points = origin + rays * depth[..., None]
    geometric = np.cross(points[1:, :-1] - points[:-1, :-1], points[:-1, 1:] - points[:-1, :-1])
    geometric /= np.linalg.norm(geometric, axis=-1, keepdims=True) + 1e-12
    whole = (index[1:, :-1] >= 0) & (index[:-1, :-1] >= 0) & (index[:-1, 1:] >= 0)
    cosine = (geometric * normal[:-1, :-1]).sum(-1)[whole]
    assert whole.sum() > 2000 and np.median(cosine) > 0.999 and (cosine > 0.9).mean() > 0.95


def test_azimuth_90_sees_the_left_side() -> None:
    """From +y the front (+x) is at the picture's left: the green cab of a truck with a red box."""
    image = render(Thing("truck", "green", "red"), ring(4), (0.0, 0.0, 0.0)).image
    green = (image[:, 1] > 2 * image[:, 0]) & (image[:, 1] > 2 * image[:, 2])
    assert green[1, :, :32].sum() > 50 and green[1, :, 32:].sum() == 0
    assert green[3, :, 32:].sum() > 50 and green[3, :, :32].sum() == 0
    assert green[0].sum() > 50 and green[2].sum() == 0


@pytest.mark.parametrize("prompt", ["a yellow ring", "a marble ball", "a red spotted snowman with a blue hat"])
def test_shading_does_not_depend_on_the_view(prompt: str) -> None:
    views = ring(12, elevation_deg=40.0, size=128)[:2]
    truth = render(parse(prompt), views, supersample=1)
    origin, rays = _rays(views)
    rows, cols = np.nonzero(truth.alpha[0, 0].numpy())
    points = origin + rays[rows, cols] * truth.depth[0, 0].numpy()[rows, cols, None]
    w2c, K = views.w2c[1].double().numpy(), views.K[1].double().numpy()
    local = points @ w2c[:3, :3].T + w2c[:3, 3]
    pixel = np.floor(local @ K.T / local[:, 2:])[:, :2].astype(int)
    seen = truth.depth[1, 0].numpy()[pixel[:, 1], pixel[:, 0]]
    shared = np.abs(seen - local[:, 2]) < 0.01
    assert shared.mean() > 0.3
    first = truth.image[0].numpy()[:, rows, cols][:, shared]
    second = truth.image[1].numpy()[:, pixel[:, 1], pixel[:, 0]][:, shared]
    difference = np.abs(first - second).max(0)
    assert np.median(difference) < 0.01 and (difference > 0.06).mean() < 0.05


def test_a_solid_of_the_file_stands_at_each_value_and_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {"ball": "second", "at": ["x", "±0.5", "x*cos(0)/4"], "size": 0.1, "turn": [0, 0, "∓30"]}
    wheels |= {"for": {"x": [1, 2]}}
    monkeypatch.setitem(KINDS, "cart", Kind([wheels], {"second": "wood"}, scale=2.0))
    solids = build("cart", (1, 0, 0), None)
    assert [solid.matrix[:, 3].tolist() for solid in solids] == [[2 * x, y, x / 2] for x in (1, 2) for y in (1, -1)]
    assert [solid.matrix[1, 0] < 0 for solid in solids] == [True, False] * 2
    assert {solid.colour for solid in solids} == {(0.40, 0.24, 0.12)}
    assert build("cart", (1, 0, 0), (0, 1, 0))[0].colour == (0, 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_within_the_picture_and_its_front_differs_from_its_back(kind: str) -> None:
    """Centred at the nearest training distance, and not tiny; a back mirrored and brightened to the front's mean."""
    alpha = render(Thing(kind, "red"), ring(8, distance=3.2)).alpha[:, 0]
    assert alpha[:, [0, -1]].sum() == 0 and alpha[:, :, [0, -1]].sum() == 0
    assert alpha.mean() > 0.06
    rows, cols = alpha.amax((0, 2)).nonzero(), alpha.amax((0, 1)).nonzero()
    assert abs((rows.min() + rows.max()).item() - 63) < 14 and abs((cols.min() + cols.max()).item() - 63) < 14
    if KINDS[kind].front:
        truth = render(Thing(kind, "green"), ring(2))
        front, back = truth.image[0], truth.image[1].flip(-1)
        inside = (truth.alpha[0] > 0.5) & (truth.alpha[1].flip(-1) > 0.5)
        gain = (front * inside).sum() / (back * inside).sum()
        assert gain > 1.03
        assert ((front - gain * back) * inside).abs().max(0).values.gt(0.1).sum() > 0.05 * inside.sum()


def test_background_alpha_and_depth_agree(generator: torch.Generator) -> None:
    """Composition over any background; depth is 0 exactly where nothing is."""
    views, rgb = sample_views(generator, 4), (0.9, 0.5, 0.7)
    colours = ((0.0,) * 3, rgb, torch.tensor([rgb]).expand(4, 3))
    black, pink, rows = (render(Thing("robot", "blue", "red"), views, colour) for colour in colours)
    expected = black.image + (1 - black.alpha) * torch.tensor(rgb)[:, None, None]
    assert torch.allclose(pink.image, expected, atol=1e-6) and torch.equal(rows.image, pink.image)
    assert torch.equal(black.depth > 0, black.alpha > 0)
    assert black.image.dtype == black.depth.dtype == torch.float32


def test_the_world_is_large_and_captions_come_back_through_parse(generator: torch.Generator) -> None:
    """Nothing is listed twice; of every third thing the prompt and a free caption, whose words are all known."""
    everything, words = things(), set(vocabulary())
    assert len(KINDS) >= 38 and len(FRONTED) >= 20 and len(COLOURS) >= 10 and len(MATERIALS) >= 6
    assert len(set(everything)) == len(everything) == len({thing.prompt for thing in everything})
    assert len(things(True)) + len(things(False)) == len(everything)
    for thing in everything[::3]:
        assert parse(thing.prompt) == thing
        text = caption(thing, 2.0, 0.3, generator)
        assert parse(text) == thing, text
        assert set(text.replace(",", "").split()) <= words


OF_ANOTHER_WORLD = (
    "a red white ball", "a red and ball", "a red and blue ball", "a wooden brick ball", "a red and red striped ball",
    "a striped ball", "a wooden ball on a red cube", "", "a", "a red dragon", "a duck, in Paris", "a red ball on",
    "a red ball on top", "a cube", "a red duck with a blue roof", "a red car on a blue cube", "red, front view",
)  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "thing"),
    [
        ("a photo of an orange sphere, overhead view", Thing("ball", "orange")),
        ("A snowman with a blue hat.", Thing("snowman", "white", "blue")),
        ('- "A Snowman with a blue hat"!? ', Thing("snowman", "white", "blue")),
        ("the yellow house with a red roof, back left view", Thing("house", "yellow", "red")),
        ("a green cone on top of a blue cylinder", Thing("cone", "green", "blue", "cylinder")),
        ("a white mushroom with a red cap", Thing("mushroom", "white", "red")),
        ("a red and white striped ball", Thing("ball", "red", material="striped", other="white")),
        ("a red striped ball, front view", Thing("ball", "red", material="striped", other="white")),
        ("a striped blue and black cube", Thing("cube", "blue", material="striped", other="black")),
        ("a white spotted cube", Thing("cube", "white", material="spotted", other="black")),
        ("a checkered duck", Thing("duck", "yellow", material="checkered", other="white")),
        ("a photo of a wooden chair", Thing("chair", "", material="wooden")),
        ("a green marble cone", Thing("cone", "green", material="marble")),
        ("a brick house with a blue roof", Thing("house", "", "blue", material="brick")),
        *dict.fromkeys(OF_ANOTHER_WORLD).items(),
    ],
)
def test_parse(prompt: str, thing: Thing | None) -> None:
    assert parse(prompt) == thing


def test_view_words_follow_the_camera(generator: torch.Generator) -> None:
    """The left is at azimuth +90; three quarters of the captions have the eight words, a tenth the four."""
    assert [view_words(math.radians(45 * index), 0.2) for index in range(8)] == [*VIEW_WORDS]
    assert VIEW_WORDS[2] == "left side view" and VIEW_WORDS[7] == "front right view"
    assert view_words(1.0, math.radians(61)) == OVERHEAD != view_words(1.0, math.radians(59))
    four = [view_words(math.radians(a), 0.0, ways=4) for a in (40, 50, 130, 140, 270)]
    assert four == ["front view", "side view", "side view", "back view", "side view"]
    suffixes = Counter(caption(Thing("car", "red"), 1.5708, 0.0, generator).partition(", ")[2] for _ in range(2000))
    assert suffixes["left side view"] == pytest.approx(1500, abs=80)
    assert suffixes["side view"] == pytest.approx(200, abs=50) and suffixes[""] == pytest.approx(300, abs=60)


def test_held_out_compositions() -> None:
    """10 to 22 % of the world; each kind, colour and material is missing somewhere and yet well represented."""
    assert 0.10 <= len(things(True)) / len(things()) <= 0.22
    plain = [thing for thing in things(True) if not (thing.base or thing.material) and thing.second is None]
    unnamed = [thing for thing in things(True) if thing.material and not thing.main]
    assert {thing.material for thing in unnamed} == {word for word, of in MATERIALS.items() if of.natural}
    assert len(unnamed) <= 0.1 * 3 * len(KINDS)
    by_kind, by_colour = Counter(t.kind for t in plain), Counter(t.main for t in plain)
    assert set(by_kind) == set(KINDS) and max(by_kind.values()) <= 2
    assert set(by_colour) == set(COLOURS) and max(by_colour.values()) <= len(KINDS) // 4
    stacks = [thing for thing in things() if thing.base]
    assert 0.10 <= sum(map(is_held_out, stacks)) / len(stacks) <= 0.15
    assert not is_held_out(Thing("duck", "yellow"))
    (house, *_) = [thing for thing in plain if thing.kind == "house"]
    assert is_held_out(Thing("house", house.main, "red" if house.main != "red" else "blue"))


def test_the_sampler_keeps_to_its_side_and_to_the_shares_promised(generator: torch.Generator) -> None:
    drawn = [sample_thing(generator) for _ in range(2000)]
    assert not any(is_held_out(thing) for thing in drawn)
    assert all(is_held_out(sample_thing(generator, held_out=True)) for _ in range(300))
    assert sum(bool(thing.base) for thing in drawn) == pytest.approx(140, abs=50)
    textured = Counter(thing.material for thing in drawn if thing.material)
    assert set(textured) == set(MATERIALS) and textured.total() == pytest.approx(2000 * 0.93 * 0.45, abs=90)
    counts = Counter(thing.kind for thing in drawn if not thing.base)
    fronted = sum(counts[kind] for kind in FRONTED) / len(FRONTED)
    plain = sum(counts[kind] for kind in KINDS if kind not in FRONTED) / (len(KINDS) - len(FRONTED))
    assert set(counts) == set(KINDS) and fronted / plain == pytest.approx(1.5, abs=0.25)
    assert sample_thing(generator.manual_seed(0)) == drawn[0]


def test_sampled_views_and_backgrounds(generator: torch.Generator) -> None:
    """Ranges, the share of overhead views, and the share of backgrounds of a colour."""
    views = sample_views(generator, 4000, size=32)
    elevation = views.elevation.rad2deg()
    assert elevation.min() >= -10.001 and elevation.max() <= 85.001 and (views.height, views.width) == (32, 32)
    assert (elevation > 60).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert views.distance.min() >= 3.2 and views.distance.max() <= 3.6
    assert views.azimuth.min() >= 0 and views.azimuth.max() > 6.2
    assert views.K[0, 0, 0].item() == pytest.approx(16 / math.tan(math.radians(20)), rel=1e-5)
    colours = [sample_background(generator) for _ in range(1000)]
    assert all(0.4 <= channel <= 1 for colour in colours for channel in colour), "none is dark"
    assert sum(len(set(colour)) > 1 for colour in colours) == pytest.approx(150, abs=45)
