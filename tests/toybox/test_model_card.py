"""The figures of the model card are computed rightly."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support.tiny import loaded

from asdkit import CFG, Pretrained
from asdkit.rendering.cameras import Views, ring
from asdkit.scores.fields import ddim
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import TinyCLIP, candidate_prompts, prompt_among
from asdkit.toybox.things import is_held_out
from asdkit.toybox.training import model_card
from asdkit.toybox.truths import pictured


class Through(Pretrained):
    """An autoencoder that keeps all, and then does something to the picture."""

    change: Callable[[torch.Tensor], torch.Tensor] = staticmethod(lambda images: images)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        return self.change(x0)


class Pooled(TinyCLIP):
    """Sees the mean colours of sixteen squares."""

    def __init__(self) -> None:
        pass

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 32).flatten(1)


@pytest.mark.parametrize("turn_deg", [0.0, 20.0, -20.0, 30.0, 180.0])
@pytest.mark.parametrize("prompt", ["a yellow duck", "a red and white striped duck"])
def test_a_sample_is_in_the_right_sector_when_it_shows_the_azimuth_asked_for(prompt: str, turn_deg: float) -> None:
    """An instance of a material that is none of those looked through counts like a plain thing."""
    shown = world.render(parse(prompt), ring(1, offset_deg=90.0 + turn_deg), (0.7, 0.7, 0.7), instance=99).image[0]
    assert model_card.sector_is_right(shown, parse(prompt), ring(1, offset_deg=90.0)) is (abs(turn_deg) < 22.5)


def test_the_prompts_of_the_evaluation_are_of_the_kind_they_claim() -> None:
    assert all(is_held_out(thing) for thing in model_card.drawn_things(True, 50, 0))
    assert not any(is_held_out(thing) for thing in model_card.drawn_things(False, 50, 0))
    assert all(thing.has_front for thing in model_card.drawn_things(False, 9, 0, lambda thing: thing.has_front))
    sectors = model_card.sector_views(10).azimuth.rad2deg().round().tolist()
    assert sectors == [0, 45, 90, 135, 180, 225, 270, 315, 0, 45]
    assert all(parse(prompt) is not None and parse(prompt).material for prompt in model_card.VARIED)


def test_samples_of_several_prompts_in_one_call_are_those_of_one_call_each(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_card, "STEPS", 3)
    monkeypatch.setattr(model_card, "_BATCH", 2)
    prior, views, prompts = loaded(str(tiny_folder)), ring(3, size=32), ["a red car", "a blue cube", "a red car"]
    images = model_card.sample(prior, prompts, views, 5)
    noise = torch.randn(3, *prior.latent_shape(32, 32), generator=model_card.generator_for(5, 0, "samples"))
    for i, prompt in enumerate(prompts):
        alone = prior.decode(ddim(prior, CFG(prompt, 3.0), noise[i : i + 1], 3, views[i : i + 1]))
        assert torch.allclose(images[i], alone[0], atol=1e-4)


def test_an_autoencoder_that_blurs_loses_sharpness_and_one_that_keeps_all_none() -> None:
    prior = Through()
    prior.change = partial(torch.nn.functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    figures = model_card.evaluate_vae(prior, 0, 3)
    assert figures["vae_sharpness_kept_plain"] < 0.7 and figures["vae_sharpness_kept_textured"] < 0.7
    prior.change = lambda images: images + 0.01
    same = model_card.evaluate_vae(prior, 0, 2)
    assert [same[f"vae_psnr_{name}_db"] for name in ("plain", "textured")] == pytest.approx([40, 40], abs=1e-3)
    assert same["vae_sharpness_kept_plain"] == pytest.approx(1, abs=1e-3)


def test_a_prior_that_draws_the_truth_has_its_variety_and_its_kid(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of samples: true pictures, or one and the same, or true ones in half the light."""
    generator = torch.Generator().manual_seed(0)

    def true(prior: Pretrained, prompts: list[str], views: Views, seed: int) -> torch.Tensor:
        return pictured([parse(prompt) for prompt in prompts], views, generator)

    monkeypatch.setattr(model_card, "sample", true)
    varied = model_card.evaluate_variety(Through(), 0, ("a red and white striped ball", "a brick house"))
    assert varied["pairwise_distance_share"] == pytest.approx(1, abs=0.3) and varied["true_pairwise_distance"] > 0.05
    monkeypatch.setattr(model_card, "sample", lambda _, texts, views, seed: torch.zeros(8, 3, 128, 128))
    assert model_card.evaluate_variety(Through(), 0, ("a brick house",))["pairwise_distance_share"] == 0

    views = model_card.sector_views(40)
    images = pictured(model_card.drawn_things(False, 40, 9), views, generator)
    found = model_card.evaluate_kid(Pooled(), images, 0)
    assert abs(found["kid"]) < 4 * found["kid_error"] and abs(found["true_kid"]) < 4 * found["true_kid_error"]
    assert model_card.evaluate_kid(Pooled(), images * 0.5, 0)["kid"] > 4 * found["kid_error"]


def test_a_picture_is_ranked_among_its_own_prompt_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the ranks that each picture has alone; a stand-in gives every pair of a picture and a prompt some number."""
    clip = Pooled()

    def cosines(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        assert len(set(prompts)) == len(prompts)
        return torch.stack([(images[:, 0, 0, :1] * sum(map(ord, text))).sin()[:, 0] for text in prompts], 1)

    monkeypatch.setattr(clip, "cosines", cosines, raising=False)
    images, own = torch.rand(30, 3, 4, 4), ["a yellow duck", prompt_among(5, "a yellow duck")[3]] * 15
    alone = [int(cosines(images[i : i + 1], prompt_among(5, own[i])).argmax()) == 0 for i in range(30)]
    assert clip.are_first(images, own, 5).tolist() == alone and 0 < sum(alone) < 30
    assert len(set(candidate_prompts(200))) == 200


def test_the_table_says_what_is_wanted_and_whether_it_is_reached() -> None:
    figures = {name: (least or 0.0) + 0.01 for name, (_, least) in model_card.WANTED.items()}
    lines = model_card.table(figures | {"right_sector": 0.5}).splitlines()
    assert len(lines) == 2 + len(figures) and lines[0] == "| figure | value | wanted | reached |"
    assert [line.split(" | ")[1:] for line in lines if "right azimuth" in line] == [["0.5", "0.95", "no |"]]
    assert lines[2].endswith("| 32 | 32 | yes |")
