"""A prompt of its own for each sample: each row is what a draw of that sample alone has, in the same network calls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.exact import Brightness, close, e, exact_prior, randn
from support.exact import ready as lab_ready
from support.tiny import loaded

import asdkit
from asdkit.rendering.cameras import Batch, Views, ring
from asdkit.scores.draws import Draws
from asdkit.scores.prior import NULL, Condition, Noised, Words

RUN, OWN = "a red view", ("a red cube", "a cube", "a red cube", "red")
B = len(OWN)
SOME = torch.tensor([20, 500, 700, 970])


@pytest.fixture
def prior(tiny_folder: Path) -> asdkit.Pretrained:
    return loaded(tiny_folder).double()  # a row's last bits depend on how many rows there are


def cameras() -> Views:
    views = ring(B, offset_deg=20.0)
    return replace(views, **{name: tensor.double() for name, tensor in views.tensors.items()})


def drawn(prior: asdkit.Pretrained, prompts: Any = OWN, rows: slice = slice(None), seen: bool = True) -> Noised:
    """The same draw, or some samples of it."""
    x0, eps = randn(2, B, 4, 8, 8)
    views, own = cameras()[rows] if seen else None, {RUN: prompts} if prompts else {}
    return prior.draw(x0[rows], SOME[rows], eps[rows], views, prompts=own)


def alone(prior: asdkit.Pretrained, seen: bool = True) -> list[Noised]:
    return [drawn(prior, (), slice(b, b + 1), seen) for b in range(B)]


def learned(adapter: asdkit.Adapter, prior: asdkit.Pretrained) -> asdkit.Adapter:
    asdkit.Discriminator(adapter, text=RUN).setup(prior)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return adapter.double()


@pytest.mark.parametrize("words", ["nearest", "blended", "front", "side"])
@pytest.mark.parametrize("make", [None, asdkit.LoRA, asdkit.Embedding])
def test_each_row_has_its_own_prompt_in_one_call(prior: asdkit.Pretrained, make: Any, words: Words) -> None:
    adapter = make and learned(make(), prior)
    x, calls = drawn(prior), []
    prior.network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    x.prefetch([NULL, Condition(RUN, words=words)], adapter)
    assert calls == [2 * B]
    for b, single in enumerate(alone(prior)):
        expected = single.predict(Condition(OWN[b], words=words), adapter)
        assert torch.allclose(x.predict(Condition(RUN, words=words), adapter)[b], expected[0], rtol=0, atol=1e-6)
        assert torch.allclose(x.predict(NULL, adapter)[b], single.predict(NULL, adapter)[0], rtol=0, atol=1e-6)
    other = Condition("a blue ball", words=words)
    assert torch.equal(x.predict(other), drawn(prior, ()).predict(other)), "other texts are the same for all"


def test_one_prompt_for_all_is_that_prompt_and_perp_neg_is_each_samples_own(prior: asdkit.Pretrained) -> None:
    x, plain = drawn(prior, (OWN[0],) * B), drawn(prior, ())
    assert torch.equal(x.predict(Condition(RUN)), plain.predict(Condition(OWN[0])))

    def bound(prompt: str) -> asdkit.Field:
        field = asdkit.SDS(7.5)
        field.bind(prompt, cfg=asdkit.CFGOptions(perp_neg=asdkit.PerpNeg()))
        field.setup(prior)
        return field

    value = bound(RUN)(drawn(prior))
    for b, single in enumerate(alone(prior)):
        assert torch.allclose(value[b], bound(OWN[b])(single)[0], rtol=1e-5, atol=1e-5)


def test_a_discriminator_learns_each_samples_own(prior: asdkit.Pretrained) -> None:
    """Eq. 9; its real samples are the prior's for each prompt, and derived draws keep their samples' prompts."""
    real = asdkit.PriorSamples(1, steps=2)
    phi = asdkit.Discriminator(learned(asdkit.LoRA(2), prior), -0.5, RUN, real_samples=real)
    loss, losses, reals = phi.loss(drawn(prior, seen=False)), [], []
    for b, single in enumerate(alone(prior, seen=False)):
        phi.text = OWN[b]
        losses.append(phi.loss(single))
        reals.append(phi.real_draw(single).x0[0])
    phi.text = RUN
    assert torch.allclose(phi.real_draw(drawn(prior, seen=False)).x0, torch.stack(reals), rtol=0, atol=1e-6)
    assert torch.allclose(loss, torch.stack(losses).mean(), rtol=1e-5)


def test_a_lab_priors_exact_scores_and_a_scorer_hear_each_samples_own() -> None:
    prior, texts = exact_prior(), ("z", "y", "ugly", "z")
    x0, eps = randn(2, B, 3, 2, 2)
    x = prior.draw(x0, SOME, eps, prompts={"y": texts})
    value = lab_ready(asdkit.CFG(scale=3.0) - asdkit.Later(asdkit.Prompt("y"), 1e-9), prior)(x)
    own = torch.stack([e(x, text)[b] for b, text in enumerate(texts)])
    assert close(value, e(x) + 3 * (own - e(x)) - own)
    scorer, random = Brightness(), torch.Generator().manual_seed(0)
    x = prior.draw(x0, SOME, eps, prompts={"y": ("z", "y", "z", "z")}, random=random)
    lab_ready(asdkit.RewardSDS(scorer, draws=2), prior)(x)
    assert scorer.heard == {"z": 6, "y": 2}


def test_a_batch_says_them_and_its_parts_have_their_own() -> None:
    prior = exact_prior()
    batch = Batch(cameras(), prompts=("z", "y", "ugly", "z"))
    assert [part.prompts for part in batch.split(2)] == [("z", "y"), ("ugly", "z")]
    model = asdkit.Distillation("y", prior, asdkit.Pixels(size=16), asdkit.SDS())
    part = batch.split(2)[1]
    assert model.draws.draw(randn(2, 3, 2, 2), part, 0, "noise").prompts == {"y": ("ugly", "z")}
    assert Draws(prior, asdkit.Timesteps(), 0).draw(randn(4, 3, 2, 2), Batch(cameras()), 0, "noise").prompts == {}
    with pytest.raises(ValueError, match="There are 2 samples, and 4 prompts for them"):
        prior.draw(randn(2, 3, 2, 2), SOME[:2], randn(2, 3, 2, 2), prompts={"y": OWN})
