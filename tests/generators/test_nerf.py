"""Volume rendering against closed forms and slow loops, encodings by hand, and NeRF as a whole."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from support.gaussians import psnr, sphere_images
from torch import Tensor
from torch.nn.functional import normalize

from asdkit.core.ramps import Ramp
from asdkit.core.randomness import generator_for
from asdkit.distillation import Distillation
from asdkit.generators import nerf as penalties
from asdkit.generators.nerf import NeRF, NeRFPenalties, NeRFRates
from asdkit.generators.nerf_encodings import Encoding, HashGrid, TriPlane, Voxels
from asdkit.lab import GaussianPrior
from asdkit.methods import SDS
from asdkit.rendering.cameras import orbit, ring
from asdkit.rendering.rays import Rays, march, rays_of, refined, stratified
from asdkit.rendering.settings import Rendering


def beam(offsets: Tensor, slope: float = 1.0) -> Rays:
    """Rays along x at these distances from the axis, from x = -1 to 1, directions of length `slope`."""
    zero = torch.zeros_like(offsets)
    origins = torch.stack([zero - 2, offsets, zero], dim=1)
    directions = torch.tensor([slope, 0.0, 0.0]).expand(len(offsets), 3)
    return Rays(origins, directions, (zero + 1) / slope, (zero + 3) / slope)


def test_the_quadrature_is_a_slow_loop() -> None:
    rays = beam(torch.rand(5), 1.5)
    z = stratified(rays, 7, torch.rand(5, 7))
    sigma, colour = 3 * torch.rand(5, 7), torch.rand(5, 7, 3)
    seen = march(lambda points: (sigma.flatten(), colour.flatten(0, 1)), rays, z)
    for r in range(5):
        through, weights = 1.0, torch.zeros(7)
        for s in range(7):
            start = rays.near[r] if s == 0 else (z[r, s - 1] + z[r, s]) / 2
            stop = rays.far[r] if s == 6 else (z[r, s] + z[r, s + 1]) / 2
            absorbed = 1 - math.exp(-sigma[r, s] * (stop - start) * 1.5)
            weights[s] = through * absorbed
            through *= 1 - absorbed
        expected = weights @ colour[r], torch.tensor(1 - through), weights @ z[r], weights
        for got, value in zip(seen, expected, strict=False):
            torch.testing.assert_close(got[r], value, atol=1e-5, rtol=0)


def test_what_is_not_occupied_is_not_asked() -> None:
    rays, asked = beam(torch.tensor([0.0, 0.9])), []

    def ball(points: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        return 1.7 * (points.norm(dim=1) < 0.6), points.abs()

    z = stratified(rays, 64)
    free, skipped = march(ball, rays, z), march(ball, rays, z, lambda points: points.norm(dim=1) < 0.7)
    assert asked[0] == 128 and asked[1] < 60
    assert all(torch.equal(*pair) for pair in zip(free, skipped, strict=True))
    nothing = march(ball, rays, z, lambda points: points[:, 0] > 9)
    assert len(asked) == 2 and nothing.alpha.tolist() == [0, 0]


def test_a_pixel_s_ray_passes_through_what_projects_to_its_centre() -> None:
    """By the camera's own matrices; the distance along a ray is the camera's z."""
    views = orbit(torch.tensor([0.3, 2.0]), torch.tensor([0.4, -0.2]), torch.tensor([3.0, 3.5]), 0.7, 6, 5)
    rays = rays_of(views, 1.0)
    points = (rays.origins + 2.5 * rays.directions).view(2, 30, 3)
    local = points @ views.w2c[:, :3, :3].mT + views.w2c[:, None, :3, 3]
    pixels = local @ views.K.mT
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    centres = torch.stack([column, row], dim=-1).view(1, 30, 2).expand(2, 30, 2) + 0.5
    torch.testing.assert_close(local[..., 2], torch.full((2, 30), 2.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], centres, atol=1e-4, rtol=0)


def test_rays_are_cut_to_the_box() -> None:
    """Along an axis, on the box's own face and on its edge, too, where there is no 0 / 0; and from inside."""
    rays = rays_of(ring(3, size=16), 0.7)
    hits = rays.far > rays.near
    assert 0 < hits.sum() < len(hits)
    for distance in (rays.near, rays.far):
        ends = (rays.origins + distance[:, None] * rays.directions)[hits]
        torch.testing.assert_close(ends.abs().amax(1), torch.full((len(ends),), 0.7), atol=1e-4, rtol=0)
    along = torch.linspace(0, 8, 400)[None, :, None]
    inside = ((rays.origins[:, None] + along * rays.directions[:, None]).abs() < 0.69).all(-1).any(1)
    assert not (inside & ~hits).any()
    straight, inside = (orbit(torch.zeros(1), torch.zeros(1), torch.tensor([far]), 0.5, 3, 3) for far in (3.0, 0.5))
    rays, near = rays_of(straight, 1.0), rays_of(inside, 1.0)
    assert torch.isfinite(torch.cat(rays[2:])).all()
    assert (rays.near[4].item(), rays.far[4].item()) == pytest.approx((2.0, 4.0))
    assert near.near.tolist() == [0.0] * 9 and near.far[4].item() == pytest.approx(1.5)
    straight.c2w[:, 1, 3] = 1.0  # the camera is level with the face y = 1, and looks along it
    assert torch.isfinite(torch.cat(rays_of(straight, 1.0)[2:])).all()


def test_samples_lie_in_their_parts() -> None:
    rays = beam(torch.zeros(3), 2.0)
    assert torch.allclose(stratified(rays, 4)[0], torch.tensor([0.625, 0.875, 1.125, 1.375]))
    z = stratified(rays, 50, torch.rand(3, 50))
    edges = torch.linspace(0.5, 1.5, 51)
    assert (z >= edges[:-1]).all() and (z <= edges[1:]).all()


def test_importance_samples_go_where_the_weight_is() -> None:
    rays = beam(torch.zeros(2))
    z, weights = stratified(rays, 10), torch.zeros(2, 10)
    weights[0, 3], weights[1, 2], weights[1, 8] = 1.0, 0.25, 0.75
    all_of_them = refined(rays, z, weights, 200)
    assert all_of_them.shape == (2, 210) and (all_of_them.diff(dim=1) >= 0).all()
    edges = torch.linspace(1, 3, 11)
    for ray, part, share in ((0, 3, 1.0), (1, 2, 0.25), (1, 8, 0.75)):
        count = ((all_of_them[ray] > edges[part]) & (all_of_them[ray] < edges[part + 1])).sum().item() - 1
        assert count == pytest.approx(200 * share, abs=4)
    inside = all_of_them[0][(all_of_them[0] > edges[3]) & (all_of_them[0] < edges[4])]
    torch.testing.assert_close(inside, torch.linspace(1.6, 1.8, len(inside)), atol=0.002, rtol=0)  # evenly


def interpolated(grid: Tensor, places: Tensor) -> Tensor:
    """[N,F] of a grid [F,Z,Y,X] or [F,Y,X] at places in grid units, x first, by scipy."""
    rows = places.flip(1).T.numpy()
    features = [map_coordinates(values.numpy(), rows, order=1, mode="nearest") for values in grid.detach()]
    return torch.from_numpy(np.stack(features, axis=1))


def test_voxels_are_trilinear_and_a_triplane_is_the_product_of_its_planes() -> None:
    points = torch.tensor([[-1.0, -1.0, -1.0], [0.3, -0.6, 0.9], [0.2, -0.5, 0.7], [1.0, 1.0, 1.0]])
    voxels, triplane = Voxels((3, 5), 2), TriPlane((4,), 3)
    expected = [
        interpolated(grid[0], (points + 1) / 2 * (size - 1)) for grid, size in zip(voxels.grids, (3, 5), strict=True)
    ]
    torch.testing.assert_close(voxels(points), torch.cat(expected, dim=1), atol=1e-6, rtol=0)
    axes, places = ([0, 1], [0, 2], [1, 2]), (points + 1) / 2 * 3
    planes = zip(triplane.grids[0], axes, strict=True)
    product = math.prod(interpolated(plane, places[:, pair]) for plane, pair in planes)
    torch.testing.assert_close(triplane(points), product, atol=1e-5, rtol=0)


def test_a_hash_grid_is_trilinear_between_its_table_s_entries() -> None:
    encoding = HashGrid(levels=2, coarsest=3, finest=40, features=2, log2_size=10)
    assert encoding.cells == [3, 40] and encoding.width == 4
    point = torch.tensor([[0.31, -0.52, 0.77]])
    expected = []
    for level, cells in enumerate(encoding.cells):
        place = (point[0] + 1) / 2 * cells
        low, total = place.floor().long(), torch.zeros(2)
        for corner in range(8):
            step = [corner & 1, corner >> 1 & 1, corner >> 2 & 1]
            x, y, z = (int(low[i]) + step[i] for i in range(3))
            weight = math.prod(place[i] - low[i] if step[i] else 1 - place[i] + low[i] for i in range(3))
            dense = (x * 4 + y) * 4 + z
            slot = dense if level == 0 else (x ^ y * 2654435761 ^ z * 805459861) % 1024
            total = total + weight * encoding.table.detach()[level, slot]
        expected.append(total)
    assert torch.allclose(encoding(point)[0], torch.cat(expected), atol=1e-6)
    corners = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    assert torch.isfinite(encoding(corners)).all()


def type_name(part: object) -> str:
    return type(part).__name__


@pytest.mark.parametrize("encoding", [Voxels((2, 3), 2), TriPlane((3,), 2), HashGrid(2, 1, 3, 2, 4)], ids=type_name)
@pytest.mark.slow
def test_gradients_are_finite_differences(encoding: Encoding) -> None:
    """Of a whole render with respect to the encoding and the network."""
    nerf = NeRF(copy.deepcopy(encoding), hidden=3, samples=4, occupancy_every=0).double()
    nerf.network[0].bias.data = torch.tensor([0.3, 0.2, -0.3]).double()  # away from the kink of the ReLU
    view = ring(1, size=3)
    views = replace(view, **{name: value.double() for name, value in view.tensors.items()})
    names = [name for name, _ in nerf.named_parameters()]

    def image(*values: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(nerf, dict(zip(names, values, strict=True)), (views,))

    nerf.forward = lambda views: nerf.render(views)[:3]
    assert torch.autograd.gradcheck(image, tuple(nerf.parameters()), atol=1e-6)


def train(nerf: NeRF, optimizer: torch.optim.Adam, steps: range) -> None:
    views = ring(4, size=12)
    target = sphere_images(views)
    for step in steps:
        optimizer.zero_grad()
        loss = (nerf.render(views).image - target).square().sum() / len(views) + nerf.regularizer()
        loss.backward()
        optimizer.step()
        nerf.after_step(optimizer, step, generator_for(0, step, "density"))


@pytest.mark.parametrize("encoding", [Voxels((8, 16)), TriPlane((16, 32)), HashGrid(4, 8, 32)], ids=type_name)
@pytest.mark.slow
def test_a_sphere_is_learned_from_its_pictures(encoding: Encoding) -> None:
    nerf, held_out = NeRF(encoding, importance=8, penalties=NeRFPenalties(opacity=0.0)), ring(5, 40.0, size=16)
    train(nerf, torch.optim.Adam(nerf.parameter_groups()), range(30))
    with torch.no_grad():
        render = nerf.render(held_out)
    assert psnr(render.image, sphere_images(held_out)) > 17
    assert (render.depth[:, 0, 8, 8] - (3.4 - 0.55)).abs().max() < 0.45


def test_going_on_from_a_checkpoint_changes_nothing() -> None:
    def fresh() -> tuple[NeRF, torch.optim.Adam]:
        rates = NeRFRates(encoding=Ramp(0.02, 0.01, 8), factor=Ramp(1.0, 0.5, 4, begin=4))
        penalties = NeRFPenalties(entropy=0.03)
        nerf = NeRF(Voxels((4, 8)), occupancy_every=3, importance=4, rates=rates, penalties=penalties)
        return nerf, torch.optim.Adam(nerf.parameter_groups())

    (whole, optimizer), (second, again) = fresh(), fresh()
    train(whole, optimizer, range(4))
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(whole, optimizer, range(4, 8))
    train(second, again, range(4, 8))
    states = whole.state_dict().values(), second.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert again.param_groups[0]["lr"] == pytest.approx(0.005) and again.param_groups[1]["lr"] == 0.001


def test_iterations_jitter_differently_and_looking_does_not() -> None:
    nerf, views = NeRF(Voxels((4,)), samples=6, occupancy_every=0), ring(1, size=8)
    first = nerf.render(views).image
    assert torch.equal(nerf.render(views).image, first)
    nerf._step += 1
    assert not torch.equal(nerf.render(views).image, first)
    with torch.no_grad():
        assert torch.equal(nerf.render(views).image, nerf.render(views).image)


def test_what_is_only_looked_at_is_nearer_to_the_exact_picture() -> None:
    """A step's few samples show rings, in truth there are none: the error falls with the distance of the samples."""
    nerf, views = NeRF(Voxels((4,)), samples=8, blob=40.0, occupancy_every=0), ring(1, size=16)
    rays, black = rays_of(views, nerf.bound), torch.zeros(3)
    with torch.no_grad():
        exact = march(nerf.radiance, rays, stratified(rays, 1024)).colour.T.view(1, 3, 16, 16)
        coarse = march(nerf.radiance, rays, stratified(rays, 8)).colour.T.view(1, 3, 16, 16)
        error = (nerf.render(views, black).image - exact).square().mean().sqrt()
    assert error < 0.3 * (coarse - exact).square().mean().sqrt()


def test_the_regularizers_are_their_formulas() -> None:
    nerf = NeRF(Voxels((4,)), penalties=NeRFPenalties(opacity=2.0, entropy=0.5, z_variance=3.0), occupancy_every=0)
    assert nerf.regularizer() == NeRF(Voxels((4,))).regularizer() == 0
    nerf.render(ring(2, size=6))
    seen, _, views = nerf._marched
    assert views == 2
    seen.alpha.data[:2] = torch.tensor([0.0, 1.0])  # where opacity stops pulling
    total = 0.0
    for alpha, weights, z in zip(seen.alpha.tolist(), seen.weights.tolist(), seen.z.tolist(), strict=True):
        alpha = min(max(alpha, 1e-4), 1 - 1e-4)
        mean = sum(w * d for w, d in zip(weights, z, strict=True)) / alpha
        variance = sum(w * (d - mean) ** 2 for w, d in zip(weights, z, strict=True)) / alpha
        entropy = -(alpha * math.log(alpha) + (1 - alpha) * math.log(1 - alpha))
        total += 2 * alpha + 0.5 * entropy + 3 * variance
    assert nerf.regularizer().item() == pytest.approx(total / 2, rel=1e-4)


def test_orientation_weighs_what_faces_away() -> None:
    def density(points: Tensor) -> Tensor:  # a shell: its outer side faces the camera, its inner side does not
        return 4 * (-((points.norm(dim=1) - 0.5) / 0.1).square()).exp()

    rays = rays_of(ring(2, 30.0, size=5), 1.0)
    z = stratified(rays, 24)
    seen = march(lambda points: (density(points), torch.zeros_like(points)), rays, z)
    points = (rays.origins[:, None] + z[..., None] * rays.directions[:, None]).requires_grad_()
    (slopes,) = torch.autograd.grad(density(points.flatten(0, 1)).sum(), points)
    facing = (normalize(-slopes, dim=-1) * normalize(rays.directions, dim=-1)[:, None]).sum(-1).clamp(min=0)
    expected = (seen.weights * (seen.weights > 1e-3) * facing.square()).sum(1)
    got = penalties.orientation(seen, rays, density, 1 / 64)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)
    assert got.max() > 0.02
    assert (penalties.normals(lambda some: torch.ones(len(some)), points[0], 0.01) == 0).all()
    longer = rays._replace(directions=3 * rays.directions)
    torch.testing.assert_close(penalties.orientation(seen._replace(z=seen.z / 3), longer, density, 1 / 64), got)
    nerf = NeRF(Voxels((4,)), penalties=NeRFPenalties(orientation=3.0, opacity=0.0), occupancy_every=0)
    nerf.render(ring(2, size=6))
    seen, rays, _ = nerf._marched
    expected = 3 * penalties.orientation(seen, rays, lambda points: nerf.radiance(points)[0], 1 / 64).sum() / 2
    torch.testing.assert_close(nerf.regularizer(), expected)
    nerf.regularizer().backward()
    assert all(parameter.grad.isfinite().all() for parameter in nerf.parameters() if parameter.requires_grad)


def test_the_start_is_a_blob_over_the_background() -> None:
    nerf = NeRF(background=0.25)
    with torch.no_grad():
        render = nerf.render(ring(1, size=16))
    assert render.alpha[0, 0, 8, 8] > 0.9 > 0.1 > render.alpha[0, 0, 0, 0]
    assert torch.allclose(render.image[0, :, 0, 0], torch.full((3,), 0.25), atol=0.03)


def test_what_cannot_be() -> None:
    for make, message in (
        (lambda: NeRF(Voxels((4,))).render(None), "NeRF needs cameras; take --data=Cameras"),
        (lambda: Voxels((1,)), "resolutions must be within .2, 512."),
        (lambda: TriPlane(()), "TriPlane needs a resolution"),
        (lambda: HashGrid(finest=4), "finest must be at least its coarsest"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_field_and_cells_are_stretched_over_the_box() -> None:
    """Features are read at points / half: the same numbers in a box of another size."""
    small, large = (NeRF(Voxels((4,)), bound=half, blob=0.0) for half in (1.0, 3.0))
    points = torch.rand(4000, 3) * 2 - 1
    both = small.radiance(points), large.radiance(3 * points)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*both, strict=True))
    nerf, radius = NeRF(Voxels((4,)), bound=3.0, blob=200.0, blob_radius=1.0), 3 * points.norm(dim=1)
    occupied = nerf._occupied(3 * points)
    assert nerf.volume().half == 3 and occupied[radius < 0.7].all() and not occupied[radius > 1.4].any()


def test_further_samples_go_to_the_surface() -> None:
    nerf, views = NeRF(Voxels((4,)), samples=16, importance=48, blob=200.0, blob_radius=0.4), ring(1, 0.0, size=1)
    nerf.render(views)
    seen = nerf._marched[0]
    assert seen.z.shape == (1, 64)
    assert ((seen.z - (3.4 - 0.4)).abs() < 0.15).sum() > 30  # evenly they would be a tenth, 6 or 7


def test_depth_is_a_mean_over_what_is_seen_however_thin() -> None:
    nerf = NeRF(Voxels((4,)), blob=-2.0, blob_radius=1e6, occupancy_every=0)
    with torch.no_grad():
        render = nerf.render(ring(1, 0.0, size=1))
    assert 0.05 < render.alpha.item() < 0.5 and render.depth.item() == pytest.approx(3.4, abs=0.15)


def test_a_look_from_elsewhere_does_not_move_the_regularizer() -> None:
    nerf = NeRF(Voxels((4,)), penalties=NeRFPenalties(opacity=Ramp(0.1, 0.4, 4)), occupancy_every=0)
    nerf.render(ring(2, size=6))
    expected = nerf.regularizer().detach().clone()
    with torch.no_grad():
        nerf.render(ring(1, 50.0, size=9))
    assert torch.equal(nerf.regularizer(), expected)
    nerf._step = 4  # the weight is of the iteration
    torch.testing.assert_close(nerf.regularizer(), 4 * expected)
    nerf.after_step(torch.optim.Adam(nerf.parameter_groups()), 4, torch.Generator())
    assert nerf.regularizer() == 0, "what was seen belongs to a step that has ended"


def test_a_learned_background_is_harmonics_of_the_direction_and_gives_way_to_another() -> None:
    nerf, views = NeRF(Voxels((4,)), rates=NeRFRates(sky=Ramp(0.0, 0.1, 9)), blob=0.0), ring(2, 20.0, size=6)
    assert nerf.owns_background and [group["name"] for group in nerf.parameter_groups()][2:] == ["sky"]
    nerf.network[-1].bias.data[0] = -60.0  # nothing in the box
    nerf.sky.data[2] = torch.tensor([0.4, 0.8, -0.4])  # of degree 1 along z: sqrt(3 / 4 pi) z
    with torch.no_grad():
        image = nerf.render(views).image
        plain = nerf.render(views, torch.tensor([1.0, 0.0, 0.0])).image
    assert (plain[:, 0] > 0.95).all() and (plain[:, 1] < 0.05).all()
    directions = normalize(rays_of(views, 1.0).directions, dim=1)
    expected = 0.5 + math.sqrt(3 / (4 * math.pi)) * directions[:, 2:] * torch.tensor([0.4, 0.8, -0.4])
    torch.testing.assert_close(image, expected.view(2, 6, 6, 3).permute(0, 3, 1, 2))
    for share, shown in ((0.0, True), (1.0, False)):
        module = Distillation("y", GaussianPrior({"y": 1.0}), nerf, SDS(), rendering=Rendering(random_background=share))
        assert (module.backdrop(3) is None) == shown
    assert not NeRF().owns_background and len(NeRF().parameter_groups()) == 2 and not NeRF().sky.requires_grad


def test_cells_are_looked_at_every_so_often_and_what_has_become_empty_is_forgotten() -> None:
    nerf = NeRF(Voxels((4,)), occupancy_every=3)
    optimizer, looked = torch.optim.Adam(nerf.parameter_groups()), []
    nerf.blob, nerf.blob_radius = -20.0, 1e6  # nothing anywhere from now on
    for step in range(120):
        before = nerf.occupancy.clone()
        nerf.after_step(optimizer, step, generator_for(0, step, "density"))
        looked += [] if torch.equal(nerf.occupancy, before) else [step + 1]
        if step == 8:
            assert nerf._occupied(torch.zeros(1, 3)).all()
    assert looked == list(range(3, 121, 3)) and nerf.iteration.item() == 120
    assert not nerf._occupied(torch.rand(100, 3) * 2 - 1).any()
