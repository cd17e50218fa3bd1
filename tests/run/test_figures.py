"""The figures and pictures of a run that people read: speed and time left, the report, snapshots, films."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from support import exact

from asdkit import ASD, Cameras, Distillation, Pixels
from asdkit.core.randomness import generator_for
from asdkit.generators.base import Render
from asdkit.run.progress import Progress
from asdkit.run.report import Report, Snapshots


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (100, 50.0, "a red duck: step 500 of 800, 2:30 left, 2.00 steps/s, pull 100%"),
        (2, 40.0, "a red duck: step 402 of 800, 2:12:40 left, 0.05 steps/s, pull 100%"),
        (400, 100.0, "a red duck: step 800 of 800, 0:00 left, 4.00 steps/s, pull 100%"),
    ],
)
def test_speed_and_time_left_are_those_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, done: int, seconds: float, line: str
) -> None:
    """The run goes on from its 400th iteration."""
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr("asdkit.run.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    trainer = create_autospec(pl.Trainer, instance=True, global_step=400, max_steps=800, log_every_n_steps=2)
    trainer.progress_bar_metrics = {"residual_norm": torch.tensor(0.12345)}
    progress, module = Progress(), pl.LightningModule()
    module.save_hyperparameters({"prompt": "a red duck"})
    progress.on_train_start(trainer, module)
    clock.now, trainer.global_step = clock.now + seconds, trainer.global_step + done
    progress.on_train_batch_end(trainer, module)
    assert capsys.readouterr().err == f"{line}\n"
    trainer.progress_bar_metrics = {"residual_norm": torch.tensor(0.0617), "discriminator_loss": torch.tensor(1.0)}
    progress.on_train_batch_end(trainer, module)
    progress.on_train_end(trainer, module)
    assert capsys.readouterr().err.endswith("pull 50%\n")


def test_a_film_has_the_frames_of_its_own_orbit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also the second of a trainer."""
    films: list[torch.Tensor] = []
    monkeypatch.setattr("asdkit.run.report.save_film", lambda frames, *place: films.append(frames))
    report, trainer = Report(), SimpleNamespace(default_root_dir=tmp_path, datamodule=Cameras())
    for level in (0.25, 0.75):
        frames = [torch.full((1, 3, 2, 2), level + k / 8) for k in range(2)]
        for frame in frames:
            report.on_predict_batch_end(trainer, None, Render(frame, frame, frame))
        report.on_predict_end(trainer, None)
        assert torch.equal(films[-1], torch.cat(frames))


def test_a_snapshot_is_what_the_formulas_give() -> None:
    """Image, opacity, x0 by the prior at the scale, and x0 by the discriminator; from the same noise at every step."""
    adapter = exact.bent()
    model = Distillation("y", exact.exact_prior(), Pixels("noise", count=2, size=8), ASD(adapter=adapter), seed=5)
    model.setup()
    model.double()
    image, alpha, by_prior, by_discriminator = Snapshots(noise=0.25, scale=3.0).columns(model, None)
    render = model.show(None)
    assert torch.equal(image, render.image) and torch.equal(alpha, render.alpha.expand_as(image))
    t = torch.full((2,), round(0.25 * 999))
    eps = torch.randn(image.shape, generator=generator_for(5, 0, "snapshots")).double()
    x = exact.state(SimpleNamespace(prior=model.prior), image, t, eps)
    for guess, noise in ((by_prior, exact.cfg(x, 3.0)), (by_discriminator, exact.e_phi(x, adapter))):
        assert exact.close(guess, ((x.x_t - x.sigma * noise) / x.alpha).clamp(0, 1), 1e-6)
