"""What makes real priors fit and run: half precision, checkpointing, compilation, tiny autoencoders, no waiting."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.quiet import quiet_trainer
from support.tiny import loaded, ready, save_tiny_pipeline, tiny_vae, unet
from support.tiny_families import make
from torch import Tensor, nn

import asdkit
from asdkit.priors import pretrained
from asdkit.priors.network_runner import NetworkRunner
from asdkit.rendering.cameras import ring
from asdkit.scores.prior import Noised

B = 2


def _roused(field: asdkit.Field) -> asdkit.Field:
    """phi moved away from zero, so that every weight has a gradient."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return field


def _draw(prior: asdkit.Pretrained) -> Noised:
    random = torch.Generator().manual_seed(0)
    x0, eps, source = (torch.randn(B, 4, 8, 8, generator=random) for _ in range(3))
    return prior.draw(x0, torch.tensor([300, 700]), eps, ring(B), source=source)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("adapter", [asdkit.LoRA, asdkit.Embedding, asdkit.UNetCopy])
def test_half_networks_learn_in_single_precision(tiny_folder: Path, dtype: str, adapter: type[asdkit.Adapter]) -> None:
    whole, half = (loaded(tiny_folder, dtype=name) for name in ("float32", dtype))
    assert torch.equal(_draw(half).x_t, _draw(whole).x_t) and half.schedule.alphas.dtype == torch.float64
    fields = [_roused(ready(asdkit.ASD(adapter=adapter()), prior)) for prior in (whole, half)]
    assert {p.dtype for p in half.network.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    assert {p.dtype for field in fields for p in field.parameters()} == {torch.float32}
    tolerance = {"bfloat16": 0.06, "float16": 0.008}[dtype]
    expected, halved = (field(_draw(prior)).detach() for field, prior in zip(fields, (whole, half), strict=True))
    assert (halved - expected).norm() < tolerance * expected.norm()
    expected, halved = (_kept(field, prior)[0] for field, prior in zip(fields, (whole, half), strict=True))
    assert set(halved) == set(expected) and {gradient.dtype for gradient in halved.values()} == {torch.float32}
    for name, gradient in expected.items():
        assert (halved[name] - gradient).norm() < 2 * tolerance * gradient.norm() + 1e-3, name


@pytest.mark.parametrize(
    "generator",
    [asdkit.Pixels(count=2, size=16), asdkit.Gaussians(count=20, capacity=20, rounds=asdkit.Rounds(every=0))],
)
def test_a_run_with_a_half_prior_keeps_what_learns_whole(tiny_folder: Path, generator: asdkit.Generator) -> None:
    start = {name: p.detach().clone() for name, p in generator.named_parameters()}
    module = _fit(asdkit.Pretrained(str(tiny_folder), dtype="bfloat16"), generator, asdkit.ASD(), {"steps": 3})
    parameters = dict(module.guidance.named_parameters()) | dict(generator.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert any(not torch.equal(p, start[name]) for name, p in generator.named_parameters())
    assert any(p.abs().max() > 0 for name, p in module.guidance.named_parameters() if "lora_B" in name)


def _fit(
    prior: asdkit.Pretrained, generator: asdkit.Generator, guidance: asdkit.Field, how: dict[str, Any], **settings: Any
) -> asdkit.Distillation:
    """A run by a Trainer that is told how."""
    module = asdkit.Distillation("a red cube", prior, generator, guidance, **settings)
    images = isinstance(generator, asdkit.Pixels | asdkit.Latents)
    data = asdkit.Canvas(size=16) if images else asdkit.Cameras(views_per_step=2, size=16)
    quiet_trainer(**{"log_every_n_steps": 100, "callbacks": []} | how).fit(module, datamodule=data)
    return module


GUIDANCES: dict[str, Callable[[], asdkit.Field]] = {
    "LoRA": lambda: asdkit.ASD(adapter=asdkit.LoRA()),
    "LoRA on convolutions": lambda: asdkit.ASD(adapter=asdkit.LoRA(targets=("to_q", "conv1"))),
    "two LoRAs": lambda: asdkit.DeltaASD(),
    "embedding": lambda: asdkit.ASD(adapter=asdkit.Embedding()),
    "copy": lambda: asdkit.ASD(adapter=asdkit.UNetCopy()),
}


def _backward(scalar: Callable[[], Tensor]) -> int:
    """The bytes that were kept for the backward pass."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = scalar()
    loss.backward()
    return sum(storages.values())


def _kept(field: asdkit.Field, prior: asdkit.Pretrained) -> tuple[dict[str, Tensor], int]:
    """Gradients, and how many bytes were kept for them."""
    kept = _backward(lambda: field.loss(_draw(prior)))
    return {name: p.grad for name, p in field.named_parameters() if p.grad is not None}, kept


def _assert_close(gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(gradients) == set(expected)
    for key, gradient in expected.items():
        assert torch.allclose(gradients[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), key


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {"unet": tiny_folder, **{kind: make(kind, root / kind)[0] for kind in ("sd3", "flux", "pixart")}}


CHECKPOINTED = [("unet", name) for name in GUIDANCES]
CHECKPOINTED += [(kind, name) for kind in ("sd3", "flux", "pixart") for name in ("LoRA", "two LoRAs", "copy")]


@pytest.mark.parametrize(("kind", "name"), CHECKPOINTED)
def test_checkpointing_changes_no_gradient_and_keeps_less(folders: dict[str, Path], kind: str, name: str) -> None:
    priors = [loaded(folders[kind], checkpointing=checkpointing) for checkpointing in (False, True)]
    fields = [_roused(ready(GUIDANCES[name](), prior, source="a red cone")) for prior in priors]
    (expected, much), (gradients, little) = map(_kept, fields, priors)
    _assert_close(gradients, expected)
    assert 2 * sum(bool(g.any()) for g in expected.values()) > len(expected) and little < 0.7 * much


def test_checkpointing_covers_the_autoencoder(kl_folder: Path) -> None:
    many = torch.rand(1, 3, 16, 16, requires_grad=True)
    few = many.detach().clone().requires_grad_()
    plain, prior = loaded(kl_folder), loaded(kl_folder, checkpointing=True)
    much = _backward(lambda: plain.encode(many).square().sum())
    assert _backward(lambda: prior.encode(few).square().sum()) < 0.7 * much
    assert torch.allclose(few.grad, many.grad, rtol=1e-5, atol=1e-7)


def test_the_other_adapter_may_be_used_before_the_backward_pass(tiny_folder: Path) -> None:
    """What is computed again has the adapter of the forward pass, whatever was on since; and is off afterwards."""
    expected = None
    for checkpointing in (False, True):
        prior = loaded(tiny_folder, checkpointing=checkpointing)
        field = _roused(ready(asdkit.DeltaASD(), prior, source="a red cone"))
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


@pytest.fixture(scope="module")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior whose network is soon compiled."""
    folder = save_tiny_pipeline(tmp_path_factory.mktemp("block") / "prior")
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "mid_block_type": None, "up_block_types": ("UpBlock2D",)}
    torch.manual_seed(0)
    unet(16, block_out_channels=(8,), **blocks).save_pretrained(folder / "unet")
    return folder


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
    for name in ("_add_time_offset", "checkpointed"):  # type checks of the tests themselves would be compiled, too
        monkeypatch.setattr(NetworkRunner, name, inspect.unwrap(getattr(NetworkRunner, name)))
    monkeypatch.setattr(torch, "compile", lambda *args, **settings: compiled(*args, backend=backend, **settings))
    yield backend
    torch._dynamo.reset()


class Glances(pl.Callback):
    """Looks at the run as snapshots do, at other batch sizes; afterwards no graph may be new."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.counts = graphs, []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: asdkit.Distillation, *rest: Any) -> None:
        x0 = torch.zeros(5, 4, 8, 8)
        views = None if trainer.datamodule.look(1) is None else ring(5, size=16)
        x = pl_module.prior.draw(x0, torch.full((5,), 500), torch.ones_like(x0), views)
        with torch.no_grad():
            pl_module.guidance(x)
        self.counts.append(self.graphs.count)


COMPILED: dict[str, tuple[Callable[[], asdkit.Field], dict[str, Any], bool | str, int | None]] = {
    # name: guidance, settings, what is compiled, graphs if they are counted
    # of shared draws: the frozen network on two conditions; the adapted one
    "shared": (lambda: asdkit.ASD(), {"discriminator": asdkit.DiscriminatorSteps(2)}, True, 2),
    "embedding": (lambda: asdkit.ASD(adapter=asdkit.Embedding()), {}, True, 2),
    # further: e_phi without gradient, e_y of one condition
    "own draws": (lambda: asdkit.ASD(), {"discriminator": asdkit.DiscriminatorSteps(share_noise=False)}, True, 4),
    "blocks that repeat": (lambda: asdkit.ASD(), {}, "blocks", None),
    "blocks of a copy": (lambda: asdkit.ASD(adapter=asdkit.UNetCopy()), {}, "blocks", None),
}


@pytest.mark.parametrize("name", COMPILED)
def test_training_has_two_graphs_and_no_more(one_block: Path, graphs: Graphs, name: str) -> None:
    guidance, settings, what, expected = COMPILED[name]
    runs = []
    for compile in (False, what):
        torch.manual_seed(0)
        few = asdkit.Gaussians(count=20, capacity=20, rounds=asdkit.Rounds(every=0))
        generator = few if name == "shared" else asdkit.Latents(count=3, size=16)
        glances, prior = Glances(graphs), asdkit.Pretrained(str(one_block), compile=compile)
        how = {"steps": 4, "log_every_n_steps": 2, "callbacks": [glances]}
        runs.append(_fit(prior, generator, guidance(), how, **settings))
        assert compile or graphs.count == 0
    assert glances.counts == [expected or glances.counts[-1]] * 4 and glances.counts[0] > 0
    for part in ("generator", "guidance"):
        eager, compiled = (list(getattr(run, part).parameters()) for run in runs)
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(eager, compiled, strict=True))
    assert any(p.abs().max() > 0.01 for p in compiled if p.requires_grad)


def test_another_model_that_phi_adapts_is_compiled_and_so_is_checkpointing(one_block: Path, graphs: Graphs) -> None:
    other = asdkit.Pretrained(str(one_block), compile=True)
    guidance = asdkit.ASD(adapter=asdkit.LoRA(prior=other))
    _fit(asdkit.Pretrained(str(one_block)), asdkit.Latents(count=2, size=16), guidance, {"steps": 1})
    assert graphs.count == 1
    results = []
    for together in (False, True):
        prior = loaded(one_block, checkpointing=together, compile=together)
        field = _roused(ready(asdkit.ASD(), prior))
        with prior.in_step():
            results.append(_kept(field, prior)[0])
    assert graphs.count > 1
    _assert_close(*results)


def test_convolutions_change_their_axes_on_cuda_alone(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, expected = torch.rand(1, 3, 16, 16), []
    for devices in (("cuda",), ("cpu",)):
        monkeypatch.setattr(pretrained, "CHANNELS_LAST_ON", devices)
        prior = loaded(tiny_folder)
        field = _roused(ready(asdkit.ASD(), prior))
        prior.to("cpu")
        for part in (prior.network, prior.vae):
            weights = [m.weight for m in part.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
            last = [w for w in weights if w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous()]
            assert len(last) == (sum(min(w.shape[:2]) > 1 for w in weights) if "cpu" in devices else 0)
        expected.append((field(_draw(prior)).detach(), prior.encode(images)))
    (plain, x0), (last, its) = expected
    assert torch.allclose(plain, last, atol=1e-4) and torch.allclose(x0, its, atol=1e-5)


def test_a_tiny_autoencoder_speaks_scaled_latents_or_is_refused(kl_folder: Path, tmp_path: Path) -> None:
    tiny = tiny_vae().eval()
    tiny.save_pretrained(tmp_path)
    prior = loaded(kl_folder, tiny_vae=str(tmp_path))
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    x0 = prior.encode(images)
    expected = tiny.encode(2 * images - 1).latents  # its scaling factor is 1: no 0.18215
    assert torch.allclose(x0, expected, atol=1e-6) and x0.shape[1:] == prior.latent_shape(16, 16)
    (gradient,) = torch.autograd.grad(x0.square().sum(), images)
    (its,) = torch.autograd.grad(expected.square().sum(), images)
    assert torch.allclose(gradient, its, atol=1e-5) and gradient.abs().max() > 0
    with torch.no_grad():
        shown = (tiny.decode(x0).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(prior.decode(x0), shown, atol=1e-6)
    assert not any(p.requires_grad for p in prior.parameters())
    own = loaded(kl_folder)
    assert not torch.allclose(own.encode(images), x0, atol=1e-2)
    assert prior.digest != own.digest and prior.digest.startswith(own.digest)
    tiny_vae(16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"16 channels and the prior's latents 4; name one of its family\.$"):
        loaded(kl_folder, tiny_vae=str(tmp_path))
    with pytest.raises(ValueError, match="There is no"):
        loaded(kl_folder, tiny_vae=str(tmp_path / "none"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [asdkit.Pixels, asdkit.Latents])
def test_a_step_on_cuda_does_not_wait(tiny_folder: Path, kind: type[asdkit.Generator]) -> None:
    class Strict(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *rest: Any) -> None:
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step > 2 else "default")

        def on_train_batch_end(self, *rest: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    prior = asdkit.Pretrained(str(tiny_folder), dtype="bfloat16")
    how = {"steps": 6, "callbacks": [Strict()], "accelerator": "cuda"}
    _fit(prior, kind(count=2, size=16), asdkit.ASD(), how)
