"""Adapters on a tiny UNet: exact at the start, learn alone, leave the prior as it was, survive checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support.exact import exact_prior, randn, ready
from support.tiny import loaded
from torch import Tensor

from asdkit import ASD, LODS, SDS, Discriminator, Distillation, Field, Gaussians, PeftAdapter, Pretrained
from asdkit.discriminators.adapters import Attached, Embedding, LoRA, UNetCopy, adapter_of
from asdkit.lab import Affine, FiniteSetPrior, GaussianPrior, gaussian_eps
from asdkit.rendering.cameras import Views, ring
from asdkit.scores.prior import Condition, Noised
from asdkit.testing import check_adapter

Y = Condition("a red cube")
B = 3
LoHa = partial(PeftAdapter, "LoHa")
EACH = pytest.mark.parametrize("make", [LoRA, LoHa, Embedding, UNetCopy])
Make = Callable[..., Attached]


@pytest.fixture
def prior(tiny_folder: Path) -> Pretrained:
    return loaded(tiny_folder)


def draw(prior: Pretrained, views: Views | None = None, seed: int = 0) -> Noised:
    x0, eps = randn(2, B, 4, 8, 8, seed=seed).float()
    return prior.draw(x0, torch.tensor([20, 500, 970]), eps, ring(B) if views is None else views)


def attached(adapter: Attached, prior: Pretrained) -> Discriminator:
    phi = Discriminator(adapter, text=Y.text)
    phi.setup(prior)
    return phi


def learn(phi: Field, prior: Pretrained, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in phi.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        phi.loss(draw(prior, seed=step)).backward()
        optimizer.step()


def frozen(prior: Pretrained) -> dict[str, Tensor]:
    """Copies of the prior's own weights, by the names that they have without a LoRA."""
    state = {key.replace(".base_layer", ""): value for key, value in prior.state_dict().items()}
    return {key: value.clone() for key, value in state.items() if not adapter_of(key)}


@EACH
@pytest.mark.slow
def test_passes_the_check(tiny_folder: Path, make: Make) -> None:
    """It starts at e_y to the bit, switches off, even after an error, and survives checkpoints."""
    check_adapter(make, lambda: Pretrained(str(tiny_folder)))


KINDS = {
    "DoRA": {"r": 2}, "LoHa": {}, "LoKr": {"r": 2}, "KronA": {}, "IA3": {}, "OFT": {"oft_block_size": 4},
    "HRA": {"r": 2}, "FourierFT": {"init_weights": True, "n_frequency": 4},
}  # fmt: skip
OF_PEFT = [partial(PeftAdapter, kind.lower(), options) for kind, options in KINDS.items()]


@pytest.mark.parametrize("make", [LoRA, Embedding, UNetCopy, *OF_PEFT], ids=["LoRA", "Embedding", "copy", *KINDS])
def test_starts_at_the_prior_learns_and_leaves_it_alone(prior: Pretrained, make: Make) -> None:
    """Each of its weights learns, and none of the prior's."""
    before, base = draw(prior).predict(Y), frozen(prior)
    embeddings = {text: rows["text"].clone() for text, rows in prior.prompts.embedded.items()}
    phi = attached(make(), prior)
    x, weights = draw(prior), {key: parameter.detach().clone() for key, parameter in phi.named_parameters()}
    assert weights and all(p.requires_grad for p in phi.parameters())
    assert torch.equal(x.predict(Y), before)
    rounding = 1e-5 if getattr(phi.adapter, "kind", "") == "hra" else 0
    assert torch.allclose(x.predict(Y, phi.adapter), before, rtol=0, atol=rounding)
    learn(phi, prior)
    assert not [key for key, parameter in phi.named_parameters() if torch.equal(parameter, weights[key])]
    learned = list(phi.parameters())
    phi.setup(prior)  # a second time does nothing
    assert all(one is two for one, two in zip(phi.parameters(), learned, strict=True))
    now, x = frozen(prior), draw(prior)
    assert now.keys() == base.keys() and all(torch.equal(now[key], base[key]) for key in base)
    assert all(torch.equal(prior.prompts.embedded[text]["text"], row) for text, row in embeddings.items())
    own = [parameter for key, parameter in prior.named_parameters() if not adapter_of(key)]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in own)
    assert torch.equal(x.predict(Y), before) and (x.predict(Y, phi.adapter) - before).abs().max() > 1e-4


@EACH
@pytest.mark.slow
def test_the_camera_matters_after_training(prior: Pretrained, make: Make) -> None:
    """Only through phi's own camera network: view words are the same in both."""
    phi = attached(make(), prior)
    learn(phi, prior)
    prior.camera = None
    one, two = draw(prior, ring(B)), draw(prior, ring(B, distance=9.0))
    assert torch.equal(one.predict(Y), two.predict(Y))
    assert not torch.allclose(one.predict(Y, phi.adapter), two.predict(Y, phi.adapter), atol=1e-4)
    with torch.no_grad():
        phi.adapter.camera.out.weight.zero_()
        phi.adapter.camera.out.bias.zero_()
    phi.forget(one), phi.forget(two)
    assert torch.equal(one.predict(Y, phi.adapter), two.predict(Y, phi.adapter))
    blind = attached(make(camera=False), prior)
    learn(blind, prior)
    assert torch.equal(one.predict(Y, blind.adapter), two.predict(Y, blind.adapter))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("VeRA", {}, "VeRA can't be phi of this network: .* shared state"),
        ("FourierFT", {"init_weights": False, "n_frequency": 4}, "FourierFT does not start at e_y"),
        ("LoRA", {"init_lora_weights": "pissa"}, "LoRA with these options changes the prior's own weights"),
        ("LoHa", {"rank": 4}, "LoHa can't be phi of this network: it has no option rank; it has alpha, "),
        ("LoHa", {"r": -1}, "LoHa can't be phi of this network: .*positive integer"),
        ("LoHa", {"module_dropout": 0.5}, "phi can't have module_dropout"),
        ("LoRRA", {}, "LoRRA can't be phi of this network: there is no such kind; there are .*LOKR, LORA"),
    ],
)
def test_what_cannot_be_phi_is_refused_in_a_sentence(prior: Pretrained, kind: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PeftAdapter(kind, options).setup(prior)


def test_alpha_scales_the_update(tiny_folder: Path) -> None:
    changes = []
    for alpha in (0.0, 2.0, 4.0):
        prior = loaded(tiny_folder)
        adapter = LoRA(rank=2, alpha=alpha, camera=False, targets=("attn2.to_out.0",))
        attached(adapter, prior)
        with torch.no_grad():
            for key, parameter in adapter.weights.items():
                parameter.fill_(1e-3 if "lora_A" in key else 1e-2)
        x = draw(prior)
        changes.append(x.predict(Y, adapter) - x.predict(Y))
    assert torch.allclose(changes[0], changes[1])  # 0 stands for alpha = rank, a scale of 1
    assert (changes[2].norm() / changes[1].norm()).item() == pytest.approx(2, rel=0.05)


def test_init_seed_and_the_global_random_state(tiny_folder: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        prior = loaded(tiny_folder)
        adapter, before = LoRA(init_seed=seed), torch.random.get_rng_state()
        adapter.setup(prior)
        adapter.setup(prior)
        assert torch.equal(before, torch.random.get_rng_state())
        weights.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_prior_is_never_in_a_checkpoint(tiny_folder: Path) -> None:
    model = Distillation("a red cube", Pretrained(str(tiny_folder)), Gaussians(count=20, capacity=30), ASD())
    model.setup()
    state = model.state_dict()
    assert not [key for key in state if key.startswith("prior")]
    learning = sum(p.numel() for p in model.guidance.parameters())
    assert sum(value.numel() for key, value in state.items() if key.startswith("guidance")) == learning
    assert [key for key in state if key.startswith("generator")]
    assert {id(p) for p in model.guidance.parameters()} <= {id(p) for p in model.parameters()}


@pytest.mark.parametrize("tokens", [1, 3])
def test_an_embedding_moves_the_first_words_alone_or_the_whole_sequence(prior: Pretrained, tokens: int) -> None:
    whole = attached(Embedding(), prior).adapter.weights["offset"].shape
    assert whole == prior.condition_shape == prior.prompts.embedded[Y.text]["text"].shape
    phi = attached(Embedding(tokens, camera=False), prior)
    assert phi.adapter.weights["offset"].shape == (tokens, 16)
    learn(phi, prior)
    rows = prior.prompts.embedded[Y.text]["text"][None]
    with phi.adapter.within(prior):
        moved = prior.moved(rows)[0]
    assert torch.equal(moved[0], rows[0, 0]) and torch.equal(moved[1 + tokens :], rows[0, 1 + tokens :])
    assert torch.equal(moved[1 : 1 + tokens], rows[0, 1 : 1 + tokens] + phi.adapter.weights["offset"])
    assert (moved[1 : 1 + tokens] != rows[0, 1 : 1 + tokens]).any(1).all()


def test_an_embedding_on_a_gaussian_prior_learns_the_generators_mean() -> None:
    """Where the spreads are equal, moving the mean is all that e_phi needs: e_phi* is the generator's own score."""
    prior = GaussianPrior({"y": [1.0, -1.0, 0.5]}, spread=0.5, steps=10).double()
    adapter = Embedding()
    phi = ready(Discriminator(adapter, 0.0), prior)
    z, eps = (torch.tensor([1.0, 1, -1, -1]).double(), torch.tensor([1.0, -1, 1, -1]).double())
    shape, levels = (12, 1, 1, 1), torch.tensor([2, 5, 8]).repeat_interleave(4)
    mean = torch.tensor([0.25, 0.75, -2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    x = prior.draw(mean + 0.5 * z.repeat(3).reshape(shape), levels, eps.repeat(3).reshape(shape).expand(12, 3, 1, 1))
    optimizer = torch.optim.SGD(phi.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        phi.loss(x).backward()
        optimizer.step()
        phi.forget(x)
    shift = mean[0] - torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64).reshape(3, 1, 1)
    assert torch.allclose(adapter.weights["offset"], shift, atol=1e-6)
    assert torch.allclose(phi(x), gaussian_eps(x.x_t, x.alpha, x.sigma, mean, 0.5), atol=1e-6)


def test_lods_starts_as_sds(prior: Pretrained) -> None:
    """Its null condition starts at the prior's, which knows no camera, even where cameras are given."""
    lods, sds = LODS(), SDS(40.0)
    for field in (lods, sds):
        field.bind(Y.text)
        field.setup(prior)
    assert torch.allclose(lods(draw(prior)), sds(draw(prior)), atol=1e-3)


def test_a_copy_hears_the_priors_camera_is_as_large_shares_nothing_and_moves_whole(prior: Pretrained) -> None:
    """The prior's own camera network offsets the copy's time embedding, as it does the original's."""
    phi = attached(UNetCopy(camera=False), prior)
    one, two = draw(prior, ring(B)), draw(prior, ring(B, distance=9.0))
    assert not torch.allclose(one.predict(Y), two.predict(Y), atol=1e-4)
    assert torch.equal(two.predict(Y, phi.adapter), two.predict(Y))
    assert len(prior.network.time_embedding._forward_hooks) == 1
    theirs = {parameter.data_ptr() for parameter in prior.parameters()}
    assert sum(p.numel() for p in phi.parameters()) == sum(p.numel() for p in prior.network.parameters())
    assert not theirs & {parameter.data_ptr() for parameter in phi.parameters()}
    phi.adapter._network.register_buffer("level", torch.ones(1))
    phi.double()
    assert phi.adapter._network.level.dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in phi.adapter._network.parameters())
    assert {id(p) for p in phi.parameters()} == {id(p) for p in phi.adapter._network.parameters()}
    assert all(p.dtype == torch.float32 for p in prior.network.parameters())


PAIRS: list[Callable[[], list]] = [
    lambda: [LoRA(2, init_seed=k) for k in range(3)], lambda: [LoRA(2), Embedding()], lambda: [Embedding(), LoRA(2)],
    lambda: [LoRA(2), UNetCopy()], lambda: [UNetCopy(), Embedding(2), LoRA(2)],
    lambda: [LoRA(2), LoHa(), PeftAdapter("IA3")], lambda: [LoHa(), UNetCopy(), LoHa(init_seed=1)],
]  # fmt: skip


@pytest.mark.parametrize("make", PAIRS)
@pytest.mark.slow
def test_adapters_on_one_prior_do_not_disturb_each_other(prior: Pretrained, make: Callable[[], list]) -> None:
    def predictions() -> list[Tensor]:
        return [draw(prior).predict(Y, phi.adapter).detach() for phi in fields]

    plain = draw(prior).predict(Y)
    fields = [attached(adapter, prior) for adapter in make()]
    parameters = [parameter for phi in fields for parameter in phi.parameters()]
    assert all(p.requires_grad for p in parameters) and len({id(p) for p in parameters}) == len(parameters)
    assert all(torch.allclose(value, plain, atol=1e-6) for value in predictions())
    for trained in range(len(fields)):
        before = predictions()
        learn(fields[trained], prior, steps=1 + trained)
        same = [torch.equal(a, b) for a, b in zip(before, predictions(), strict=True)]
        assert same == [k != trained for k in range(len(fields))]
    assert torch.equal(draw(prior).predict(Y), plain)


def test_a_copy_made_after_a_trained_lora_starts_at_the_prior(prior: Pretrained) -> None:
    """Not at the LoRA's prediction; and it is as large as the network, without the LoRA."""
    plain, lora = draw(prior).predict(Y), attached(LoRA(2), prior)
    learn(lora, prior)
    count = sum(p.numel() for p in prior.network.parameters()) - sum(p.numel() for p in lora.adapter.weights.values())
    phi = attached(UNetCopy(), prior)
    assert torch.equal(draw(prior).predict(Y, phi.adapter), plain)
    assert sum(p.numel() for p in phi.adapter.weights.values()) == count


def test_impossible_adapters_are_refused(prior: Pretrained) -> None:
    with pytest.raises(ValueError, match="no layer named nothing, nowhere; set targets"):
        LoRA(targets=("nothing", "nowhere")).setup(prior)
    finite = FiniteSetPrior()
    finite.add("y", torch.zeros(2, 3, 4, 4))
    for bare in (finite, exact_prior()):
        with pytest.raises(ValueError, match="has no parameters that a copy could learn"):
            UNetCopy().setup(bare)
    with pytest.raises(ValueError, match="FiniteSetPrior has no embedding of prompts that could be learned; use a L"):
        Embedding().setup(finite)


def test_an_affine_adapter_beside_an_embedding() -> None:
    """The lab's own adapter hooks the network, an Embedding what goes into it."""
    prior = exact_prior()
    fields = [ready(Discriminator(adapter, 0.0), prior) for adapter in (Affine(), Embedding())]
    x = prior.draw(randn(4, 3, 2, 2), torch.tensor([20, 300, 700, 979]), randn(4, 3, 2, 2, seed=1))
    plain = x.predict(Condition("y"))
    with torch.no_grad():
        fields[0].adapter.offset.fill_(0.5)
    assert torch.allclose(fields[0](x), plain + 0.5) and torch.equal(fields[1](x), plain)


def test_the_table_of_numbers_that_learn() -> None:
    """docs/discriminators.md counts what the figure about phi compares, on the small prior."""
    layers = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
    kinds = {
        "LoRA, rank 16": LoRA(rank=16, targets=layers),
        "DoRA, `{r: 16, lora_alpha: 16}`": PeftAdapter("DoRA", {"r": 16, "lora_alpha": 16}, layers),
        **{kind: PeftAdapter(kind, {}, layers) for kind in ("LoKr", "LoHa", "IA3")},
        "OFT, on the attention alone": PeftAdapter("OFT", {}, layers[:4]),
        "`Embedding`": Embedding(),
        "`UNetCopy`": UNetCopy(),
    }
    text = (Path(__file__).parents[2] / "docs" / "discriminators.md").read_text("utf-8")
    for kind, adapter in kinds.items():
        phi = attached(adapter, loaded("toybox"))
        assert f"| {kind} | {sum(p.numel() for p in phi.parameters() if p.requires_grad):,} |" in text
    with pytest.raises(ValueError, match="OFT does not start at e_y"):
        attached(PeftAdapter("OFT", {}, layers), loaded("toybox"))
