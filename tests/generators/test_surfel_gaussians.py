"""Surfels as a generator: how they start, grow, fit, and leave as files and solids."""

import math
from pathlib import Path

import pytest
import torch
from support.gaussians import optimizer_of, psnr, save_run, sphere_images, train
from support.scenes import FACING_X

from asdkit import MCMC, Fraction, GaussianPenalties, GaussianRates, Gaussians, Initial, NeRF, Rounds, Voxels
from asdkit.core.randomness import generator_for
from asdkit.formats.splat_files import read_splats, write_splats
from asdkit.formats.splats import activate
from asdkit.generators.from_checkpoint import generator_of
from asdkit.rendering.cameras import ring
from asdkit.rendering.projection import rotation_matrices
from asdkit.rendering.rasterize import rasterize


def surfel_ball(**arguments) -> Gaussians:
    return Gaussians(**{
        "count": 300, "capacity": 450, "initial": Initial(radius=0.6), "rounds": Rounds(every=20, first=20, last=80),
        "rates": GaussianRates(0.004, 0.04, 0.08, 0.02, 0.02), "mode": "surfels", **arguments,
    })  # fmt: skip


def test_surfels_start_thin_and_turned_at_random() -> None:
    ball, again, round_ = surfel_ball(), surfel_ball(), surfel_ball(mode="classic")
    torch.testing.assert_close(again.state_dict(), ball.state_dict(), rtol=0, atol=0)
    log_scales = ball.log_scales[ball.alive].detach()
    assert torch.equal(log_scales[:, 0], log_scales[:, 1])
    torch.testing.assert_close((log_scales[:, 0] - log_scales[:, 2]).exp(), torch.full((300,), 100.0))
    normals = rotation_matrices(ball.quats[ball.alive].detach())[:, :, 2]
    assert normals.mean(0).abs().max() < 0.12 and (normals.square().mean(0) - 1 / 3).abs().max() < 0.06
    assert not torch.equal(ball.quats, surfel_ball(initial=Initial(radius=0.6, seed=1)).quats)
    assert (round_.quats == torch.tensor([1.0, 0, 0, 0])).all()
    assert torch.equal(ball.means, round_.means) and torch.equal(ball.sh, round_.sh)
    assert torch.equal(round_.log_scales[:, 0], round_.log_scales[:, 2])


@pytest.mark.slow
def test_files_and_runs_bring_their_rotations_and_point_clouds_have_none(tmp_path: Path) -> None:
    first = Gaussians(count=60, capacity=60)
    first.quats.data.normal_()
    first.log_scales.data += torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    write_splats(tmp_path / "a.ply", first.splats())
    for init in (tmp_path / "a.ply", save_run(tmp_path / "a.ckpt", first)):
        discs = Gaussians(init=str(init), count=1, capacity=60, mode="surfels")
        assert torch.equal(discs.quats, first.quats) and torch.equal(discs.log_scales[:, :2], first.log_scales[:, :2])
        smaller = first.log_scales[:, :2].min(1).values
        torch.testing.assert_close(discs.log_scales[:, 2], smaller - math.log(100))
    again = generator_of(save_run(tmp_path / "c.ckpt", discs))
    views = ring(2, distance=2.5, size=24)
    assert torch.equal(again.render(views).image, discs.render(views).image)
    assert not torch.equal(again.render(views).image, first.render(views).image)
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (tmp_path / "b.ply").write_text(head + "0 0 0\n1 0 0\n0 1 1\n")
    field = save_run(tmp_path / "b.ckpt", NeRF(Voxels((4,)), bound=0.8, blob=200.0, blob_radius=0.4))
    for init in (tmp_path / "b.ply", field):
        cloud = Gaussians(init=str(init), count=3, capacity=3, mode="surfels")
        assert (cloud.quats.detach().abs() > 1e-3).all() and cloud.quats.std() > 0.3


@pytest.mark.slow
def test_surfels_become_a_sphere() -> None:
    views, ball = ring(4, distance=2.5, size=20), surfel_ball(count=150, capacity=225)
    target = sphere_images(views)
    start = psnr(ball.render(views).image, target)
    train(ball, optimizer_of(ball), target, views, range(50))
    held_out = ring(3, distance=2.5, size=20, offset_deg=40.0)
    assert psnr(ball.render(views).image, target) > start + 10
    assert psnr(ball.render(held_out).image, sphere_images(held_out)) > start + 6
    assert 150 < ball.num_alive <= 225


def test_other_viewers_show_the_file_of_surfels_alike(tmp_path: Path) -> None:
    ball, views = surfel_ball(initial=Initial(radius=0.6, opacity=0.6)), ring(2, distance=2.5, size=96)
    write_splats(tmp_path / "splats.ply", ball.splats())
    thin = activate(read_splats(tmp_path / "splats.ply").tensors())
    with torch.no_grad():
        image = rasterize(*thin, views, torch.ones(3), sh_degree=0).image.permute(0, 3, 1, 2)
        assert psnr(image, ball.render(views).image) > 36
        ball.opacity_logits += 2
        assert psnr(image, ball.render(views).image) < 30  # what would be no likeness


@pytest.mark.parametrize("density", [Fraction(0.3, split_scale=0.05), MCMC(growth=0.3)])
def test_the_third_scale_only_changes_with_the_others(density: Fraction | MCMC) -> None:
    ball = surfel_ball(rounds=Rounds(every=0), density=density, penalties=GaussianPenalties(scale=0.1))
    views = ring(1, distance=2.5, size=16)
    before = ball.log_scales.detach().clone()
    train(ball, optimizer_of(ball), torch.ones(1), views, range(3))
    assert torch.equal(ball.log_scales[:, 2], before[:, 2]) and not torch.equal(ball.log_scales[:, 0], before[:, 0])
    ball.grad_sum[:], ball.grad_count[:] = torch.linspace(1, 2, 450), 1.0
    before = ball.log_scales.detach().clone()
    density.round(ball, optimizer_of(ball), 1, generator_for(0, 0, "densify"))
    changed = (ball.log_scales[:300, 0] != before[:300, 0]).nonzero().squeeze(1)
    shrunk = ball.log_scales[changed].detach() - before[changed]
    assert len(changed) > 10
    torch.testing.assert_close(shrunk, shrunk[:, :1].expand(-1, 3))


def test_swelling_is_of_the_disc() -> None:
    ball = surfel_ball(count=2, capacity=2, penalties=GaussianPenalties(scale=3.0))
    ball.log_scales.data = torch.tensor([[0.1, 0.3, 5.0], [0.2, 0.6, 7.0]]).log()
    value = ball.regularizer()
    assert value.item() == pytest.approx(3 * (0.1 + 0.3 + 0.2 + 0.6) / 4)
    value.backward()
    assert (ball.log_scales.grad[:, 2] == 0).all() and (ball.log_scales.grad[:, :2] > 0).all()


def test_the_solid_of_a_disc_is_as_opaque_as_the_disc_and_as_thick_as_wide() -> None:
    """As thick as the mean of the logarithms, by the density one deviation in front of it."""
    disc, along = surfel_ball(count=1, capacity=1), torch.linspace(-0.5, 0.5, 2001)
    disc.means.data[:], disc.quats.data[0], disc.opacity_logits.data[:] = 0.0, torch.tensor(FACING_X), 1.0
    for wide, place in ((0.1, 1200), (0.4, 1400)):  # 0.1 and 0.2 in front
        disc.log_scales.data[0] = torch.tensor([0.1, wide, 0.001]).log()
        density, _ = disc.volume().radiance(torch.stack([along, 0 * along, 0 * along], 1))
        assert density[place] / density[1000] == pytest.approx(math.exp(-0.5), abs=0.01)
        if wide == 0.1:
            depth = float(density.sum() * (along[1] - along[0]))
            assert 1 - math.exp(-depth) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)
