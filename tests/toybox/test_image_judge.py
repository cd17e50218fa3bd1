"""Image figures: the nearest truths, saturation, sharpness, movement and similarities."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from asdkit import DDS, Canvas, Distillation, FiniteSetPrior, Pixels, ToyboxImageJudge
from asdkit.toybox import truths as bank_of
from asdkit.toybox.clip import TinyCLIP
from asdkit.toybox.judge import EMBEDDED, likeness, through
from asdkit.toybox.things import COLOURS
from asdkit.toybox.truths import Truths, truths


def on(bank: Truths, index: int, colour: tuple[float, float, float]) -> Tensor:
    return bank.on_black[index] + (1 - bank.alpha[index]) * torch.tensor(colour)[:, None, None]


def test_the_truths_are_of_the_view_that_the_prompt_names() -> None:
    front, back = truths("a yellow duck, front view"), truths("a yellow duck, back view")
    beak = torch.tensor(COLOURS["orange"])[:, None, None]
    orange = [((bank.on_black - beak).abs().amax(1) < 0.15).float().mean() for bank in (front, back)]
    assert orange[0] > 5 * orange[1]
    assert len(truths("a yellow duck").alpha) == len(front.alpha) == bank_of.TRUTHS
    assert truths("a corgi") is None


def test_the_nearest_truth_is_what_a_search_over_all_of_them_finds() -> None:
    bank = Truths(torch.rand(5, 3, 6, 6) * 0.5, torch.rand(5, 1, 6, 6))
    image = torch.rand(3, 6, 6)
    found = bank.nearest(image[None])[0][0]
    behind = torch.linspace(0, 1, 101)[:, None, None] * (1 - bank.alpha)[:, :, None]  # each level of each channel
    errors = (bank.on_black[:, :, None] + behind - image[:, None]).square().sum((3, 4))
    best = errors.amin(2).sum(1).min().item()
    assert (found - image).square().sum().item() == pytest.approx(best, rel=1e-3)


def test_the_figures_of_a_true_picture_are_the_truth_s() -> None:
    """Of a material it has no PSNR; the eight nearest are other instances than it, and as sharp."""
    picture = on(truths("a red car, front left view"), 3, (0.8, 0.8, 0.8))[None]
    judge = ToyboxImageJudge()
    found = judge.figures(picture, "a red car, front left view", FiniteSetPrior())
    assert found["psnr"] > 60 and found["mottle"] == pytest.approx(1, abs=1e-3)
    assert found["spectrum"] < 0.1 and found["palette_distance"] < 1e-4
    for name in ("saturation", "sharpness", "texture_power"):
        assert found[name] == pytest.approx(found[f"true_{name}"], rel=1e-3)
    assert found["decoded_sharpness"] == found["true_sharpness"]  # of an autoencoder that loses nothing
    of_another_world = judge.figures(picture, "a corgi", FiniteSetPrior())
    assert of_another_world.keys() == {"saturation", "sharpness"} and not judge.unmeasured

    prompt = "a red and white striped ball, front view"
    bank = truths(prompt)
    assert torch.pdist(bank.on_black[:8].flatten(1)).min() > 0.02 * bank.on_black[0].numel() ** 0.5
    found = judge.figures(on(bank, 3, (0.8, 0.8, 0.8))[None], prompt, FiniteSetPrior())
    assert "psnr" not in found and "has many right answers" in judge.unmeasured["psnr"]
    assert found["sharpness"] == pytest.approx(found["true_sharpness"], rel=0.3)
    assert found["palette_distance"] < 0.1 and "mottle" not in found


def test_the_autoencoder_sees_pictures_of_its_size() -> None:
    """One that halves pictures and doubles them again loses waves of two pixels.

    At twice the size it keeps them, and what is left are the two resizings: 0 and 1 become 1/4 and 3/4, and these 3/8
    and 5/8, by a triangle's weights 1/8, 3/8, 3/8 and 1/8.
    """
    prior = FiniteSetPrior()
    prior.encode = lambda images: avg_pool2d(images, 2)
    prior.decode = lambda latents: latents.repeat_interleave(2, 2).repeat_interleave(2, 3)
    waves = (torch.arange(16) % 2).float().expand(2, 3, 16, 16)
    assert torch.allclose(through(prior, waves, 16), torch.tensor(0.5))
    assert torch.allclose(through(prior, waves, 32)[..., 2:-2], 0.375 + 0.25 * waves[..., 2:-2])


def test_true_pictures_are_no_distance_from_the_truth() -> None:
    """Within a few errors; pictures of something else are many off, and a single one has no distance."""
    judge, bank = ToyboxImageJudge(), truths("a yellow duck")
    own, far = bank.pictures()[:24], truths("a red car, front left view").pictures()[:24]
    assert torch.equal(own, truths("a yellow duck", 24).pictures())
    near = judge.distance(own, bank.pictures()[24:])["kid_to_truth"]
    assert abs(near) < 4 * judge.errors["kid_to_truth"]
    assert judge.distance(far, bank.pictures())["kid_to_truth"] > 10 * abs(near)
    assert judge.distance(own[:1], bank.pictures()) == {}


def test_what_the_image_judge_says_of_movement_and_of_the_source() -> None:
    """Drift from four fifths of the iterations on; change and similarities to the source image."""
    duck = on(truths("a yellow duck"), 0, (0.85, 0.85, 0.85))[None]
    judge, data = ToyboxImageJudge(), Canvas()
    data.source = duck
    module = Distillation("a red duck", FiniteSetPrior(), Pixels(count=1), DDS())
    for step in range(1, 11):
        module.show = lambda views, step=step: SimpleNamespace(image=(duck - 0.01 * step).clamp(0, 1))
        judge.on_train_batch_end(SimpleNamespace(global_step=step, max_steps=10), module)
    result = judge.measure(module, data, None, module.show(None))
    eighth, last = (duck - 0.08).clamp(0, 1), (duck - 0.1).clamp(0, 1)
    assert result["drift"] == pytest.approx((last - eighth).abs().mean().item())
    assert result["change"] == pytest.approx((last - duck).abs().mean().item())
    clip = TinyCLIP(EMBEDDED)
    assert result["similarity"] == pytest.approx(clip.cosines(last, ["a red duck"]).item(), abs=1e-5)
    assert result["source_similarity"] == pytest.approx(clip.cosines(duck, ["a red duck"]).item(), abs=1e-5)
    assert -1 <= result["source_similarity"] <= 1
    with torch.no_grad():
        clip.model.logit_scale.fill_(0.5)  # which is no part of a cosine
    assert result["similarity"] == pytest.approx(clip.cosines(last, ["a red duck"]).item(), abs=1e-5)


def test_pictures_are_compared_with_the_truth_and_with_what_the_autoencoder_makes_of_it() -> None:
    images, truths, decoded = torch.rand(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decoded = avg_pool2d(decoded, 3, 1, 1)
    alphas = torch.ones(2, 1, 32, 32)
    both = likeness(images, alphas, truths, alphas, False, decoded)
    of_truths, of_decoded = (likeness(images, alphas, true, alphas, False, true) for true in (truths, decoded))
    assert both["spectrum"] == of_truths["spectrum"] and both["spectrum_decoded"] == of_decoded["spectrum"]
    assert both["true_sharpness"] == of_truths["true_sharpness"] > both["decoded_sharpness"]
    assert both["decoded_sharpness"] == of_decoded["true_sharpness"] and both["spectrum"] != both["spectrum_decoded"]
    smooth = truths.mean((2, 3), keepdim=True).expand_as(truths)  # only such truths have a mottle
    of_images, of_decoded = (likeness(each, alphas, smooth, alphas, True, decoded) for each in (images, decoded))
    assert of_images["decoded_mottle"] == of_decoded["mottle"] != of_images["mottle"] > 1
