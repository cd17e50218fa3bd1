"""A tiny model in Stable Diffusion's format as a prior, against diffusers' and transformers' own parts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.four_views import Loop
from support.tiny import TEXT, loaded

from asdkit import CFG, Pretrained
from asdkit.rendering.cameras import Views, orbit, ring
from asdkit.scores.camera_embedding import camera_features
from asdkit.scores.fields import ddim
from asdkit.scores.prior import NULL, Condition, Noised

Y, B = Condition(TEXT), 4


def _draw(prior: Pretrained, views: Views | None = None) -> Noised:
    random = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(B, 4, 8, 8, generator=random) for _ in range(2))
    return prior.draw(x0, torch.tensor([20, 300, 700, 970]), eps, views)


def test_loaded_frozen_in_eval_mode_and_knowing_its_words(tiny_folder: Path, kl_folder: Path) -> None:
    assert not list(Pretrained("/nowhere").parameters())  # nothing is loaded yet
    prior = loaded(tiny_folder)
    network = prior.network
    prior.setup()
    assert prior.network is network
    assert not any(p.requires_grad for p in prior.parameters()) and list(prior.parameters())
    assert not any(module.training for module in prior.modules())
    assert prior.words.unknown("A red, red dragon; front view") == {"dragon": []}
    assert loaded(kl_folder).words.unknown("a dragon") == {}


def test_images_of_another_size_are_resized_before_they_are_encoded(tiny_folder: Path) -> None:
    plain, fixed = loaded(tiny_folder), loaded(tiny_folder, image_size=16)
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    big = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for images in (small, big):
        channels = [Image.fromarray(channel.numpy()) for channel in images.flatten(0, 1)]
        resized = [torch.from_numpy(np.array(channel.resize((16, 16), Image.BILINEAR))) for channel in channels]
        resized = torch.stack(resized).unflatten(0, images.shape[:2])
        torch.testing.assert_close(fixed.encode(images), plain.encode(resized), atol=1e-5, rtol=1e-5)
        assert torch.equal(fixed.encode(resized), plain.encode(resized))
    assert fixed.encode(small).shape != plain.encode(small).shape
    with pytest.raises(ValueError, match="image_size"):
        Pretrained(image_size=-1)


@pytest.fixture(params=["tiny_folder", "kl_folder"])
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_encode_carries_the_gradient(path: Path) -> None:
    prior = loaded(path).double()
    random = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 8, 8, generator=random, dtype=torch.float64).requires_grad_()
    direction = torch.randn(1, 3, 8, 8, generator=random, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(prior.encode(images).square().sum(), images)
    with torch.no_grad():
        high, low = (prior.encode(images + h * direction).square().sum() for h in (1e-6, -1e-6))
    assert (gradient * direction).sum().item() == pytest.approx((high - low).item() / 2e-6, rel=1e-3)
    assert gradient.abs().max() > 0


def test_predict_is_the_unet(path: Path, tiny_folder: Path) -> None:
    """Without views: the prompt's plain embedding, no camera, and the output converted to noise."""
    prior = loaded(path)
    loop, x = Loop(path, prior), _draw(prior)
    with torch.no_grad():
        for text, condition in ((TEXT, Y), ("", NULL)):
            output = loop.unet(x.x_t.float(), x.t, loop.embedding(text).expand(B, -1, -1)).sample
            expected = x.alpha * output + x.sigma * x.x_t if path == tiny_folder else output.double()
            assert torch.allclose(x.predict(condition), expected, atol=1e-5)


def test_the_camera_reaches_view_dependent_conditions_alone(tiny_folder: Path) -> None:
    prior, blind = loaded(tiny_folder), loaded(tiny_folder, use_camera=False)
    assert prior.camera is not None and blind.camera is None
    views = ring(B)
    x, y = _draw(prior, views), _draw(blind, views)
    assert torch.allclose(x.predict(NULL), y.predict(NULL), atol=1e-6)
    plain = Condition(TEXT, view_dependent=False)
    assert torch.allclose(x.predict(plain), y.predict(plain), atol=1e-6)
    assert not torch.allclose(x.predict(Y), y.predict(Y), atol=1e-3)
    assert torch.equal(_draw(prior).predict(Y), _draw(blind).predict(Y))


def test_a_camera_is_seven_numbers() -> None:
    """Shipped weights mean these: two harmonics of the azimuth, one of the elevation, and the distance's logarithm."""
    cameras = [(0.3, 0.5, 2.0), (-2.0, -0.25, 3.4)]
    views = orbit(*map(torch.tensor, zip(*cameras, strict=True)), 0.7, 8, 8)
    expected = [
        [*(f(k * a) for k in (1, 2) for f in (math.sin, math.cos)), math.sin(e), math.cos(e), math.log(d)]
        for a, e, d in cameras
    ]
    torch.testing.assert_close(camera_features(views), torch.tensor(expected))


def test_offsets_add_up_and_end_with_their_context(tiny_folder: Path) -> None:
    prior = loaded(tiny_folder)
    embed, seen = prior.network.time_embedding, []
    embed.register_forward_hook(lambda module, args, out: seen.append(out))
    probe = torch.randn(2, embed.linear_1.in_features)
    one, two = torch.randn(2, 2, prior.time_width)
    embed(probe)
    with prior.offset_time(one):
        embed(probe)
        with prior.offset_time(two), prior.offset_time(None):
            embed(probe)
    with pytest.raises(RuntimeError), prior.offset_time(one):
        raise RuntimeError
    embed(probe)
    assert torch.allclose(seen[1], seen[0] + one) and torch.allclose(seen[2], seen[0] + one + two, atol=1e-6)
    assert torch.equal(seen[3], seen[0])


def test_the_text_encoder_is_freed(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    from transformers import CLIPTextModel

    monkeypatch.setenv("ASDKIT_CACHE", str(tmp_path))
    prior = loaded(tiny_folder, NULL, Y)
    gc.collect()
    assert not any("text" in name for name, _ in prior.named_modules())
    assert not [item for item in gc.get_referrers(CLIPTextModel) if isinstance(item, CLIPTextModel)]
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded again"))
    prior.prepare([Y, NULL, Condition(TEXT, view_dependent=False)])
    assert not any("text" in key for key in prior.state_dict())


def test_ddim_is_diffusers(path: Path) -> None:
    from diffusers import DDIMScheduler

    prior = loaded(path)
    loop = Loop(path, prior)
    scheduler = DDIMScheduler.from_pretrained(path / "scheduler")
    scheduler.set_timesteps(9)
    noise = torch.randn(2, 4, 8, 8)
    null, text = (loop.embedding(t).expand(2, -1, -1) for t in ("", TEXT))
    x_t = noise
    with torch.no_grad():
        for t in range(999, 0, -111):
            low, high = (loop.unet(x_t, t, condition).sample for condition in (null, text))
            step = scheduler.step(low + 3 * (high - low), t, x_t, eta=0.0)
            x_t = step.prev_sample
    found = ddim(prior, CFG(TEXT, 3.0), noise, steps=9)
    assert torch.allclose(found, step.pred_original_sample, atol=1e-3)
    assert not found.requires_grad
