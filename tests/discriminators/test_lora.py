"""LoRA on a tiny UNet: exact at the start, learns alone, switches off without a trace, survives checkpoints."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from asdkit.discriminators.adapters import LoRA
from asdkit.discriminators.discriminator import Discriminator
from asdkit.distillation import Distillation
from asdkit.generators.gaussians import Gaussians
from asdkit.methods import ASD
from asdkit.priors.pretrained import Pretrained
from asdkit.rendering.cameras import Views, ring
from asdkit.scores.conditions import Condition
from asdkit.scores.fields import Field
from asdkit.scores.prior import Noised

Y = Condition("a red cube")
B = 3


@pytest.fixture
def prior(tiny_folder: Path) -> Pretrained:
    prior = Pretrained(str(tiny_folder))
    prior.setup()
    return prior


def _draw(prior: Pretrained, views: Views | None = None, seed: int = 0) -> Noised:
    random = torch.Generator().manual_seed(seed)
    x0, eps = (torch.randn(B, 4, 8, 8, generator=random) for _ in range(2))
    return prior.draw(x0, torch.tensor([20, 500, 970]), eps, ring(B) if views is None else views)


def _attached(adapter: LoRA, prior: Pretrained) -> Discriminator:
    phi = Discriminator(adapter, text=Y.text)
    phi.setup(prior)
    return phi


def _learn(phi: Field, prior: Pretrained, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in phi.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        phi.loss(_draw(prior, seed=step)).backward()
        optimizer.step()


def _base(prior: Pretrained) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in prior.state_dict().items() if "lora" not in key}


@pytest.mark.parametrize("camera", [True, False])
def test_starts_at_the_prior_bitwise(prior: Pretrained, camera: bool) -> None:
    x = _draw(prior)
    before = x.predict(Y)
    adapter = LoRA(camera=camera)
    _attached(adapter, prior)
    x = _draw(prior)
    assert torch.equal(x.predict(Y), before)
    assert torch.equal(x.predict(Y, adapter), before)
    assert (adapter.camera is not None) == camera


def test_learns_and_leaves_the_base_alone(prior: Pretrained) -> None:
    adapter = LoRA(rank=2)
    before = _draw(prior).predict(Y)
    phi = _attached(adapter, prior)
    base, weights = _base(prior), {key: p.detach().clone() for key, p in phi.named_parameters()}
    assert weights and all(p.requires_grad for p in phi.parameters())
    _learn(phi, prior)
    for key, parameter in phi.named_parameters():
        assert not torch.equal(parameter, weights[key]), key
    assert all(torch.equal(value, base[key]) for key, value in _base(prior).items())
    assert all(value.grad is None for key, value in prior.named_parameters() if "lora" not in key)
    x = _draw(prior)
    assert torch.equal(x.predict(Y), before)
    assert (x.predict(Y, adapter) - before).abs().max() > 1e-3


def test_switches_off_even_after_an_error(prior: Pretrained) -> None:
    adapter = LoRA()
    phi = _attached(adapter, prior)
    _learn(phi, prior)
    before = _draw(prior).predict(Y)
    with pytest.raises(RuntimeError, match="in between"), adapter.switched_on(ring(B), 1):
        raise RuntimeError("in between")
    assert torch.equal(_draw(prior).predict(Y), before)


def test_the_camera_matters_after_training(prior: Pretrained) -> None:
    """Only through phi's own camera network: view words and the prior's camera are the same in both."""
    adapter = LoRA(camera=True)
    phi = _attached(adapter, prior)
    _learn(phi, prior)
    near, far = ring(B), ring(B, distance=9.0)
    prior.camera = None
    one, two = _draw(prior, near), _draw(prior, far)
    assert torch.equal(one.predict(Y), two.predict(Y))
    assert not torch.allclose(one.predict(Y, adapter), two.predict(Y, adapter), atol=1e-4)
    with torch.no_grad():
        adapter.camera.out.weight.zero_()
        adapter.camera.out.bias.zero_()
    one.forget(adapter)
    two.forget(adapter)
    assert torch.equal(one.predict(Y, adapter), two.predict(Y, adapter))


def test_without_a_camera_network_only_the_text_knows_the_view(prior: Pretrained) -> None:
    adapter = LoRA(camera=False)
    _learn(_attached(adapter, prior), prior)
    prior.camera = None
    near, far = ring(B), ring(B, distance=9.0)
    assert torch.equal(_draw(prior, near).predict(Y, adapter), _draw(prior, far).predict(Y, adapter))


def test_each_row_has_its_own_camera_offset(prior: Pretrained) -> None:
    """A batch of several conditions repeats the cameras in the order of the rows."""
    adapter = LoRA(camera=True)
    _learn(_attached(adapter, prior), prior)
    conditions = [Y, Condition("a blue ball"), Condition("a red cube", view_dependent=False)]
    together = prior.predict(_draw(prior), conditions, adapter)
    for condition, rows in zip(conditions, together, strict=True):
        assert torch.allclose(prior.predict(_draw(prior), [condition], adapter)[0], rows, atol=1e-5)


@pytest.mark.parametrize("before_setup", [True, False])
def test_state_dict_round_trip(prior: Pretrained, tiny_folder: Path, before_setup: bool) -> None:
    phi = _attached(LoRA(rank=2), prior)
    _learn(phi, prior)
    expected, state = _draw(prior).predict(Y, phi.adapter), phi.state_dict()
    assert state and any("lora_A" in key for key in state) and any("camera" in key for key in state)
    other = Pretrained(str(tiny_folder))
    other.setup()
    base = _draw(other).predict(Y)
    copy = Discriminator(LoRA(rank=2, init_seed=9), text=Y.text)
    if before_setup:
        copy.load_state_dict(state, strict=False)
        copy.setup(other)
    else:
        copy.setup(other)
        copy.load_state_dict(state)
    assert torch.equal(_draw(other).predict(Y), base)  # a loaded adapter is off until it is switched on
    assert torch.equal(_draw(other).predict(Y, copy.adapter), expected)
    again = copy.state_dict()
    assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)


def test_alpha_scales_the_update(tiny_folder: Path) -> None:
    changes = []
    for alpha in (0.0, 2.0, 4.0):
        prior = Pretrained(str(tiny_folder))
        prior.setup()
        adapter = LoRA(rank=2, alpha=alpha, camera=False, targets=("attn2.to_out.0",))
        _attached(adapter, prior)
        with torch.no_grad():
            for key, parameter in adapter.weights.items():
                parameter.fill_(1e-3 if "lora_A" in key else 1e-2)
        x = _draw(prior)
        changes.append(x.predict(Y, adapter) - x.predict(Y))
    assert torch.allclose(changes[0], changes[1])  # 0 stands for alpha = rank, a scale of 1
    assert (changes[2].norm() / changes[1].norm()).item() == pytest.approx(2, rel=0.05)


def test_init_seed_and_the_global_random_state(tiny_folder: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        prior = Pretrained(str(tiny_folder))
        prior.setup()
        adapter, before = LoRA(init_seed=seed), torch.random.get_rng_state()
        adapter.setup(prior)
        adapter.setup(prior)
        assert torch.equal(before, torch.random.get_rng_state())
        weights.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_several_adapters_on_one_network_do_not_disturb_each_other(prior: Pretrained) -> None:
    plain = _draw(prior).predict(Y)
    fields = [_attached(LoRA(rank=2, init_seed=k), prior) for k in range(3)]
    assert all(p.requires_grad for phi in fields for p in phi.parameters())
    counts = [len(phi.adapter.weights) for phi in fields]
    assert counts[0] == counts[1] == counts[2] > 0
    identities = [{id(p) for p in phi.parameters()} for phi in fields]
    assert not identities[0] & identities[1] and not identities[1] & identities[2] and not identities[0] & identities[2]
    for trained in range(3):
        before = [_draw(prior).predict(Y, phi.adapter).detach() for phi in fields]
        _learn(fields[trained], prior, steps=1 + trained)
        after = [_draw(prior).predict(Y, phi.adapter).detach() for phi in fields]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [k != trained for k in range(3)]
    assert torch.equal(_draw(prior).predict(Y), plain)


def test_the_prior_is_never_in_a_checkpoint(tiny_folder: Path) -> None:
    model = Distillation("a red cube", Pretrained(str(tiny_folder)), Gaussians(count=20, capacity=30), ASD())
    model.setup()
    state = model.state_dict()
    assert not [key for key in state if key.startswith("prior")]
    learning = sum(p.numel() for p in model.guidance.parameters())
    assert sum(value.numel() for key, value in state.items() if key.startswith("guidance")) == learning
    assert [key for key in state if key.startswith("generator")]
    assert {id(p) for p in model.guidance.parameters()} <= {id(p) for p in model.parameters()}


def test_impossible_adapters_are_refused(prior: Pretrained) -> None:
    with pytest.raises(ValueError, match="rank must be at least 1; got 0"):
        LoRA(rank=0)
    with pytest.raises(ValueError, match="no layer named nothing, nowhere; set targets"):
        LoRA(targets=("nothing", "nowhere")).setup(prior)
