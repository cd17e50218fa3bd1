"""The weights that ship with the package: present, small, and as good as their card says."""

import pytest
import torch
from support.tiny import loaded

from asdkit import CFG, Pretrained
from asdkit.rendering.cameras import ring
from asdkit.rendering.view_words import EIGHT_SECTORS
from asdkit.scores.fields import ddim
from asdkit.scores.prior import Condition
from asdkit.toybox import world
from asdkit.toybox.captions import parse
from asdkit.toybox.clip import TinyCLIP
from asdkit.toybox.training import model_card


@pytest.fixture(scope="module")
def prior() -> Pretrained:
    return loaded("toybox")


def test_the_weights_are_small_know_their_words_and_are_as_good_as_their_card_says(prior: Pretrained) -> None:
    sizes = [file.stat().st_size for file in prior.folder.rglob("*") if file.is_file()]
    assert sum(sizes) < 30e6
    assert prior.digest in (prior.folder / "README.md").read_text()
    assert model_card.evaluate_vae(prior, seed=1, count=20)["vae_psnr_plain_db"] > 30
    assert model_card.evaluate_clip(TinyCLIP(prior.folder / "clip"), seed=1, count=40) > 0.8
    assert prior.view_words == EIGHT_SECTORS
    assert prior.camera is not None
    assert prior.words.unknown("Kittens, bots on a xyzzy") == {"kittens": ["cat"], "bots": ["boat"], "xyzzy": []}
    doubt = prior.doubt("a red unicorn xyzzy")
    assert "'unicorn' (the nearest that it knows: 'dog', 'elephant'), 'xyzzy'; expect" in doubt
    assert prior.doubt("a yellow duck") == ""


def test_samples_have_the_colour_asked_for(prior: Pretrained) -> None:
    noise = torch.randn(2, *prior.latent_shape(128, 128), generator=torch.Generator().manual_seed(0))
    red, blue = (
        prior.decode(ddim(prior, CFG(f"a {colour} ball", 3.0), noise, 12, ring(2)))[:, :, 56:72, 56:72].mean((0, 2, 3))
        for colour in ("red", "blue")
    )
    assert red[0] > red[2] + 0.2
    assert blue[2] > blue[0] + 0.2


def test_the_prior_draws_the_camera_that_it_is_told(prior: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without words for views the noise of a render is predicted much better for its own camera than for others."""
    monkeypatch.setattr(prior, "view_words", None)
    views = ring(4, elevation_deg=20.0, size=128)
    with torch.no_grad():
        x0 = prior.encode(world.render(parse("a yellow duck"), views, (0.85,) * 3).image)
    eps, errors = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), []
    for turn in range(4):
        x = prior.draw(x0, torch.full((4,), 700), eps, views[torch.arange(turn, turn + 4) % 4])
        errors.append((x.predict(Condition("a yellow duck")) - eps).square().flatten(1).mean(1))
    assert (torch.stack(errors[1:]) > 2 * errors[0]).all()
