"""CFG, negative prompts and Perp-Neg against explicit loops over the samples of a batch."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.exact import Brightness, exact_prior, randn
from support.four_views import B, Loop, cameras, drawn
from support.tiny import TEXT, loaded, ready
from torch import Tensor

import asdkit
from asdkit import CFG, CFGOptions, Embedding, Field, Null, Pretrained, Prompt
from asdkit.core.names import PUBLIC_NAMES
from asdkit.methods import ASD, CSD, DDS, ISM, LODS, NFSD, SDS, VSD, AsynchronousSD, Bridge, RewardSDS
from asdkit.rendering.cameras import ring
from asdkit.scores.cfg_options import PerpNeg, perpendicular
from asdkit.scores.prior import Condition

UGLY, ASKEW = "a blue ball", cameras(5.0, 95.0, 185.0)
NEUTRAL = PerpNeg(*[(0.0, 0.0, 0.0)] * 4)
DEFAULTS = {"f_fs": (4, 0.5, -2.426), "f_sf": (4, 0.5, -2.426), "f_sb": (1, 0.5, -0.606), "f_fsb": (1, 0.5, 0.967)}


@pytest.fixture
def prior(four_folder: Path) -> Pretrained:
    return loaded(four_folder)


def perp(a: Tensor, b: Tensor) -> Tensor:
    return a - (a.flatten() @ b.flatten()) / (b.flatten() @ b.flatten()) * b


def threestudio(azimuth_deg: float) -> tuple[float, list[tuple[str, float]], list[tuple[str, float]]]:
    """For one camera: the shares of the positive's two directions, and the negatives, as threestudio has them."""
    a = (azimuth_deg + 180) % 360 - 180

    def decay(name: str, r: float) -> float:
        return -(DEFAULTS[name][0] * math.exp(-DEFAULTS[name][1] * r) + DEFAULTS[name][2])

    if abs(a) < 90:
        r = 1 - abs(a) / 90
        return [("front", r), ("side", 1 - r)], [("front", decay("f_fs", r)), ("side", decay("f_sf", 1 - r))]
    r = 2 - abs(a) / 90
    return [("side", r), ("back", 1 - r)], [("side", decay("f_sb", r)), ("front", decay("f_fsb", r))]


@pytest.mark.parametrize("scale", [1.0, 7.5, 0.0])
@pytest.mark.parametrize("negative", [None, UGLY])
@pytest.mark.parametrize("azimuths", [(30.0, -120.0, 160.0), (200.0, 89.0, 350.0)])
def test_perp_neg_is_threestudios_sample_by_sample(
    prior: Pretrained, four_folder: Path, azimuths: tuple[float, ...], negative: str | None, scale: float
) -> None:
    loop, x = Loop(four_folder, prior), drawn(prior, cameras(*azimuths))
    value = ready(CFG(scale=scale, negative=negative), prior, PerpNeg())(x)
    for b, azimuth in enumerate(azimuths):
        positives, negatives = threestudio(azimuth)
        null = loop.eps(x, b, negative or "")
        wanted = sum(share * loop.embedding(f"{TEXT}, {words} view") for words, share in positives)
        d = loop.eps(x, b, wanted) - null
        total = d.clone()
        for words, weight in negatives:
            total += weight * perp(loop.eps(x, b, f"{TEXT}, {words} view") - null, d)
        torch.testing.assert_close(value[b], null + scale * total, atol=2e-5, rtol=1e-5)


def test_eight_sectors_blend_neighbours_and_oppose_the_front_and_the_cameras_side(tiny_folder: Path) -> None:
    """The camera itself goes with the wanted prompt alone, for the negative prompts contradict it."""
    prior = loaded(tiny_folder)
    azimuths = (100.0, -20.0, 300.0)
    loop, x = Loop(tiny_folder, prior), drawn(prior, cameras(*azimuths))
    value = ready(CFG(scale=5.0), prior, PerpNeg())(x)
    between = [("left side", "back left", 10), ("front right", "front", 25), ("right side", "front right", 30)]
    for b, (azimuth, (first, second, degrees)) in enumerate(zip(azimuths, between, strict=True)):
        share = degrees / 45
        null, e = loop.eps(x, b, ""), [loop.embedding(f"{TEXT}, {words} view") for words in (first, second)]
        d = loop.eps(x, b, (1 - share) * e[0] + share * e[1], camera=True) - null
        total = d.clone()
        for words, weight in threestudio(azimuth)[1]:
            words = words if words == "front" else f"{'left' if azimuth == 100 else 'right'} side"
            total += weight * perp(loop.eps(x, b, f"{TEXT}, {words} view") - null, d)
        torch.testing.assert_close(value[b], null + 5 * total, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("which", ["four_folder", "tiny_folder"])
@pytest.mark.parametrize(("negative", "overhead"), [(None, False), (UGLY, False), (None, True)])
def test_cfg_is_a_loop_without_words_for_the_view_in_negative_prompts(
    which: str, negative: str | None, overhead: bool, request: pytest.FixtureRequest
) -> None:
    """And from overhead Perp-Neg has no negatives."""
    folder = request.getfixturevalue(which)
    prior = loaded(folder)
    loop = Loop(folder, prior)
    x = drawn(prior, cameras(0.0, 100.0, 180.0, elevation_deg=75.0 if overhead else 10.0))
    value = ready(CFG(scale=7.5, negative=negative), prior, PerpNeg() if overhead else None)(x)
    around = ("front", "side" if which == "four_folder" else "left side", "back")
    for b, words in enumerate(["overhead"] * 3 if overhead else around):
        null = loop.eps(x, b, negative or "")
        d = loop.eps(x, b, f"{TEXT}, {words} view", camera=prior.camera is not None) - null
        torch.testing.assert_close(value[b], null + 7.5 * d, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "field", [SDS(negative=UGLY), ASD(negative=UGLY), VSD(negative=UGLY), CSD(1.0, 1.0, UGLY), NFSD(negative=UGLY)]
)
def test_no_method_adds_words_for_the_view_to_its_negative_prompt(field: Field) -> None:
    field.bind(TEXT)
    asked = field.conditions()
    assert Condition(UGLY, view_dependent=False) in asked and Condition(UGLY) not in asked
    assert Condition(TEXT) in asked and Condition(TEXT, view_dependent=False) not in asked


def test_each_decay_has_its_place_and_perpendicular_is_of_each_sample() -> None:
    azimuth = torch.tensor([30.0, 150.0]).deg2rad()
    front, side = PerpNeg((1, 1, 0), (2, 2, 1), (3, 3, 2), (4, 4, 3)).weights(azimuth)
    assert front.tolist() == pytest.approx([-math.exp(-2 / 3), -4 * math.exp(-4 / 3) - 3], rel=1e-5)
    assert side.tolist() == pytest.approx([-2 * math.exp(-2 / 3) - 1, -3 * math.exp(-1) - 2], rel=1e-5)
    a, b = randn(2, B, 4, 5, 6)
    a[1], b[2] = -2.5 * b[1], 0
    found = perpendicular(a, b)
    assert (found * b).flatten(1).sum(1).abs().max() < 1e-12
    torch.testing.assert_close(found[0], perp(a[0], b[0]))
    assert found[1].abs().max() < 1e-12 and torch.equal(found[2], a[2])


def test_one_call_for_all(prior: Pretrained) -> None:
    rows: list[int] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for field in (SDS(), NFSD(), CFG(scale=0.0)):
        ready(field, prior, PerpNeg())(drawn(prior, ASKEW))
    assert rows == [4 * B, 5 * B, B]  # of the first: null, wanted, front, side


def test_perp_neg_needs_directions_and_a_cfg_of_the_prompt(prior: Pretrained) -> None:
    with pytest.raises(ValueError, match=r"three numbers a, b, c; got \[1.0, 2.0\]"):
        PerpNeg(f_fsb=(1.0, 2.0))
    for bare in (CFG(UGLY), Prompt() - Null()):
        with pytest.raises(ValueError, match="model.cfg is for the CFG of a prompt, which this guidance doesn't have"):
            bare.bind(TEXT, cfg=CFGOptions(PerpNeg()))
    lab, field, x0 = exact_prior(), CFG(), randn(B, 3, 2, 2)
    needs = "needs cameras and a prior that knows words for directions; leave cfg.perp_neg out"
    with pytest.raises(ValueError, match=needs):
        ready(SDS(), prior, PerpNeg())(drawn(prior, None))
    field.bind("y", cfg=CFGOptions(PerpNeg()))
    field.setup(lab)
    with pytest.raises(ValueError, match=needs):
        field(lab.draw(x0, torch.tensor([1, 2, 3]), x0, ring(B)))


METHODS = [getattr(asdkit, name) for name, module in PUBLIC_NAMES.items() if module == "asdkit.methods"]
ARGUMENTS = {"scorer": Brightness, "adapter": Embedding, "source_adapter": Embedding}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_method_honours_it(prior: Pretrained, method: Callable[..., Field]) -> None:
    """Without weight it changes nothing where cameras stand at a direction; with weight it does."""
    given = {name: make() for name, make in ARGUMENTS.items() if name in inspect.signature(method).parameters}
    values = []
    for perp_neg in (None, NEUTRAL, PerpNeg()):
        x = drawn(prior, cameras(0.0, 90.0, 180.0))
        x.source, x.random = randn(B, 4, 8, 8, seed=1).float(), torch.Generator().manual_seed(0)
        field = method(**given, **({"source": UGLY} if method is Bridge else {}))
        values.append(ready(field, prior, perp_neg)(x).detach())
    torch.testing.assert_close(values[1], values[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(values[2], values[0], atol=1e-2, rtol=1e-2)


def test_whose_words_it_takes() -> None:
    """Not those of a text of one's own, nor along the path of an inversion; of the source the source's."""
    for field in (CFG(UGLY) - CFG(), ISM(), RewardSDS(Brightness()), AsynchronousSD()):
        field.bind(TEXT, cfg=CFGOptions(PerpNeg()))
        assert len([c for c in field.conditions() if c.text and c.words == "nearest"]) == 1
    field = CFG(of_source=True)
    field.bind(TEXT, UGLY, CFGOptions(PerpNeg()))
    assert {condition.text for condition in field.conditions()} == {"", UGLY}


def test_an_edit_to_the_same_is_zero_and_csd_is_the_perpendicular_pull_alone(prior: Pretrained) -> None:
    """Zero, for both sides of the difference honour it."""
    x = drawn(prior, ASKEW)
    x.source = x.x0
    assert torch.equal(ready(DDS(), prior, PerpNeg())(x), torch.zeros_like(x.eps))
    pull = ready(CFG(scale=1.0), prior, PerpNeg())(x) - Null()(x)
    torch.testing.assert_close(ready(CSD(3.0), prior, PerpNeg())(x), 3 * pull)


def test_a_learned_null_is_what_differences_are_taken_from(prior: Pretrained) -> None:
    field, x = ready(LODS(2.0), prior, PerpNeg()), drawn(prior, ASKEW)
    cfg = field.first
    with torch.no_grad():
        cfg.null.adapter.weights["offset"].normal_(generator=torch.Generator().manual_seed(0))
        null, d = cfg.null(x), x.predict(Condition(TEXT, words="blended")) - cfg.null(x)
        total = d.clone()
        for words, weight in zip(("front", "side"), PerpNeg().weights(x.views.azimuth), strict=True):
            negative = x.predict(Condition(TEXT, words=words)) - null
            total += weight[:, None, None, None] * torch.stack([perp(negative[b], d[b]) for b in range(B)])
    torch.testing.assert_close(field(x), null + 2 * total - x.eps, atol=1e-5, rtol=1e-5)
    assert (null - x.predict(Condition("", False))).abs().max() > 1e-3


def test_the_discriminators_penalty_has_the_plain_prompt_of_the_nearest_direction(prior: Pretrained) -> None:
    field = ready(ASD(gamma=-0.5, adapter=Embedding()), prior, PerpNeg())
    x = drawn(prior, cameras(50.0, 95.0, 185.0))
    phi, e_y = field.second.field, x.predict(Condition(TEXT))
    torch.testing.assert_close(phi(x).detach(), e_y)
    phi.forget(x)
    with torch.no_grad():
        phi.adapter.weights["offset"].normal_(generator=torch.Generator().manual_seed(0))
        e_phi = phi(x)
        expected = (e_phi - x.eps).square().sum() / B - 0.5 * (e_y - e_phi).square().sum() / B
    torch.testing.assert_close(field.loss(x).detach(), expected)
