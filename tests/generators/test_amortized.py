"""Prompts that become radiance fields: each row is its own prompt's, in a step and from a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.exact import exact_prior
from torch import Tensor

import asdkit
from asdkit.formats.names import Choices
from asdkit.rendering.cameras import Batch, Views, ring
from asdkit.run.export import export, opened

PROMPTS = ("y", "z", "y", "ugly")


def ready(prior: asdkit.Prior, **settings: Any) -> asdkit.Amortized3D:
    generator = asdkit.Amortized3D(**{"resolution": 8, "features": 2, "width": 4, "samples": 4, **settings})
    generator.take_prompts(["y"])
    generator.setup(prior)
    return generator


def cameras() -> Views:
    views = ring(4, size=6)
    return replace(views, **{name: tensor.double() for name, tensor in views.tensors.items()})


@pytest.fixture
def generator() -> asdkit.Amortized3D:
    return ready(exact_prior()).double()


def test_each_row_is_its_own_prompts_field(generator: asdkit.Amortized3D) -> None:
    """A plain NeRF with the planes of the prompt, seen by its own camera before its own background, and its penalty."""
    views, colours, penalty = cameras(), torch.rand(4, 3).double(), 0.0
    x0, render = generator.encoded(generator.prior, Batch(views, prompts=PROMPTS), colours)
    for row, prompt in enumerate(PROMPTS):
        field = generator.made(prompt)
        assert type(field) is asdkit.NeRF
        alone = field.render(views[row : row + 1], colours[row])
        assert all(torch.allclose(own[row], one[0], rtol=0, atol=1e-12) for own, one in zip(render, alone, strict=True))
        penalty += field.regularizer().detach() / 4
    assert torch.isclose(generator.regularizer(), penalty, rtol=1e-9)
    assert torch.equal(x0, render.image) and (x0[0] - x0[1]).abs().max() > 1e-4
    points = torch.rand(5, 3).double()
    assert torch.equal(generator.volume().radiance(points)[1], generator.made("y").radiance(points)[1])


def test_empty_cells_of_a_prompt_are_skipped_and_would_show_nothing(generator: asdkit.Amortized3D) -> None:
    field, asked = generator.made("z"), []
    field.encoding.register_forward_pre_hook(lambda _, points: asked.append(len(points[0])))
    seen = field.render(cameras()).image
    field.occupancy.fill_(1)
    assert torch.allclose(seen, field.render(cameras()).image, rtol=0, atol=4e-3)
    assert 0 < asked[0] < 0.8 * asked[1]


@pytest.mark.parametrize("rerender", [False, True])
def test_the_gradient_by_finite_differences(generator: asdkit.Amortized3D, rerender: bool) -> None:
    """Of a weighted sum of x0 and the penalty, in a random direction of all weights."""
    batch, white = Batch(cameras(), prompts=PROMPTS), torch.ones(3).double()
    weights = [p for group in generator.parameter_groups() for p in group["params"]]
    mix = torch.randn(4, 3, 6, 6, dtype=torch.float64)

    def value() -> Tensor:
        x0, _ = generator.encoded(generator.prior, batch, white, rerender)
        return (mix * x0).sum() + generator.regularizer()

    gradients = torch.autograd.grad(value(), weights)
    direction = [torch.randn_like(p) for p in weights]
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=step)
        ends.append(value().detach())
    expected = (ends[0] - ends[1]) / 2e-6
    assert torch.isclose(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)), expected, rtol=1e-5)


def test_starts_depend_on_their_seed_alone() -> None:
    first, again, other = (ready(exact_prior(), init_seed=seed).state_dict() for seed in (0, 0, 1))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["hyper.0.weight"], other["hyper.0.weight"])


def test_a_run_is_an_object_without_its_prior(tiny_folder: Path, tmp_path: Path) -> None:
    """It exports, and is the start of Gaussians of a run of its prompt alone."""
    from asdkit.commands.main import main

    small = ["--data.views_per_step=2", "--data.size=16", "--data.orbit.views=2", "--report.size=16"]
    small += ["--model.generator.resolution=8", "--model.generator.samples=8", "--model.generator.blob=30"]
    short = ["--trainer.max_steps=1", "--trainer.callbacks=[]", f"--run.root={tmp_path}", "--run.name=one"]
    prompts = ["--data.prompts=PromptList", "--data.prompts.texts=[a red cube, a red view]"]
    options = [f"--model.prior.path={tiny_folder}", "--model.prompt=a red cube", *prompts, *small, *short]
    assert main(["fit", "--config", "amortized3d", *options]) == 0
    run = tmp_path / "amortized3d" / "one"
    exported = opened(run)
    assert exported.generator.prior is None
    (picture,) = export(run, ["png"], tmp_path, False, Choices(size=16))
    assert picture.is_file()
    assert 0 < asdkit.Gaussians(str(run), count=20, capacity=20).means.norm(dim=1).max() < 2
    with pytest.raises(ValueError, match="the run's own prompt alone"):
        exported.generator.made("a red view")
    other = opened(run, "a red view")
    assert other.name == "a red view"
    assert torch.equal(other.generator.planes(["a red cube"]), exported.generator.planes(["a red cube"]))
    assert not torch.equal(other.generator.planes(["a red view"]), exported.generator.planes(["a red cube"]))
    out = f"--out={tmp_path / 'b'}"
    assert main(["export", str(run), "--format=png", "--prompt=a red view", "--size=16", out]) == 0


def test_a_prompt_that_is_not_learned_is_said(caplog: pytest.LogCaptureFixture) -> None:
    generator = asdkit.Amortized3D(8, 2, 4)
    generator.take_prompts(["a yellow duck"])
    generator.take_prompts(["a red car", "a yellow duck"])
    assert not caplog.messages
    generator.take_prompts(["a red car", "a blue car"])
    assert "'a yellow duck' is none of the 2 prompts of data.prompts" in caplog.text


def test_all_its_rates_move_with_the_iterations() -> None:
    rates = asdkit.NeRFRates(encoding=0.02, factor=asdkit.Ramp(1.0, 0.5, 4))
    generator = ready(exact_prior(), lr=asdkit.Ramp(1e-3, 1e-4, 4), rates=rates)
    optimizer = torch.optim.Adam(generator.parameter_groups())
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert (groups["hyper"]["lr"], groups["encoding"]["lr"]) == (1e-3, 0.02)
    generator.after_step(optimizer, 1, torch.Generator())
    assert (groups["hyper"]["lr"], groups["encoding"]["lr"]) == pytest.approx((5.5e-4, 0.015))
    assert generator.field.iteration == 2
