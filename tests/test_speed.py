"""What makes real priors fit and run: half precision, checkpointing, compilation, tiny autoencoders, no waiting."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import save_tiny_pipeline
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from asdkit.adapters import Embedding, LoRA, UNetCopy
from asdkit.data import Cameras, Canvas
from asdkit.discriminator import Adapter
from asdkit.distillation import Distillation
from asdkit.fields import Field
from asdkit.generators.base import Generator
from asdkit.generators.gaussians import Gaussians
from asdkit.generators.images import Latents, Pixels
from asdkit.guidance import ASD, DeltaASD, SDS
from asdkit.prior import Noised
from asdkit.priors import families, pretrained
from asdkit.priors.pretrained import Pretrained
from asdkit.schedules import rectified_flow, scaled_linear
from asdkit.views import ring

B = 2


def _prior(folder: Path, **settings: Any) -> Pretrained:
    prior = Pretrained(str(folder), **settings)
    prior.setup()
    return prior


def _ready(field: Field, prior: Pretrained) -> Field:
    field.bind("a red cube", "a red cone")
    field.setup(prior)
    return field


def _roused(field: Field) -> Field:
    """phi moved away from zero, so that every weight has a gradient."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return field


def _draw(prior: Pretrained) -> Noised:
    random = torch.Generator().manual_seed(0)
    x0, eps, source = (torch.randn(B, 4, 8, 8, generator=random) for _ in range(3))
    return prior.draw(x0, torch.tensor([300, 700]), eps, ring(B), source=source)


def _learned(field: Field, prior: Pretrained) -> dict[str, Tensor]:
    """Gradients of the discriminator's loss."""
    field.loss(_draw(prior)).backward()
    return {name: p.grad for name, p in field.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("adapter", [LoRA, Embedding])
def test_a_half_network_learns_in_single_precision(tiny_folder: Path, dtype: str, adapter: type[Adapter]) -> None:
    whole, half = (_prior(tiny_folder, dtype=name) for name in ("float32", dtype))
    fields = [_roused(_ready(ASD(adapter=adapter()), prior)) for prior in (whole, half)]
    assert {p.dtype for p in half.network.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    assert {p.dtype for field in fields for p in field.parameters()} == {torch.float32}
    tolerance = {"bfloat16": 0.06, "float16": 0.008}[dtype]
    expected, found = (field(_draw(prior)).detach() for field, prior in zip(fields, (whole, half), strict=True))
    assert (found - expected).norm() < tolerance * expected.norm()
    expected, found = (_learned(field, prior) for field, prior in zip(fields, (whole, half), strict=True))
    assert set(found) == set(expected) and {gradient.dtype for gradient in found.values()} == {torch.float32}
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() < 2 * tolerance * gradient.norm() + 1e-3, name


def test_noise_levels_and_draws_stay_exact_beside_a_half_network(tiny_folder: Path) -> None:
    whole, half = (_prior(tiny_folder, dtype=name) for name in ("float32", "bfloat16"))
    assert torch.equal(_draw(half).x_t, _draw(whole).x_t)
    assert half.schedule.alphas.dtype == torch.float64


def test_a_copy_beside_a_half_network_is_whole(tiny_folder: Path) -> None:
    prior = _prior(tiny_folder, dtype="bfloat16")
    field = _ready(ASD(adapter=UNetCopy()), prior)
    assert {p.dtype for p in field.parameters()} == {torch.float32}
    x = _draw(prior)
    half, whole = x.predict(*_condition(field)), x.predict(*_condition(field), _adapter(field))
    assert not torch.equal(half, whole) and (half - whole).norm() < 0.03 * whole.norm()
    assert {gradient.dtype for gradient in _learned(field, prior).values()} == {torch.float32}


def _discriminator(field: Field) -> Any:
    return next(leaf for leaf in field.leaves() if hasattr(leaf, "adapter"))


def _condition(field: Field) -> list:
    return _discriminator(field).conditions()


def _adapter(field: Field) -> Adapter:
    return _discriminator(field).adapter


@pytest.mark.parametrize("generator", [Pixels(count=2, size=16), Gaussians(count=20, capacity=20, densify_every=0)])
def test_a_run_with_a_half_prior_keeps_what_learns_whole(tiny_folder: Path, generator: Generator) -> None:
    start = {name: p.detach().clone() for name, p in generator.named_parameters()}
    module = _fit(Pretrained(str(tiny_folder), dtype="bfloat16"), generator, ASD())
    parameters = dict(module.guidance.named_parameters()) | dict(generator.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert any(not torch.equal(p, start[name]) for name, p in generator.named_parameters())
    assert any(p.abs().max() > 0 for name, p in module.guidance.named_parameters() if "lora_B" in name)


def _fit(
    prior: Pretrained,
    generator: Generator,
    guidance: Field,
    steps: int = 3,
    log_every: int = 100,
    callbacks: tuple[pl.Callback, ...] = (),
    accelerator: str = "cpu",
    **settings: Any,
) -> Distillation:
    module = Distillation("a red cube", prior, generator, guidance, **settings)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=log_every,
        callbacks=list(callbacks),
    )
    images = isinstance(generator, Pixels | Latents)
    trainer.fit(module, datamodule=Canvas(size=16) if images else Cameras(views_per_step=2, size=16))
    return module


# ----------------------------------------------------------------------------------------------------- checkpointing


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("deep"), kl=True)


GUIDANCES: dict[str, Callable[[], Field]] = {
    "LoRA": lambda: ASD(adapter=LoRA()),
    "LoRA on convolutions": lambda: ASD(adapter=LoRA(targets=("to_q", "conv1"))),
    "two LoRAs": lambda: DeltaASD(),
    "embedding": lambda: ASD(adapter=Embedding()),
    "copy": lambda: ASD(adapter=UNetCopy()),
}


def _kept(field: Field, prior: Pretrained) -> tuple[dict[str, Tensor], int]:
    """Gradients, and how many numbers were kept for the backward pass (those within blocks that are computed again
    are not, but what is asked for inside torch's own checkpoint is no business of outer hooks)."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = field.loss(_draw(prior))
    loss.backward()
    return {name: p.grad for name, p in field.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("name", GUIDANCES)
def test_checkpointing_changes_no_gradient_and_keeps_less(tiny_folder: Path, name: str) -> None:
    found = []
    for checkpointing in (False, True):
        prior = _prior(tiny_folder, checkpointing=checkpointing)
        found.append(_kept(_roused(_ready(GUIDANCES[name](), prior)), prior))
    (expected, much), (gradients, little) = found
    assert len(expected) > 0 and set(gradients) == set(expected)
    for key, gradient in expected.items():
        assert gradient.abs().max() > 0 or "add_" in key, key
        assert torch.allclose(gradients[key], gradient, rtol=1e-5, atol=1e-7), key
    assert little < 0.7 * much


def test_checkpointing_covers_the_autoencoder(deep_folder: Path) -> None:
    images = torch.rand(1, 3, 16, 16)
    found = []
    for checkpointing in (False, True):
        prior, mine = _prior(deep_folder, checkpointing=checkpointing), images.clone().requires_grad_()
        kept: list[int] = []
        keep = lambda tensor: kept.append(tensor.nbytes) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            x0 = prior.encode(mine)
        x0.square().sum().backward()
        found.append((mine.grad, sum(kept)))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-7)
    assert found[1][1] < 0.7 * found[0][1]


def test_the_other_adapter_may_be_used_before_the_backward_pass(tiny_folder: Path) -> None:
    """What is computed again has the adapter of the forward pass, whatever was on since; and is off afterwards."""
    expected = None
    for checkpointing in (False, True):
        prior = _prior(tiny_folder, checkpointing=checkpointing)
        field = _roused(_ready(DeltaASD(), prior))
        phi, psi = (leaf for leaf in field.leaves() if hasattr(leaf, "adapter"))
        x = _draw(prior)
        before = x.predict(*phi.conditions())
        loss = phi(x).square().sum()
        with torch.no_grad():
            psi(x.on_source())
        loss.backward()
        gradients = [p.grad for p in phi.adapter.parameters() if p.grad is not None]
        assert not any(p.grad is not None for p in psi.adapter.parameters())
        assert torch.equal(_draw(prior).predict(*phi.conditions()), before)
        expected = expected or gradients
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(gradients, expected, strict=True))


def _transformer(kind: str, checkpointing: bool) -> Pretrained:
    """A tiny random transformer as a prior; its prompts are random numbers."""
    from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    prompts = {"text": torch.randn(5, 16, generator=random)}
    if kind == "sd3":
        family, pooled = families.StableDiffusion3(), 16
        network = SD3Transformer2DModel(
            sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
            pos_embed_max_size=8,
        )  # fmt: skip
    elif kind == "flux":
        family, pooled = families.Flux(), 16
        network = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
    else:
        family, pooled = families.PixArt(), 0
        network = PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=16, caption_channels=16, sample_size=8, norm_num_groups=2,
        )  # fmt: skip
        prompts["mask"] = torch.ones(5)
    if pooled:
        prompts["pooled"] = torch.randn(pooled, generator=random)
    prior = Pretrained("none", checkpointing=checkpointing)
    prior.family, prior.channels, prior.adapter_targets = family, 4, family.targets
    prior.network = network.requires_grad_(False).eval()
    for module in network.modules():  # what starts as zero would hide what comes before it
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2, generator=random)
    family.time_module(network).register_forward_hook(prior._add_offset)
    prior.time_width, prior.view_words = family.time_width(network), None
    prior.schedule = rectified_flow(torch.linspace(0.001, 1, 1000)) if pooled else scaled_linear()
    prior._embeddings = dict.fromkeys(("", "a red cube", "a red cone"), prompts)
    prior._hasten(network)
    return prior


@pytest.mark.parametrize("guidance", ["LoRA", "two LoRAs", "copy"])
@pytest.mark.parametrize("kind", ["sd3", "flux", "pixart"])
def test_checkpointing_changes_no_gradient_of_transformers(kind: str, guidance: str) -> None:
    found = []
    for checkpointing in (False, True):
        prior = _transformer(kind, checkpointing)
        found.append(_kept(_roused(_ready(GUIDANCES[guidance](), prior)), prior))
    (expected, much), (gradients, little) = found
    assert set(gradients) == set(expected) and sum(bool(g.abs().max() > 0) for g in expected.values()) > 8
    for key, gradient in expected.items():
        assert torch.allclose(gradients[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), key
    assert little < 0.7 * much


# ---------------------------------------------------------------------------------------------------------- compiling


class Graphs:
    """A backend of torch.compile that counts the graphs it is given, and carries them out as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    torch._dynamo.reset()
    backend, compiled = Graphs(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **settings: compiled(*args, backend=backend, **settings))
    yield backend
    torch._dynamo.reset()


class Glances(pl.Callback):
    """Looks at the run as snapshots do, at other batch sizes; afterwards no graph may be new."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.counts = graphs, []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Distillation, *rest: Any) -> None:
        x0 = torch.zeros(5, 4, 8, 8)
        views = None if trainer.datamodule.look(1) is None else ring(5, size=16)
        x = pl_module.prior.draw(x0, torch.full((5,), 500), torch.ones_like(x0), views)
        with torch.no_grad():
            pl_module.guidance(x)
        self.counts.append(self.graphs.count)


COMPILED: dict[str, tuple[Callable[[], Field], dict[str, Any], int]] = {
    "ASD": (lambda: ASD(), {}, 2),  # the frozen network on two conditions, the adapted one with gradient
    "ASD, two steps": (lambda: ASD(), {"critic_steps": 2}, 2),
    "ASD, embedding": (lambda: ASD(adapter=Embedding()), {}, 2),
    "ASD, own draws": (lambda: ASD(), {"share_noise": False}, 4),  # e_phi without gradient, e_y of one condition
    "SDS": (lambda: SDS(), {}, 1),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("cameras", [False, True])
def test_training_has_two_graphs_and_no_more(tiny_folder: Path, graphs: Graphs, name: str, cameras: bool) -> None:
    guidance, settings, expected = COMPILED[name]

    def fit(compile: bool) -> Distillation:
        torch.manual_seed(0)
        generator = Gaussians(count=20, capacity=20, densify_every=0) if cameras else Latents(count=3, size=16)
        prior = Pretrained(str(tiny_folder), compile=compile)
        return _fit(prior, generator, guidance(), 4, log_every=2, callbacks=(glances,), **settings)

    glances = Glances(graphs)
    eager = fit(False)
    assert graphs.count == 0
    glances = Glances(graphs)
    compiled = fit(True)
    assert glances.counts == [expected] * 4
    for mine, its in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(mine, its, atol=1e-5)
    learned = [p for p in compiled.guidance.parameters() if p.requires_grad]
    assert not learned or any(p.abs().max() > 0.01 for p in learned)


def test_checkpointing_and_compiling_go_together(tiny_folder: Path, graphs: Graphs) -> None:
    found = []
    for together in (False, True):
        prior = _prior(tiny_folder, checkpointing=together, compile=together)
        field = _roused(_ready(ASD(), prior))
        with prior.in_step():
            found.append(_learned(field, prior))
    expected, gradients = found
    assert graphs.count >= 1
    for key, gradient in expected.items():
        assert torch.allclose(gradients[key], gradient, rtol=1e-4, atol=1e-6), key
