"""Cameras: stratified, stateless, within their ranges; and views to judge by that training does not take."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from support.gaussians import save_run
from torch import Tensor

import asdkit
from asdkit import Cameras, Ramp
from asdkit.core.randomness import generator_for
from asdkit.formats.splat_files import write_splats
from asdkit.rendering.cameras import Batch, Views


def sampled(cameras: Cameras, step: int, seed: int = 0) -> Views:
    return cameras.sample(generator_for(seed, step, "views"), step)


def stream_from(cameras: Cameras, step: int, rank: int = 0, seed: int = 3) -> Iterator[Batch]:
    module = SimpleNamespace(seed=seed)
    cameras.trainer = SimpleNamespace(lightning_module=module, global_step=step, global_rank=rank)
    return iter(cameras.train_dataloader())


def test_prompts_share_the_views_of_a_step() -> None:
    texts = ["a", "b", "c"]
    cameras = Cameras(views_per_step=4, prompts=asdkit.PromptList(texts, per_step=2))
    batch, plain = (next(stream_from(data, 5, rank=1)) for data in (cameras, Cameras(views_per_step=4)))
    first, second = (texts[i] for i in torch.randint(3, (2,), generator=generator_for(3, 5, "prompts", 1)))
    assert batch.prompts == [first, second, first, second]
    assert all(torch.equal(value, plain.views.tensors[name]) for name, value in batch.views.tensors.items())


def test_azimuths_are_uniform_and_elevations_as_asked() -> None:
    """Each view has a sector of its own: two neighbours are never more than two sectors apart."""
    cameras = Cameras(views_per_step=4, overhead=asdkit.Overhead(0.25))
    batches = [sampled(cameras, step) for step in range(2000)]
    for views in batches[:200]:
        turns = views.azimuth.sort().values / (2 * math.pi)
        gaps = torch.cat([turns.diff(), turns[:1] + 1 - turns[-1:]])
        assert len(views) == 4 and bool((gaps <= 0.5 + 1e-5).all()) and bool(((turns >= 0) & (turns < 1)).all())
    azimuth, elevation, distance = (
        torch.cat([views.tensors[name] for views in batches]) for name in ("azimuth", "elevation", "distance")
    )
    sectors = (azimuth / (2 * math.pi) * 8).long().bincount(minlength=8) / len(azimuth)
    assert torch.allclose(sectors, torch.full((8,), 1 / 8), atol=0.015)
    assert (elevation.rad2deg() > 60).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert -10 <= elevation.rad2deg().min() < -8 and 83 < elevation.rad2deg().max() <= 85.001
    assert torch.corrcoef(torch.stack([azimuth, elevation, distance])).triu(1).abs().max() < 0.04
    assert 3.2 <= distance.min() < 3.21 and 3.59 < distance.max() <= 3.6


def test_the_views_of_a_step_depend_on_seed_step_and_rank_alone() -> None:
    def first(step: int, **place: int) -> Tensor:
        return next(stream_from(Cameras(size=16), step, **place)).views.azimuth

    stream = [batch.views.azimuth for batch in islice(stream_from(Cameras(size=16), 0), 5)]
    assert torch.equal(first(3), stream[3])
    assert not any(torch.equal(other, stream[3]) for other in (first(4), first(3, rank=1), first(3, seed=4)))


def test_novel_views_see_all_sides_and_heights_and_the_orbit_has_one_frame_a_batch() -> None:
    views = Cameras().novel_views()
    assert len(views) == 16
    turns = (views.azimuth / (2 * math.pi)).sort().values
    assert torch.allclose(turns.diff(), torch.full((15,), 1 / 16), atol=1e-5)
    assert float(views.azimuth[0].rad2deg()) == pytest.approx(360 * 0.37 / 16)  # figures of other runs are from there
    heights = views.elevation.rad2deg()
    assert -10 < heights.min() < 0 and 50 < heights.max() < 60
    (batch,) = list(Cameras().val_dataloader())
    assert torch.equal(batch.views.c2w, views.c2w)
    frames = [batch.views for batch in Cameras(orbit=asdkit.Orbit(views=5), size=16).predict_dataloader()]
    assert [len(frame) for frame in frames] == [1] * 5
    assert frames[0].azimuth.item() == 0 and frames[0].width == 16
    around_it = Cameras(size=16, orbit=asdkit.Orbit(elevation_deg=35.0)).ring(2, size=32)
    assert around_it.width == 32 and around_it.elevation.rad2deg().tolist() == pytest.approx([35.0, 35.0])


def test_numbers_move_with_the_iterations_and_pictures_are_of_their_end() -> None:
    cameras = Cameras(
        views_per_step=64, size=Ramp(32, 64, 10), min_elevation_deg=Ramp(10, -10, 10), max_elevation_deg=20.0,
        overhead=asdkit.Overhead(Ramp(0.0, 1.0, 0, begin=20)), azimuth_range_deg=Ramp(90, 360, 10),
        fov_deg=Ramp(60, 40, 10), distance=asdkit.Distance(Ramp(2.0, 3.2, 10), Ramp(2.2, 3.6, 10)),
    )  # fmt: skip
    facts = {step: sampled(cameras, step) for step in (0, 5, 10, 20)}
    for step, views in facts.items():
        fov_deg = 2 * math.degrees(math.atan(views.height / 2 / float(views.K[0, 1, 1])))
        assert fov_deg == pytest.approx({0: 60, 5: 50}.get(step, 40), abs=1e-3)
    assert [facts[step].width for step in (0, 5, 10)] == [32, 48, 64]
    assert sampled(Cameras(size=Ramp(32, 64, 16)), 5).height == 40  # 42, in steps of 8
    assert sampled(Cameras(size=50), 0).height == 50  # one that stands still may be any
    assert all(((views.azimuth >= 0) & (views.azimuth < 2 * math.pi)).all() for views in facts.values())
    around = {step: ((views.azimuth.rad2deg() + 180) % 360 - 180).abs().max() for step, views in facts.items()}
    assert 40 < around[0] <= 45.001 < 100 < around[5] <= 112.51 < 170 < around[10]
    low = {step: views.elevation.rad2deg().min() for step, views in facts.items()}
    assert 9.999 <= low[0] < 11 and -0.001 <= low[5] < 2 and -10.001 <= low[10] < -7 and low[20] > 59.9
    assert facts[0].distance.min() >= 2.0 and facts[0].distance.max() <= 2.2 < facts[5].distance.min() < 2.7
    novel, around_it = cameras.novel_views(), cameras.ring(3)
    assert novel.height == around_it.width == 64
    assert [float(views.distance[0]) for views in (novel, around_it)] == pytest.approx([3.4, 3.4])
    assert torch.equal(novel.K[0], facts[10].K[0])
    stream = stream_from(cameras, 5, seed=0)
    assert torch.equal(next(stream).views.c2w, facts[5].c2w)
    assert torch.equal(next(stream).views.c2w, sampled(cameras, 6).c2w)


def test_an_asset_and_pictures_stand_before_the_steps_backdrop(tmp_path: Path) -> None:
    """The asset is seen from the step's cameras; weights may move; a checkpoint has all of it, without the files."""
    gaussians = asdkit.Gaussians(count=40, capacity=40, initial=asdkit.Initial(opacity=0.8))
    gaussians.sh.data.normal_()
    write_splats(tmp_path / "a.ply", gaussians.splats())
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    picture = partial(asdkit.ReferenceView, str(tmp_path / "a.png"))
    moving = picture(reconstruction=asdkit.Reconstruction(Ramp(10.0, 20.0, 10), 3.0))
    cameras, restored = Cameras(size=16, asset=str(tmp_path / "a.ply"), references=moving), Cameras(size=16)
    restored.load_state_dict(cameras.state_dict())
    how = {"rendering": asdkit.Rendering(random_background=0.5), "seed": 3}
    module = asdkit.Distillation("y", asdkit.GaussianPrior({"y": 1.0}), gaussians, asdkit.SDS(), **how)
    for data in (cameras, restored):
        data.trainer = module.trainer = SimpleNamespace(lightning_module=module, global_step=4, global_rank=0)
        greys = set()
        for step, batch in zip(range(4, 12), data.train_dataloader(), strict=False):
            assert torch.equal(batch.views.c2w, sampled(data, step, seed=3).c2w)
            with torch.no_grad():
                assert torch.equal(batch.source, gaussians.render(batch.views, module.backdrop(step)).image)
            assert tuple(batch.references.weights) == (min(10.0 + step, 20.0), 3.0)
            assert torch.equal(batch.references.image[0, :, 3, 3], module.backdrop(step))
            greys.add((float(batch.source[0, 0, 0, 0]), float(batch.references.behind[0, 0])))
            assert torch.is_grad_enabled() and not batch.source.requires_grad
        assert all(len(set(each)) > 2 for each in zip(*greys, strict=True))
    with pytest.raises(ValueError, match="There is no nowhere.ply"):
        Cameras(asset="nowhere.ply")
    with pytest.raises(ValueError, match=r"data.asset must be a 3D object, but .* is made of Pixels"):
        Cameras(asset=str(save_run(tmp_path / "b.ckpt", asdkit.Pixels())))
    with pytest.raises(ValueError, match="data.references show one object, and data.prompts name several"):
        Cameras(references=picture(), prompts=asdkit.PromptList(["a"]))


CROSSED = [{"distance": asdkit.Distance(3.2, Ramp(3.0, 3.6, 10))}, {"distance": asdkit.Distance(min=4.0)}]
CROSSED += [{"min_elevation_deg": 70.0}, {"overhead": asdkit.Overhead(min_elevation_deg=86.0)}]


@pytest.mark.parametrize("arguments", CROSSED)
def test_a_minimum_above_its_maximum_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="has its minimum above its maximum"):
        Cameras(**arguments)
