"""Cameras: stratified, stateless, within their ranges; and views to judge by that training does not take."""

import math
from types import SimpleNamespace

import pytest
import torch

from asdkit.data import Cameras
from asdkit.randomness import generator_for
from asdkit.views import Views


def draws(cameras: Cameras, count: int) -> Views:
    return [cameras.sample(generator_for(0, step, "views")) for step in range(count)]


def loader(cameras: Cameras, step: int, rank: int = 0, seed: int = 3) -> Views:
    module = SimpleNamespace(seed=seed)
    cameras.trainer = SimpleNamespace(lightning_module=module, global_step=step, global_rank=rank)
    return next(iter(cameras.train_dataloader()))


def test_each_view_has_its_own_sector() -> None:
    for views in draws(Cameras(views_per_step=4), 200):
        assert len(views) == 4
        turns = views.azimuth.sort().values / (2 * math.pi)
        gaps = torch.cat([turns.diff(), turns[:1] + 1 - turns[-1:]])
        assert bool((gaps <= 0.5 + 1e-5).all()), "two neighbours are never more than two sectors apart"
        assert bool(((turns >= 0) & (turns < 1)).all())


def test_azimuths_are_uniform_and_elevations_as_asked() -> None:
    batches = draws(Cameras(views_per_step=4, overhead_share=0.25), 2000)
    azimuth = torch.cat([views.azimuth for views in batches])
    elevation = torch.cat([views.elevation for views in batches]).rad2deg()
    distance = torch.cat([views.distance for views in batches])
    sectors = (azimuth / (2 * math.pi) * 8).long().bincount(minlength=8) / len(azimuth)
    assert torch.allclose(sectors, torch.full((8,), 1 / 8), atol=0.015)
    assert (elevation > 60).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert -10 <= elevation.min() < -8 and 83 < elevation.max() <= 85.001
    assert 3.2 <= distance.min() < 3.21 and 3.59 < distance.max() <= 3.6


def test_the_views_of_a_step_depend_on_seed_step_and_rank_alone() -> None:
    cameras = Cameras(size=16)
    endless = iter(cameras_from(cameras, 0))
    stream = [next(endless) for _ in range(5)]
    assert torch.equal(loader(cameras, 3).azimuth, stream[3].azimuth)
    for other in (loader(cameras, 4), loader(cameras, 3, rank=1), loader(cameras, 3, seed=4)):
        assert not torch.equal(other.azimuth, stream[3].azimuth)


def cameras_from(cameras: Cameras, step: int) -> torch.utils.data.DataLoader:
    cameras.trainer = SimpleNamespace(lightning_module=SimpleNamespace(seed=3), global_step=step, global_rank=0)
    return cameras.train_dataloader()


def test_novel_views_see_all_sides_and_heights() -> None:
    views = Cameras().novel_views()
    assert len(views) == 16
    turns = (views.azimuth / (2 * math.pi)).sort().values
    assert torch.allclose(turns.diff(), torch.full((15,), 1 / 16), atol=1e-5)
    heights = views.elevation.rad2deg()
    assert -10 < heights.min() < 0 and 50 < heights.max() < 60
    (batch,) = list(Cameras().val_dataloader())
    assert torch.equal(batch.c2w, views.c2w)


def test_the_orbit_has_one_frame_a_batch() -> None:
    frames = list(Cameras(orbit_views=5, size=16).predict_dataloader())
    assert [len(frame) for frame in frames] == [1] * 5
    assert frames[0].azimuth.item() == 0 and frames[0].width == 16
    assert Cameras(size=16).ring(2, size=32).width == 32


BAD = [
    {"views_per_step": 0},
    {"size": 0},
    {"size": 100_000},
    {"orbit_views": 0},
    {"overhead_share": 1.5},
    {"fov_deg": 180.0},
    {"min_distance": 0.0},
    {"min_distance": 4.0},
    {"max_distance": math.inf},
    {"min_elevation_deg": -90.0},
    {"max_elevation_deg": 90.0},
    {"min_elevation_deg": 70.0},
    {"orbit_elevation_deg": math.nan},
]


@pytest.mark.parametrize("arguments", BAD, ids=str)
def test_numbers_out_of_range_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        Cameras(**arguments)
