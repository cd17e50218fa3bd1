"""Frozen layers that multiply in bfloat16 beside a network in single precision, and which CPUs they are for."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from support.resuming import assert_resuming_is_exact, fit, last
from support.tiny import loaded
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

import asdkit
from asdkit.priors import network_runner
from asdkit.priors.network_runner import fastest_dtype, halve
from asdkit.scores.prior import Condition, Noised

ULP = 2.0**-8  # of bfloat16


def _rounded(values: Tensor) -> Tensor:
    return values.bfloat16().double()


multiplies_bfloat16 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="this CPU does not multiply bfloat16: it rounds more"
)


@multiplies_bfloat16
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (3, 2, False), (1, 1, True)])
def test_convolutions_round_what_they_multiply_and_no_more(kernel: int, stride: int, bias: bool) -> None:
    """Against exact products of what bfloat16 makes of x, W and of the gradient; sums err by less than an ulp."""
    plain = nn.Conv2d(6, 5, kernel, stride, kernel // 2, bias=bias).requires_grad_(False)
    half = copy.deepcopy(plain)
    halve(half)
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    weight, constant = _rounded(plain.weight), None if plain.bias is None else _rounded(plain.bias)
    expected = conv2d(_rounded(x.detach()), weight, constant, stride, kernel // 2)
    result = half(x)
    assert result.dtype == torch.float32 and not torch.equal(result, plain(x))
    torch.testing.assert_close(result.double(), expected, rtol=ULP, atol=ULP)
    gradient = torch.randn_like(result)
    (got,) = torch.autograd.grad(result, x, gradient)
    expected = conv_transpose2d(_rounded(gradient), weight, None, stride, kernel // 2, stride - 1)
    torch.testing.assert_close(got.double(), expected, rtol=ULP, atol=ULP)


@multiplies_bfloat16
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_round_what_they_multiply_and_no_more(bias: bool) -> None:
    plain = nn.Linear(6, 5, bias=bias).requires_grad_(False)
    half = copy.deepcopy(plain)
    halve(half)
    x = torch.randn(2, 7, 6, requires_grad=True)
    weight, constant = _rounded(plain.weight), _rounded(plain.bias) if bias else 0
    result = half(x)
    assert result.dtype == torch.float32 and not torch.equal(result, plain(x))
    torch.testing.assert_close(result.double(), _rounded(x.detach()) @ weight.T + constant, rtol=ULP, atol=ULP)
    gradient = torch.randn_like(result)
    (got,) = torch.autograd.grad(result, x, gradient)
    torch.testing.assert_close(got.double(), _rounded(gradient) @ weight, rtol=ULP, atol=ULP)


@pytest.mark.parametrize(("plain", "shape"), [(nn.Conv2d(3, 4, 3), (1, 3, 5, 5)), (nn.Linear(3, 4), (5, 3))])
def test_layers_that_learn_are_plain(plain: nn.Module, shape: tuple[int, ...]) -> None:
    half, x = copy.deepcopy(plain).requires_grad_(False), torch.randn(shape)
    halve(half)
    half(x)
    assert torch.equal(copy.deepcopy(half).requires_grad_(True)(x), plain(x))


@pytest.mark.parametrize("axes", [(), (5,), (2, 5), (2, 5, 6), (2, 5, 6, 7)])
def test_linear_layers_take_any_number_of_axes(axes: tuple[int, ...]) -> None:
    """Four are no pictures, as they are for a convolution."""
    plain, x = nn.Linear(3, 4).requires_grad_(False), torch.randn(*axes, 3)
    half = copy.deepcopy(plain)
    halve(half)
    torch.testing.assert_close(half(x), plain(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("plain", "shape"), [(nn.Conv2d(3, 4, 3), (1, 3, 5, 5)), (nn.Linear(3, 4), (5, 3))])
def test_what_is_first_looked_at_can_be_learned_through(plain: nn.Module, shape: tuple[int, ...]) -> None:
    """The weights are rounded once, also where that is in inference mode, as Lightning's validation is."""
    half, x = copy.deepcopy(plain).requires_grad_(False), torch.randn(shape, requires_grad=True)
    halve(half)
    with torch.inference_mode():
        half(x)
    (gradient,) = torch.autograd.grad(half(x).sum(), x)
    assert gradient.norm() > 0


def _draw(prior: asdkit.Pretrained) -> Noised:
    x0, eps = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return prior.draw(x0, torch.tensor([300, 700]), eps)


def test_a_mixed_prior_is_the_whole_one_to_the_third_digit(tiny_folder: Path) -> None:
    """Its encoder too; a copy that learns, and what is decoded, are the whole one's bit for bit."""
    whole, mixed = (loaded(tiny_folder, dtype=dtype) for dtype in ("float32", "mixed"))
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    images, condition = torch.rand(1, 3, 16, 16), Condition("a red cube")
    numbers = [[prior.encode(images), *prior.predict(_draw(prior), [condition])] for prior in (whole, mixed)]
    for expected, got in zip(*numbers, strict=True):
        assert 0 < (got - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(whole.decode(whole.encode(images)), mixed.decode(whole.encode(images)))
    with mixed.swapped(mixed.copy_network().requires_grad_(True)):
        copied = mixed.predict(_draw(mixed), [condition])[0]
    assert torch.equal(copied, whole.predict(_draw(whole), [condition])[0])


@pytest.mark.parametrize(
    ("cpu", "dtype"),
    [
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, "mixed"),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": False}, "float32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, "mixed"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "float32"),
        ({}, "float32"),  # another architecture
    ],
)
def test_auto_is_decided_once(cpu: dict[str, object], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert fastest_dtype() == dtype
    assert asdkit.Pretrained("toybox", dtype="auto").spec["init_args"]["dtype"] == dtype


@pytest.mark.slow
def test_a_run_goes_on_with_what_was_decided(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, and on a CPU where it would have been decided otherwise."""
    options = ("--model.prior.dtype=auto", "--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]")
    monkeypatch.setattr("asdkit.commands.fit.fastest_dtype", lambda: "mixed")
    straight = assert_resuming_is_exact(recipe, *options, stops=True)
    assert straight["hyper_parameters"]["prior"]["init_args"]["dtype"] == "mixed"
    run = recipe.parent / "runs" / "small" / "halves"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["prior"]["init_args"]["dtype"] == "mixed"
    monkeypatch.setattr("asdkit.commands.fit.fastest_dtype", lambda: "float32")
    monkeypatch.setattr(network_runner, "fastest_dtype", lambda: "float32")
    fit(run, "--trainer.max_steps=7")
    assert last(run)["hyper_parameters"]["prior"]["init_args"]["dtype"] == "mixed"
