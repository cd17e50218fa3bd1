"""Eq. 9: what real samples add to the discriminator's loss, and where they come from."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from support.exact import B, bent, close, draw, e, e_phi, exact_prior, randn, ready, state
from support.renders import prior_of_renders
from torch import Tensor

from asdkit import ASD, GAN, GaussianPrior, ImageFolder, NearestReference, PriorSamples, Ramp, RealSamples, SourceImage
from asdkit.lab import Affine
from asdkit.rendering.cameras import Posed, ring
from asdkit.scores.equations import real_loss
from asdkit.scores.prior import Condition, Noised

ETAS = (0.0, 0.25, 0.5, 1.0)
Y = Condition("y")


@pytest.fixture
def prior() -> GaussianPrior:
    return exact_prior()


class Itself(RealSamples):
    """The fake is its own real sample."""

    def draw(self, x: Noised, condition: Condition) -> Noised:
        return x


def three(seed: int = 1) -> list[Tensor]:
    return list(randn(3, B, 3, 2, 2, seed=seed))


def squares(value: Tensor) -> list[float]:
    return [sum(number.item() ** 2 for number in row.flatten()) for row in value]


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("clip", "share"), [(0.25, 1.0), (0.8, 0.5), (1.2, 0.25), (float("inf"), 0.0)])
def test_real_loss_is_the_slow_loop(clip: float, share: float, eta: float) -> None:
    """The limit is of the whole sample, and of its own prior's error; the penalty is not limited."""
    e_fake, eps, e_y = three()
    rows = list(zip(squares(e_fake - eps), squares(e_y - eps), squares(e_y - e_fake), strict=True))
    expected = sum(eta * penalty - min(error, clip * own) for error, own, penalty in rows) / B
    loss, clipped = real_loss(e_fake, eps, e_y, eta, clip)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert clipped.item() == sum(error > clip * own for error, own, _ in rows) / B == share


def test_what_does_not_count_has_no_gradient_but_the_penaltys() -> None:
    e_fake, eps, e_y = three()
    e_fake[0] += 100
    e_fake.requires_grad_()
    (gradient,) = torch.autograd.grad(real_loss(e_fake, eps, e_y, 0.25, 1000.0)[0], e_fake)
    fake = e_fake.detach()
    penalty, error = 2 * 0.25 * (fake - e_y) / B, -2 * (fake - eps) / B
    assert close(gradient[0], penalty[0]) and close(gradient[1:], (penalty + error)[1:])


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 2.0])
@pytest.mark.parametrize("eta", ETAS)
def test_the_discriminators_loss_is_eq9(prior: GaussianPrior, gamma: float, eta: float) -> None:
    """||e_phi(g) - eps||^2 + gamma ||e_y(g) - e_phi(g)||^2 - ||e_phi(r) - eps||^2 + eta ||e_y(r) - e_phi(r)||^2."""
    x, phi = draw(prior), bent()
    real = state(x, x0=x.source)
    fake = (e_phi(x, phi) - x.eps) ** 2 + gamma * (e(x, "y") - e_phi(x, phi)) ** 2
    true = -((e_phi(real, phi) - x.eps) ** 2) + eta * (e(real, "y") - e_phi(real, phi)) ** 2
    field = ready(ASD(7.5, gamma, phi, real_samples=SourceImage(), eta=eta, real_clip=1e6), prior)
    assert close(field.loss(x), (fake + true).sum() / B)


def test_eta_may_move(prior: GaussianPrior) -> None:
    losses = []
    for step in range(3):
        field = ready(ASD(adapter=bent(), real_samples=SourceImage(), eta=Ramp(0.0, 1.0, 2)), prior)
        losses.append(field.loss(draw(prior, step=step)))
    assert losses[0] < losses[1] < losses[2]
    assert close(losses[1] - losses[0], losses[2] - losses[1])


def test_a_real_that_is_the_fake_cancels(prior: GaussianPrior) -> None:
    """Both errors vanish for x^r = x^g; what is left is (gamma + eta) ||e_y - e_phi||^2."""
    x, phi = draw(prior), bent()
    penalty = ((e(x, "y") - e_phi(x, phi)) ** 2).sum() / B
    field = ready(ASD(7.5, 0.75, phi, real_samples=Itself(), eta=0.5, real_clip=1e6), prior)
    assert close(field.loss(x), 1.25 * penalty)
    same = prior.draw(x.source, x.t, x.eps, source=x.source)
    penalty = ((e(same, "y") - e_phi(same, phi)) ** 2).sum() / B
    field = ready(ASD(7.5, 0.75, phi, real_samples=SourceImage(), eta=0.0, real_clip=1e6), prior)
    assert close(field.loss(same), 0.75 * penalty)


def test_gradients_reach_phi_through_fakes_and_reals(prior: GaussianPrior) -> None:
    """At e_phi = e_y both penalties are flat: the errors' gradients are of opposite sign."""
    x, phi = draw(prior), Affine(channels=3).double()
    field = ready(ASD(adapter=phi, real_samples=SourceImage(), real_clip=1e6), prior)
    field.loss(x).backward()
    real = state(x, x0=x.source)
    per_level = 2 / B * ((e(x, "y") - x.eps) - (e(real, "y") - x.eps)).sum((2, 3), keepdim=True)
    assert close(phi.offset.grad[x.t], per_level)


def test_calls_of_eq9(prior: GaussianPrior) -> None:
    """e_phi and e_y once on the fake and once on the real, whoever asks."""
    rows: list[float] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) / B))
    field, x = ready(ASD(adapter=bent(), real_samples=SourceImage()), prior), draw(prior)
    field.loss(x)
    field.diagnostics(x)
    assert rows == [1] * 4
    field.forget(x)
    field.loss(x)
    assert rows == [1] * 6


def test_the_share_of_the_reals_that_no_longer_counts_is_logged(prior: GaussianPrior) -> None:
    """Where x_t = 0 a slope changes nothing, so the reals count, however wrong e_phi is about the fakes."""
    x, phi = draw(prior), bent()
    with torch.no_grad():
        phi.offset[x.t[1]] += 50
    found = ready(ASD(adapter=phi, real_samples=SourceImage(), real_clip=20.0), prior).diagnostics(x)
    assert found["real_clipped"] == 0.25
    assert "real_clipped" not in ready(ASD(adapter=phi), prior).diagnostics(x)
    steep = Affine(channels=3).double()
    torch.nn.init.constant_(steep.slope, 1000.0)
    field, still = ready(ASD(adapter=steep, real_samples=SourceImage()), prior), -x.sigma / x.alpha * x.eps
    for fake, source, share in ((x.x0, still, 0.0), (still, x.x0, 1.0)):
        assert field.diagnostics(prior.draw(fake, x.t, x.eps, source=source))["real_clipped"] == share


def save(folder: Path, name: str, colour: object, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    Image.new(mode, size, colour).save(folder / name)


def drawn(folder: Path, seeds: int = 12) -> set[tuple[float, ...]]:
    """The colours of the pictures that are drawn, which are plain."""
    prior, colours = exact_prior(), set()
    for seed in range(seeds):
        real = ImageFolder(str(folder)).draw(draw(prior, seed), Y)
        assert real.x0.shape == (B, 3, 2, 2) and real.x0.dtype == torch.float64
        assert torch.equal(real.x0, real.x0[:, :, :1, :1].expand(B, 3, 2, 2))
        colours |= {tuple(round(255 * value) for value in row[:, 0, 0].tolist()) for row in real.x0}
    return colours


def test_a_folder_of_pictures_of_every_kind(tmp_path: Path) -> None:
    """Grey becomes RGB, transparent becomes white, everything a square; subfolders count, other files don't."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    save(tmp_path, "red.png", (255, 0, 0), size=(16, 4))
    save(tmp_path, "grey.BMP", 51, "L", size=(3, 9))
    save(tmp_path, "clear.png", (9, 9, 9, 0), "RGBA")
    save(tmp_path / "deep" / "er", "half.webp", (0, 0, 0, 255), "RGBA", size=(2, 2))
    (tmp_path / "notes.txt").write_text("no picture")
    assert drawn(tmp_path) == {(255, 0, 0), (51, 51, 51), (255, 255, 255), (0, 0, 0)}


def test_pictures_share_level_and_noise_and_the_seed_chooses(prior: GaussianPrior, tmp_path: Path) -> None:
    for k in range(10):
        save(tmp_path, f"{k}.png", (20 * k, 0, 0))
    x = draw(prior)
    one, two, other = (ImageFolder(str(tmp_path)).draw(draw(prior, seed), Y) for seed in (0, 0, 5))
    assert torch.equal(one.t, x.t) and torch.equal(one.eps, x.eps) and not one.x0.requires_grad
    assert torch.equal(one.x0, two.x0) and not torch.equal(one.x0, other.x0)
    assert len({tuple(row.flatten().tolist()) for row in one.x0}) > 1


def test_a_folder_without_pictures_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            ValueError, match=f"{folder}' is no folder with pictures.*Eq. 9 needs real samples"
        ) as error:
            ImageFolder(str(folder))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_samples_of_the_prior_are_its_own(scale: float) -> None:
    """With equal spreads CFG's distribution is N(mu = mu_0 + lambda (mu_y - mu_0), s^2).

    They start at N(0, 1) instead of N(alpha_T mu, v_T), so the flow leads to the mean mu (1 - s alpha_T / v_T^.5).
    """
    prior = GaussianPrior({"y": 1.0}, spread=0.5).double()
    alpha, sigma = prior.schedule.alphas[-1], prior.schedule.sigmas[-1]
    mean = scale * (1 - 0.5 * alpha / (0.25 * alpha**2 + sigma**2).sqrt()).item()
    x = prior.draw(randn(B, 3, 8, 8), torch.tensor([20, 300, 700, 979]), randn(B, 3, 8, 8, seed=2))
    reals = PriorSamples(64, scale, 50)
    samples = torch.cat([reals.draw(x, Y).x0 for _ in range(30)])
    assert samples.mean().item() == pytest.approx(mean, abs=0.05)
    assert samples.std().item() == pytest.approx(0.5, abs=0.05)
    assert 32 < len({row.sum().item() for row in samples}) <= 64


def test_samples_of_the_prior_are_drawn_once_and_the_same_in_every_run(prior: GaussianPrior) -> None:
    rows: list[int] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    reals, x = PriorSamples(5, 1.0, 3), draw(prior)
    one, two = reals.draw(x, Y), reals.draw(draw(prior), Y)
    assert rows == [5] * 3 and torch.equal(one.x0, two.x0)
    assert torch.equal(one.t, x.t) and torch.equal(one.eps, x.eps)
    z = Condition("z")  # one PriorSamples may serve two discriminators
    assert torch.equal(reals.draw(draw(prior), z).x0, PriorSamples(5, 1.0, 3).draw(draw(prior), z).x0)
    assert torch.equal(reals.draw(draw(prior), Y).x0, one.x0)
    found = []  # whatever the draw, the step or torch's own random state that asks for them first
    for seed in (0, 1):
        torch.manual_seed(seed)
        reals, draws = PriorSamples(3, 1.0, 2), [draw(prior, 100 * seed + k, step=k) for k in range(10)]
        found.append({row.sum().item() for x in draws for row in reals.draw(x, Y).x0})
    assert found[0] == found[1] and len(found[0]) == 3


def test_a_draw_keeps_its_reals(prior: GaussianPrior) -> None:
    """All discriminator steps on one draw, and its diagnostics, see the same real samples."""
    field, x = ready(ASD(adapter=bent(), real_samples=PriorSamples(50, 1.0, 2)), prior), draw(prior)
    first = field.loss(x)
    field.diagnostics(x)
    field.forget(x)
    assert torch.equal(field.loss(x), first)


def test_uniform_numbers_may_be_one(prior: GaussianPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times a large count they are rounded up to it."""
    save(tmp_path, "red.png", (255, 0, 0))
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.ones(shape))
    assert ImageFolder(str(tmp_path)).draw(draw(prior), Y).x0[:, 0].eq(1).all()
    assert len(PriorSamples(3, 1.0, 2).draw(draw(prior), Y).x0) == B


def test_samples_of_the_prior_have_cameras_of_their_own() -> None:
    """Each is drawn and judged with its own camera: of a finite set that knows directions it is the view from there."""
    prior = prior_of_renders(["a yellow duck"], views=8, size=8)
    prior.setup()
    duck, around = Condition("a yellow duck", view_dependent=True), ring(8, size=8)
    x = prior.draw(torch.rand(6, 3, 8, 8), torch.full((6,), 500), torch.randn(6, 3, 8, 8), around[:6])
    real = PriorSamples(8, 1.0, 20, elevation_deg=15.0).draw(x, duck)
    assert real.views is not None and not torch.equal(real.views.azimuth, x.views.azimuth)
    assert torch.equal(real.t, x.t) and torch.equal(real.eps, x.eps)
    of = (real.views.azimuth[:, None] - around.azimuth).abs().argmin(1)
    assert torch.allclose(real.x0, prior.points[of], atol=0.02)
    right, wrong = real.predict(duck), x.like(real.x0, x.t, x.eps, around[(of + 4) % 8]).predict(duck)
    assert (right - real.eps).square().mean() < 1e-4 < (wrong - real.eps).square().mean()


ANGLES = (0.0, 31.0, 30.0, 170.0)  # of the four samples; the first and the third are within 30 degrees


def posed(prior: GaussianPrior, angles: tuple[float, ...] = ANGLES, seed: int = 0) -> Noised:
    """A draw of four samples near to two pictures: the first two to one, the others to the other."""
    x, pictures = draw(prior, seed), randn(2, 3, 2, 2, seed=9)
    nearest, nothing = torch.tensor([0, 0, 1, 1]), torch.ones(2, 1, 2, 2)
    pictured = Posed(ring(2, size=2), pictures, nothing, torch.ones(2, 3), nearest, torch.tensor(angles))
    return Noised(prior, x.x0, x.t, x.eps, ring(4, size=2), random=x.random, references=pictured)


@pytest.mark.parametrize(("gamma", "eta"), [(-0.5, 0.5), (0.0, 0.0), (2.0, 1.0)])
def test_a_posed_picture_is_real_to_the_cameras_near_it(prior: GaussianPrior, gamma: float, eta: float) -> None:
    """The mean over the four of Eq. 10, and of what Eq. 9 adds for the two that are near, at their t and eps."""
    x, phi = posed(prior), bent()
    fake = (e_phi(x, phi) - x.eps) ** 2 + gamma * (e(x, "y") - e_phi(x, phi)) ** 2
    real = state(x, x0=x.references.image[[0, 0, 1, 1]])
    added = -((e_phi(real, phi) - x.eps) ** 2) + eta * (e(real, "y") - e_phi(real, phi)) ** 2
    reals = NearestReference(30.0)
    field = ready(ASD(7.5, gamma, phi, real_samples=reals, eta=eta, real_clip=1e6), prior)
    assert close(field.loss(x), (fake.sum() + added[[0, 2]].sum()) / B)
    assert torch.equal(field.leaves()[-1].real_draw(x).views.azimuth, ring(2).azimuth)  # of the pictures' own cameras


def test_the_others_learn_by_eq10_alone(prior: GaussianPrior) -> None:
    """phi has numbers of its own at each t, and each sample has its own t."""
    x, gradients = posed(prior), []
    for reals in (NearestReference(30.0), None):
        phi = bent()
        ready(ASD(7.5, -0.5, phi, real_samples=reals, real_clip=1e6), prior).loss(x).backward()
        gradients.append(phi.offset.grad[x.t])
        x.forget(phi)
    posed_ones, plain = gradients
    assert torch.equal(posed_ones[[1, 3]], plain[[1, 3]]) and not close(posed_ones[[0, 2]], plain[[0, 2]], 1e-2)


@pytest.mark.parametrize("within_deg", [0.0, 180.0])
def test_the_posed_optimum_is_a_weighted_least_squares_fit(prior: GaussianPrior, within_deg: float) -> None:
    """Eq. 9 is (1 + gamma) |e_phi - a|^2 at fakes, a = (eps + gamma e_y) / (1 + gamma), and (eta - 1) |e_phi - b|^2 at
    reals, b = (eta e_y - eps) / (eta - 1), plus what phi doesn't change. So phi's best slope and offset at a t are the
    normal equations' solution, and the loss has no gradient there.
    """
    gamma, eta, phi = 3.0, 0.5, Affine(channels=3).double()
    x = posed(prior, (0.0, 1.0, 0.0, 1.0))
    real = state(x, x0=x.references.image[[0, 0, 1, 1]])
    for row, near in enumerate(angle <= within_deg for angle in x.references.angle_deg):
        for channel in range(3):
            parts = [(1 + gamma, x, lambda y, eps: (eps + gamma * y) / (1 + gamma))]
            parts += [(eta - 1, real, lambda y, eps: (eta * y - eps) / (eta - 1))] if near else []
            normal, right = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            for weight, at, goal in parts:
                x_t, y, eps = (v[row, channel].flatten() for v in (at.x_t, e(at, "y"), x.eps))
                design = torch.stack([x_t, torch.ones_like(x_t)], 1)
                normal += weight * design.T @ design
                right += weight * design.T @ (goal(y, eps) - y)
            slope, offset = torch.linalg.solve(normal, right)
            with torch.no_grad():
                phi.slope[x.t[row], channel], phi.offset[x.t[row], channel] = slope, offset
    reals = NearestReference(within_deg)
    ready(ASD(7.5, gamma, phi, real_samples=reals, eta=eta, real_clip=1e6), prior).loss(x).backward()
    assert phi.offset.abs().max() > 0.1  # it has gone somewhere
    assert max(float(values.grad.abs().max()) for values in phi.parameters()) < 1e-10


def test_a_step_without_a_camera_near_asks_the_network_as_eq10_does(prior: GaussianPrior) -> None:
    rows: list[float] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for angles, calls in (((90.0,) * 4, [4, 4]), (ANGLES, [4, 4, 2, 2])):
        rows.clear()
        for make in (ASD, GAN):
            field, x = ready(make(adapter=bent(), real_samples=NearestReference()), prior), posed(prior, angles)
            field.loss(x)
            facts = field.diagnostics(x)
            assert ("real_clipped" in facts) == (len(calls) == 4)
        of_gan = [4, 4] if len(calls) == 2 else calls  # its diagnostics ask, where it has learned nothing
        assert rows == calls + of_gan


def test_a_gan_is_told_the_pairs_alone(prior: GaussianPrior) -> None:
    """softplus(D(fake)) + softplus(-D(real)) of the two near ones, over all four."""
    x, phi = posed(prior), bent()
    real = state(x, x0=x.references.image[[0, 0, 1, 1]])

    def opinion(at: object) -> Tensor:
        return ((e_phi(at, phi) - x.eps) ** 2 - (e(at, "y") - x.eps) ** 2).flatten(1).mean(1)

    expected = torch.nn.functional.softplus(opinion(x)) + torch.nn.functional.softplus(-opinion(real))
    loss = ready(GAN(adapter=phi, real_samples=NearestReference()), prior).loss(x)
    assert close(loss, expected[[0, 2]].sum() / B)


def test_posed_pictures_are_judged_from_their_own_cameras() -> None:
    """Of a finite set that knows directions the picture is the view from there, wherever the sample's camera stands."""
    prior = prior_of_renders(["a yellow duck"], views=8, size=8)
    prior.setup()
    duck, around = Condition("a yellow duck", view_dependent=True), ring(8, size=8)
    own = torch.tensor([2, 5])
    pictured = Posed(around[own], prior.points[own], torch.ones(2, 1, 8, 8), torch.ones(2, 3), own - own, own * 0.0)
    fakes, eps, t = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([500, 600])
    x = Noised(prior, fakes, t, eps, around[:2], references=pictured._replace(nearest=torch.tensor([1, 0])))
    real = NearestReference().draw(x, duck)
    right, wrong = real.predict(duck), x.like(real.x0, x.t, x.eps).predict(duck)
    assert (right - real.eps).square().mean() < 1e-4 < (wrong - real.eps).square().mean()
    with pytest.raises(ValueError, match=r"NearestReference needs a picture whose camera is known; .*data.references"):
        NearestReference().draw(draw(exact_prior()), Y)


def test_posed_real_samples_have_their_own_prompts_and_shared_networks_have_none(prior: GaussianPrior) -> None:
    """The ranks of shared networks would ask them unequally often."""
    x = posed(prior)
    x.prompts = {"y": ["y", "z", "z", "y"]}
    real = NearestReference().draw(x, Y)
    assert real.prompts == {"y": ["y", "z"]} and torch.equal(real.t, x.t[[0, 2]])
    assert close(real.predict(Y), torch.cat([e(real, "y")[:1], e(real, "z")[1:]]))
    prior.sharded = True
    with pytest.raises(ValueError, match="take strategy=ddp"):
        NearestReference().draw(x, Y)
