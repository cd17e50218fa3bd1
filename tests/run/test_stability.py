"""What the judge of stability calls movement and structure, and that a run which goes on has the same figures."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from asdkit import SDS, Canvas, Distillation, FiniteSetPrior, Pixels, StabilityJudge
from asdkit.generators.base import Render
from asdkit.run.judge import correlation, structure


def judged(pictures: dict[int, Tensor], steps: int, interrupted_at: int = 0) -> dict[str, float]:
    """The figures of a run that shows these pictures, each from an iteration on."""
    judge, module = StabilityJudge(), Distillation("y", FiniteSetPrior(), Pixels(count=1), SDS())
    trainer = create_autospec(pl.Trainer, instance=True, max_steps=steps, datamodule=Canvas())
    render = Render(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    for step in range(1, steps + 1):
        render = render._replace(image=pictures.get(step, render.image))
        module.show = lambda views, render=render: render
        trainer.global_step = step
        judge.on_train_batch_end(trainer, module)
        if step == interrupted_at:
            state, judge = judge.state_dict(), StabilityJudge()
            judge.load_state_dict(state)
    return judge.measure(module, trainer.datamodule, None, render)


def test_colours_move_and_structure_stays() -> None:
    """From 40 % of the iterations on, the picture is tinted redder by a tenth, three times."""
    picture = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64) * 0.5
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    tinted = {step: picture + 0.1 * (step - 4) / 2 * red for step in (4, 6, 8, 10)}
    for interrupted_at in (0, 5, 8):
        figures = judged({1: 1 - picture, **tinted}, 10, interrupted_at)
        assert figures["movement"] == pytest.approx(0.1 / 3, abs=1e-6)
        assert figures["structure"] == pytest.approx(0, abs=1e-6)


def test_a_run_that_goes_on_beyond_its_end_looks_anew() -> None:
    """Fifths of the steps that there were first are none of those that there are now."""
    judge, trainer = StabilityJudge(), create_autospec(pl.Trainer, instance=True, max_steps=5, datamodule=Canvas())
    module = Distillation("y", FiniteSetPrior(), Pixels(count=1), SDS())
    module.show = lambda views: Render(*torch.zeros(3, 1, 3, 64, 64))
    for trainer.global_step in range(1, 6):
        judge.on_train_batch_end(trainer, module)
    assert sorted(judge._pictures) == [1, 2, 3, 4, 5]
    trainer.max_steps = 10
    for trainer.global_step in range(6, 11):
        judge.on_train_batch_end(trainer, module)
    assert sorted(judge._pictures) == [3, 4, 5]


def test_another_object_is_another_structure() -> None:
    """Negative pictures: the correlation is -1, once in three steps of a fifth."""
    picture = torch.rand(1, 3, 64, 64)
    figures = judged({1: picture, 9: 1 - picture}, 10)
    assert figures["structure"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["movement"] == pytest.approx((1 - 2 * picture).abs().mean().item() / 3, abs=1e-5)


def test_iterations_that_fifths_do_not_divide() -> None:
    """Of 7 iterations the first one of each fifth is 2, 3, 5, 6 and 7."""
    judge, module = StabilityJudge(), Distillation("y", FiniteSetPrior(), Pixels(count=1), SDS())
    trainer, seen = create_autospec(pl.Trainer, instance=True, max_steps=7, datamodule=Canvas()), []
    image = torch.zeros(1, 3, 64, 64)
    module.show = lambda views: seen.append(trainer.global_step) or Render(image, image[:, :1], image[:, :1])
    for trainer.global_step in range(1, 8):
        judge.on_train_batch_end(trainer, module)
    assert seen == [2, 3, 5, 6, 7]


def test_correlation_is_pearsons() -> None:
    a, b = torch.rand(3, 20), torch.rand(3, 20)
    expected = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]
    assert torch.allclose(correlation(a, b).float(), torch.stack(expected), atol=1e-6)
    assert correlation(torch.ones(1, 4), torch.rand(1, 4)).item() == 0
    assert torch.allclose(structure(torch.ones(2, 3, 40, 40)), torch.ones(2, 256))


def test_a_finished_run_has_figures_and_a_strip(tmp_path: Path, recipe: Path) -> None:
    from support.recipe import small_run

    from asdkit.run.side_files import read_facts

    options = ["--trainer.max_steps=5", "--trainer.callbacks=asdkit.StabilityJudge", "--snapshots.every=0"]
    run = small_run(recipe, *options)
    assert {"movement", "structure"} <= read_facts(run / "run.json")["metrics"].keys()
    assert (run / "progress.png").is_file()
