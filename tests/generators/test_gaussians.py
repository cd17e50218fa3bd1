"""Gaussians as a generator: where they start, how they grow and die in place, and that resuming changes nothing."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.gaussians import optimizer_of, remembering_optimizer, save_run, train
from torch import Tensor

from asdkit import Fraction, GaussianRates, Gaussians, Initial, NeRF, Pixels, Ramp, Rounds, Voxels
from asdkit.formats.splat_files import write_splats
from asdkit.generators.from_checkpoint import generator_of
from asdkit.rendering.cameras import orbit, ring
from asdkit.rendering.rasterize import rasterize


def small(**arguments) -> Gaussians:
    """Sixty Gaussians with room for ninety."""
    return Gaussians(**{"count": 60, "capacity": 90, "initial": Initial(radius=0.6, opacity=0.5), **arguments})


def snapshot(gaussians: Gaussians) -> dict[str, Tensor]:
    return copy.deepcopy(gaussians.state_dict())


def moments(optimizer: torch.optim.Adam, parameter: Tensor) -> Tensor:
    return optimizer.state[parameter]["exp_avg"].abs() + optimizer.state[parameter]["exp_avg_sq"]


@pytest.mark.parametrize("mode", ["antialiased", "surfels"])
def test_render_is_rasterize_of_the_activated_values(mode: str) -> None:
    gaussians, views = small(sh_degree=1, mode=mode, background=0.25), ring(2, distance=2.5, size=24)
    for parameter in gaussians.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    means, quats, log_scales, logits, sh = gaussians.living()
    shown, behind = (means, quats, log_scales.exp(), logits.sigmoid(), sh), torch.rand(2, 3)
    for given, colours in ((None, torch.full((3,), 0.25)), (behind[0], behind[0]), (behind, behind)):
        raster = rasterize(*shown, views, colours, sh_degree=1, mode=mode)
        expected = raster.image.clamp(0, 1), raster.alpha, raster.depth
        for value, reference in zip(gaussians.render(views, given), expected, strict=True):
            assert torch.equal(value, reference.permute(0, 3, 1, 2))
    gaussians.sh.data += 9  # too bright, which is clamped but not stuck
    losses = [sign * gaussians.render(views).image.sum() for sign in (1, -1)]
    darker, brighter = (torch.autograd.grad(loss, gaussians.sh)[0] for loss in losses)
    assert (darker > 0).any() and brighter.abs().sum() < 0.5 * darker.abs().sum()


def test_the_ball_is_deterministic_and_as_asked() -> None:
    one, two, other = (Gaussians(initial=Initial(seed=seed)) for seed in (3, 3, 4))
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    assert not torch.equal(one.means, other.means)
    means = one.means[one.alive].detach()
    assert one.num_alive == 2000 and len(one.alive) == 4000
    assert 0.49 < means.norm(dim=1).max() <= 0.5
    assert means.norm(dim=1).pow(3).mean() == pytest.approx(0.5**3 / 2, rel=0.05)  # uniform in the volume
    torch.testing.assert_close(one.opacity_logits[one.alive].sigmoid(), torch.full((2000,), 0.1))
    distances = torch.cdist(means.double(), means.double()).sort(1).values[:, 1:4].mean(1)
    scales = one.log_scales[one.alive].exp().double()
    torch.testing.assert_close(scales, distances[:, None].expand(-1, 3), rtol=1e-2, atol=0)
    colors = 0.5 + 0.28209479 * one.sh[one.alive, 0]
    assert (colors - 0.5).abs().max() <= 0.051 and colors.std() > 0.02


def test_wrong_arguments_are_told_in_a_sentence() -> None:
    for arguments, message in (
        ({"count": 10, "capacity": 9}, "capacity"),
        ({"capacity": 10**8}, "capacity"),
        ({"sh_degree": 4}, "sh_degree"),
        ({"init": "no/such.ply"}, "there is no no/such.ply"),
        ({"init": ""}, "init is empty"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Gaussians(**arguments)
        assert "\n" not in str(caught.value)


def test_learning_rates_reach_the_optimiser_and_the_positions_decay() -> None:
    rates = GaussianRates(Ramp(0.01, 0.0001, 100, shape="exponential"), 0.5, 0.4, 0.3, 0.2)
    gaussians = small(rates=rates, rounds=Rounds(every=0))
    other = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([{"params": [other], "lr": 7.0}, *gaussians.parameter_groups()])
    by_parameter = {id(group["params"][0]): group["lr"] for group in optimizer.param_groups}
    expected = {"means": 0.01, "quats": 0.2, "log_scales": 0.3, "opacity_logits": 0.4, "sh": 0.5}
    assert {name: by_parameter[id(parameter)] for name, parameter in gaussians.named_parameters()} == expected
    for step, rate in [(49, 0.001), (0, 0.01 * 0.01**0.01), (98, 0.0001 * 100**0.01), (99, 0.0001), (5000, 0.0001)]:
        gaussians.after_step(optimizer, step, torch.Generator())
        assert optimizer.param_groups[1]["lr"] == pytest.approx(rate)
        assert [group["lr"] for group in optimizer.param_groups][0:6:2] == [7.0, 0.2, 0.4]
    gaussians.rates = replace(rates, factor=Ramp(1.0, 0.1, 100, begin=100))
    gaussians.after_step(optimizer, 149, torch.Generator())
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([7.0, *(0.55 * rate for rate in (0.0001, 0.2, 0.3, 0.4, 0.5))])


def test_dead_slots_have_no_influence_and_stay_as_they_are() -> None:
    gaussians, views = small(rounds=Rounds(every=0)), ring(2, distance=2.5, size=24)
    image = gaussians.render(views).image
    gaussians.opacity_logits.data[60:] = 9.0
    gaussians.means.data[61] = float("nan")
    assert torch.equal(gaussians.render(views).image, image)
    before = snapshot(gaussians)
    train(gaussians, optimizer_of(gaussians), torch.zeros_like(image), views, range(3))
    for name, parameter in gaussians.named_parameters():
        torch.testing.assert_close(parameter[60:], before[name][60:], rtol=0, atol=0, equal_nan=True)
        assert name == "quats" or not torch.equal(parameter[:60], before[name][:60])


@pytest.mark.parametrize("mode", ["classic", "surfels"])
def test_the_statistics_are_screen_gradients_of_visible_gaussians(mode: str) -> None:
    around, gaussians = ring(3, distance=2.5), small(mode=mode, density=Fraction())
    views = orbit(around.azimuth, around.elevation, around.distance, math.radians(40), 24, 32)
    gaussians.alive[5] = False
    gaussians.means.data[7] = torch.tensor([50.0, 0.0, 0.0])  # behind one camera and off the other screens
    slots = gaussians.alive.nonzero().squeeze(1)
    means, quats, log_scales, logits, sh = (value.detach()[slots] for value in gaussians.all_slots())
    shape = quats, log_scales.exp(), logits.sigmoid(), sh
    raster = rasterize(means.requires_grad_(), *shape, views, torch.ones(3), sh_degree=0, mode=mode)
    raster.means2d.retain_grad()
    raster.image.square().mean().backward()
    expected = (3 * (raster.means2d.grad * torch.tensor([16.0, 12.0])).norm(dim=-1)).sum(0)
    for repeat in (1, 2):
        gaussians.render(views).image.square().mean().backward()
        with torch.no_grad():
            gaussians.render(views)
        gaussians.after_step(optimizer_of(gaussians), 0, torch.Generator())
        torch.testing.assert_close(gaussians.grad_sum[slots], repeat * expected, rtol=1e-4, atol=1e-9)
        assert gaussians.grad_count[slots].tolist() == [0.0 if slot == 7 else 3.0 * repeat for slot in slots.tolist()]
    assert gaussians.grad_sum[5] == gaussians.grad_count[5] == 0 and (gaussians.grad_count[60:] == 0).all()


def test_growing_takes_the_largest_mean_gradients_and_zeroes_moments() -> None:
    gaussians = small(rounds=Rounds(every=10, first=10), density=Fraction(0.1, split_scale=0.1))
    gaussians.log_scales.data[:] = math.log(0.05)
    gaussians.log_scales.data[20, 1] = math.log(0.3)  # the only one to be split
    gaussians.grad_sum[:60], gaussians.grad_count[:60] = 1.0, 1.0
    gaussians.grad_sum[[3, 20, 21, 40, 50, 55]] = 5.0
    gaussians.grad_sum[30], gaussians.grad_count[30] = 100.0, 100.0  # often seen: its mean is small
    gaussians.alive[50] = False
    before, identities = snapshot(gaussians), [id(parameter) for parameter in gaussians.parameters()]
    optimizer = remembering_optimizer(gaussians)
    gaussians.after_step(optimizer, 9, torch.Generator().manual_seed(0))
    assert [id(parameter) for parameter in gaussians.parameters()] == identities
    born = (gaussians.alive & ~before["alive"]).nonzero().squeeze(1).tolist()
    assert gaussians.num_alive == 59 + 6 and born == [50, 60, 61, 62, 63, 64]  # 0.1 * 59 is 6
    for child, parent in zip(born, [3, 20, 21, 40, 55, 0], strict=True):
        assert torch.equal(gaussians.sh[child], before["sh"][parent])
        for parameter in gaussians.parameters():
            assert (moments(optimizer, parameter)[child] == 0).all()
            assert (moments(optimizer, parameter)[parent] > 0).all() != (parent == 20)
        if parent != 20:
            assert torch.equal(gaussians.means[child], before["means"][parent])
            both = 1 - (1 - gaussians.opacity_logits[[child, parent]].sigmoid()).prod()
            torch.testing.assert_close(both, before["opacity_logits"][parent].sigmoid())
    for half in (20, 60):
        torch.testing.assert_close(gaussians.log_scales[half], before["log_scales"][20] - math.log(1.6))
        offset = (gaussians.means[half] - before["means"][20]).abs()
        assert (offset < 4 * before["log_scales"][20].exp()).all() and (offset > 0).all()
        assert gaussians.opacity_logits[half] == before["opacity_logits"][20]
    assert (gaussians.means[20] != gaussians.means[60]).all()
    assert gaussians.grad_sum.sum() == gaussians.grad_count.sum() == 0


def test_pruning_clears_the_mask_and_zeroes_moments() -> None:
    gaussians = small(rounds=Rounds(every=1, first=1), density=Fraction(0.0, prune_opacity=0.1, prune_scale=0.5))
    gaussians.log_scales.data.clamp_(max=math.log(0.4))
    gaussians.opacity_logits.data[4] = torch.tensor(0.09).logit()
    gaussians.opacity_logits.data[5] = torch.tensor(0.11).logit()
    gaussians.log_scales.data[6, 2], gaussians.log_scales.data[7, 2] = math.log(0.51), math.log(0.49)
    optimizer, parameters = remembering_optimizer(gaussians), snapshot(gaussians)
    gaussians.after_step(optimizer, 0, torch.Generator())
    assert (~gaussians.alive[:60]).nonzero().squeeze(1).tolist() == [4, 6]
    for name, parameter in gaussians.named_parameters():
        assert torch.equal(parameter, parameters[name])
        assert (moments(optimizer, parameter)[[4, 6]] == 0).all() and (moments(optimizer, parameter)[[5, 7]] > 0).all()
    gaussians.opacity_logits.data[:] = -9.0
    gaussians.opacity_logits.data[33] = -8.0
    gaussians.opacity_logits.data[[4, 80]] = 5.0  # dead slots save nobody
    gaussians.after_step(optimizer, 1, torch.Generator())
    assert gaussians.alive.nonzero().squeeze(1).tolist() == [33]


def test_doubling_keeps_the_faintest_and_the_most_opaque_finite() -> None:
    gaussians = small(rounds=Rounds(every=1, first=1), density=Fraction(0.5, split_scale=9.0, prune_opacity=0.0))
    gaussians.opacity_logits.data[:30], gaussians.opacity_logits.data[30:60] = -200.0, 200.0
    gaussians.grad_sum[15:45], gaussians.grad_count[:60] = 1.0, 1.0
    gaussians.after_step(optimizer_of(gaussians), 0, torch.Generator())
    assert gaussians.num_alive == 90 and gaussians.opacity_logits.isfinite().all()


def test_capacity_is_never_exceeded_and_rounds_keep_to_their_time() -> None:
    views, counts = ring(2, distance=2.5, size=16), []
    gaussians = small(rounds=Rounds(every=2, first=4, last=8), density=Fraction(0.3, prune_opacity=0.0))
    optimizer = optimizer_of(gaussians)
    for step in range(12):
        train(gaussians, optimizer, torch.zeros(()), views, range(step, step + 1))
        counts.append(gaussians.num_alive)
        gaussians.alive[70:] &= step != 8  # room again, once the rounds are over
        assert (gaussians.grad_count.sum() > 0) == (step % 2 == 0)
    assert counts == [60, 60, 60, 78, 78, 90, 90, 90, 90, 70, 70, 70]


def test_several_ranks_decide_by_the_sum_of_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = small(rounds=Rounds(every=1, first=1), density=Fraction(1.0, split_scale=9.0))
    gaussians.grad_sum[8], gaussians.grad_count[:60] = 10.0, 2.0  # with this step: 10 / 3, and 12 / 11 for slot 11
    slot = torch.tensor([11])
    elsewhere = torch.stack([torch.zeros(90).index_fill(0, slot, 12.0), torch.ones(90).index_fill(0, slot, 9.0)])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(elsewhere))
    gaussians.after_step(optimizer_of(gaussians), 0, torch.Generator())
    assert gaussians.num_alive == 62 and torch.equal(gaussians.means[60:62], gaussians.means[[8, 11]])


@pytest.mark.parametrize("sh_degree", [0, 2])
def test_export_and_start_again_from_the_file(tmp_path: Path, sh_degree: int) -> None:
    gaussians, views, path = small(sh_degree=sh_degree), ring(2, distance=2.5, size=24), tmp_path / "a.ply"
    gaussians.sh.data += 0.3 * torch.randn_like(gaussians.sh)
    gaussians.alive[10:20], gaussians.means.data[15] = False, float("nan")  # dead slots are not written
    write_splats(path, gaussians.splats())
    again = Gaussians(init=str(path), count=1, capacity=64, sh_degree=sh_degree)
    assert again.num_alive == 50 and len(again.alive) == 64
    assert torch.equal(again.render(views).image, gaussians.render(views).image)
    lower, higher = (Gaussians(init=str(path), sh_degree=degree) for degree in (0, 3))
    assert torch.equal(lower.sh[:50, 0], gaussians.sh[gaussians.alive, 0])
    torch.testing.assert_close(higher.render(views).image, gaussians.render(views).image)
    with pytest.raises(ValueError, match="capacity must be at least 50"):
        Gaussians(init=str(path), count=1, capacity=49)


def test_start_from_a_point_cloud(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    head = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    head += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    path.write_text(head + "10 0 0 255 0 0\n14 0 0 0 255 0\n12 1 0 0 0 255\n12 -1 0 0 0 0\n12 0 1 255 255 255\n")
    gaussians = Gaussians(init=str(path), count=10, capacity=20, initial=Initial(radius=0.5))
    means = gaussians.means[gaussians.alive].detach()
    colors = (0.5 + 0.28209479 * gaussians.sh[gaussians.alive, 0]).detach()
    assert gaussians.num_alive == 5 and means.norm(dim=1).max().item() == pytest.approx(0.5)
    torch.testing.assert_close(means.amax(0) + means.amin(0), torch.zeros(3), atol=1e-6, rtol=0)
    red, green = colors[means[:, 0].argmin()], colors[means[:, 0].argmax()]
    torch.testing.assert_close(torch.stack([red, green]), torch.eye(3)[:2], atol=1e-5, rtol=0)
    assert Gaussians(init=str(path), count=3, capacity=20).num_alive == 3
    path.write_text(head.replace("vertex 5", "vertex 1") + "1 1 1 0 0 0\n")
    with pytest.raises(ValueError, match="no extent"):
        Gaussians(init=str(path))


def test_start_from_a_box() -> None:
    box = Gaussians(init="box", count=4000, capacity=4000, initial=Initial(radius=0.3))
    assert (box.means.abs() <= 0.3).all()
    torch.testing.assert_close(box.means.detach().std(0), torch.full((3,), 0.3 / math.sqrt(3)), rtol=0.04, atol=0)
    assert (box.means.abs().amax(1) > 0.27).float().mean() == pytest.approx(1 - 0.9**3, abs=0.03)


@pytest.mark.slow
def test_start_from_a_radiance_field_at_its_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asdkit.generators.gaussian_start._PIXELS", 48)  # for speed
    nerf = NeRF(Voxels((8, 16)), bound=0.8, blob=200.0, blob_radius=0.4, hidden=8)
    path = save_run(tmp_path / "nerf.ckpt", nerf)
    gaussians = Gaussians(init=str(path), count=3000, capacity=3000, initial=Initial(opacity=0.95))
    assert gaussians.num_alive == 3000
    radius = gaussians.means.detach().norm(dim=1)
    assert radius.mean() == pytest.approx(0.36, abs=0.04) and radius.max() < 0.45  # just under the blob's own radius
    assert (gaussians.means.detach() / radius[:, None]).mean(0).abs().max() < 0.15  # on all sides
    with torch.no_grad():
        colours = 0.28209479 * gaussians.sh[:, 0] + 0.5
        torch.testing.assert_close(colours, nerf.radiance(gaussians.means.detach())[1])
    full = NeRF(Voxels((4,)), bound=3.0, blob=500.0, blob_radius=9.0, hidden=8)  # fills its box to the corners
    again, means = (Gaussians(init=str(save_run(tmp_path / "full.ckpt", full)), count=3000).means for _ in range(2))
    assert torch.equal(means, again), "the points are drawn by init_seed"
    means = means[:3000].detach().abs() / 3
    assert means.amax(1).mean() == pytest.approx(1.0, abs=0.04)
    assert (means > 0.9).sum(1).float().mean() == pytest.approx(1.2, abs=0.1)  # as far out as evenly on a cube
    empty = save_run(tmp_path / "empty.ckpt", NeRF(Voxels((4,)), blob=-50.0, blob_radius=9.0))
    with pytest.raises(ValueError, match="nothing opaque"):
        Gaussians(init=str(empty))


def test_start_from_another_runs_gaussians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, views, run = small(init="box", sh_degree=1), ring(2, distance=2.5, size=24), tmp_path / "run"
    first.sh.data.normal_()
    (run / "checkpoints").mkdir(parents=True)
    path = save_run(run / "checkpoints" / "last.ckpt", first)
    for init in (run, path):
        again = Gaussians(init=str(init), count=1, capacity=70, sh_degree=1)
        assert again.num_alive == 60 and torch.equal(again.render(views).image, first.render(views).image)
    with pytest.raises(ValueError, match="capacity must be at least 60"):
        Gaussians(init=str(run), count=1, capacity=50)
    with pytest.raises(ValueError, match="no 3D object"):
        Gaussians(init=str(save_run(tmp_path / "b.ckpt", Pixels())))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(torch, "load", refuse)  # what may not be read is not broken
    with pytest.raises(PermissionError, match="not yours"):
        generator_of(path)


def test_gaussians_that_no_camera_sees_say_where_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A scene in metres, five hundred of them above; fitted, its median is the origin, nine tenths are in the ball."""
    scene = small(count=41, sh_degree=0).splats()
    means, log_scales = 40 * scene.means + [30, -20, 500], scene.log_scales + math.log(40)
    far = scene._replace(means=means.astype("f4"), log_scales=log_scales.astype("f4"))
    path, views = tmp_path / "scene.ply", ring(3, size=16)
    write_splats(path, far)
    lost = Gaussians(str(path))
    middle = ", ".join(f"{number:.3g}" for number in lost.means[lost.alive].median(0).values.tolist())
    for step in range(2):
        assert lost.render(views).alpha.max() == 0
        lost.after_step(optimizer_of(lost), step, torch.Generator())
    assert caplog.text.count(f"sees any of the 41 Gaussians: their middle is ({middle})") == 1
    assert "--model.generator.initial.fit=true" in caplog.text
    fitted = Gaussians(str(path), initial=Initial(radius=0.7, fit=True))
    assert fitted.render(views).alpha.amax((1, 2, 3)).min() > 0.05
    fitted.after_step(optimizer_of(fitted), 0, torch.Generator())
    assert len(caplog.records) == 1
    means, sizes = fitted.means[fitted.alive], fitted.log_scales[fitted.alive].exp()
    torch.testing.assert_close(means.median(0).values, torch.zeros(3), atol=1e-5, rtol=0)
    assert int((means.norm(dim=1) <= 0.7 + 1e-5).sum()) == 37  # nine tenths of the other forty, and the median's own
    ratio = (sizes / torch.from_numpy(far.log_scales).exp()).flatten()
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)), rtol=1e-4, atol=0)
    torch.testing.assert_close(means.std(0), ratio[0] * torch.from_numpy(far.means).float().std(0), rtol=1e-4, atol=0)


def test_a_round_that_leaves_almost_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    gaussians, draws = small(), torch.Generator().manual_seed(0)
    optimizer = optimizer_of(gaussians)
    Fraction(prune_scale=1e6).round(gaussians, optimizer, 1, draws)
    assert gaussians.num_alive == 60 and not caplog.records
    gaussians.opacity_logits.data[:3] = -9
    Fraction(prune_scale=1e-4).round(gaussians, optimizer, 1, draws)
    assert gaussians.num_alive == 1
    wide = "60 wider than its prune_scale, 0.0001; their middle is ("
    assert all(words in caplog.text for words in ("leaves 1 of 60", "3 are less opaque", wide, "initial.fit=true"))


@pytest.mark.parametrize(("kept", "told"), [(0, True), (1, True), (2, False)])
def test_bands_of_colour_that_are_dropped_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int, told: bool
) -> None:
    gaussians = small(sh_degree=3)
    gaussians.sh.data[:, 4:9] = 0.1  # degree 2; the third is zero, and nothing is lost with it
    write_splats(tmp_path / "a.ply", gaussians.splats())
    Gaussians(str(tmp_path / "a.ply"), sh_degree=kept)
    assert bool(caplog.records) == told and (f"above {kept} are dropped" in caplog.text) == told
