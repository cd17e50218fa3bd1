"""What people read of a run: speed and time left, snapshots, films, its page, and what a signal leaves of it."""

import csv
import json
import re
import shlex
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from support import exact
from support.pages import Tags

from asdkit import ASD, SDS, Cameras, Canvas, CLIPJudge, Distillation, Pixels, ToyboxJudge
from asdkit.commands.arguments import expand
from asdkit.core.errors import Interrupted
from asdkit.core.randomness import generator_for
from asdkit.generators.base import Render
from asdkit.run import judge as judges
from asdkit.run.loggers import MetricsCSV
from asdkit.run.progress import Progress
from asdkit.run.report import Report, Snapshots, measured, page
from asdkit.run.tables import meaning

PROMPT = '<script>alert("1")</script> & a "Duck"'


def told(**changes: Any) -> dict[str, Any]:
    known = {"made": {"Method": "A<SD"}, "results": {}, "files": [], "columns": 4, "formats": "glb,spz", "doubt": ""}
    return known | {"errors": {}, "unmeasured": {}} | changes


def run_in(folder: Path, iterations: int = 600) -> Path:
    run = folder / "a run"
    run.mkdir()
    facts = {"prompt": PROMPT, "iterations": iterations, "max_steps": 600, "seconds": 125.0, "seed": 3}
    (run / "run.json").write_text(json.dumps(facts | {"started": "2026-01-31T10:15:00"}))
    (run / "config.yaml").touch()
    return run


def test_a_prompt_is_text_in_a_page_that_is_whole(tmp_path: Path) -> None:
    text = page(run_in(tmp_path), told(doubt="never <b>seen</b>"))
    tags = Tags(text)
    assert not tags.open and "script" not in dict(tags.seen)
    assert f"<h1>{PROMPT}</h1>" in unescape(text) and "never &lt;b&gt;seen" in text and "A&lt;SD" in text
    assert "{{" not in text and ">2:05<" in text and "It was stopped" not in text
    assert "metrics.csv" not in text  # which is not there


@pytest.mark.parametrize("iterations", [600, 320])
def test_its_commands_are_what_the_command_line_understands(tmp_path: Path, iterations: int) -> None:
    """The run's folder has a blank in its name; a run that was stopped goes on to its end, another one further."""
    run = run_in(tmp_path, iterations)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").write_text("{}")
    text = page(run, told())
    commands = [shlex.split(unescape(command)) for command in re.findall("<pre>(.*?)</pre>", text)]
    looks = ("view", "export", "test")
    assert {(word, words[0]) for _, word, *words in commands if word in looks} == {(word, str(run)) for word in looks}
    (go_on, *_), (again,) = ([words for _, command, *words in commands if command == "fit"][i::2] for i in (0, 1))
    further = [] if iterations < 600 else ["--trainer.max_steps=1200"]
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert expand("fit", go_on) == (["--config", str(run / "config.yaml"), *checkpoint, *further], run)
    assert expand("fit", again) == (["--config", str(run / "config.yaml"), "--model.seed=4"], None)
    assert ("It was stopped at step 320 of 600" in text) == (iterations == 320)


def test_measures_stand_with_their_errors_and_truths_and_without_what_can_not_be_judged(tmp_path: Path) -> None:
    results = {"psnr": 25.64321, "saturation": 0.4, "true_saturation": 0.5, "clip_score_b32": 0.3, "my_own": 7.0}
    numbers = dict(measured(results, {"clip_score_b32": 0.004, "psnr": 0.25}))
    assert numbers == {
        "psnr": "25.6 ± 0.25 dB",
        "saturation": "0.4, the truth has 0.5",
        "clip_score_b32": "0.3 ± 0.004",
        "my_own": "7",
    }
    text = page(run_in(tmp_path), told(results=results, unmeasured={"r_precision": "it can't", "psnr": "outdated"}))
    assert "25.6 dB" in text and meaning("psnr").text in unescape(text) and "My own" in text and "outdated" not in text
    assert re.search(r'Recognised</td><td class="number">not measured</td>.*; not here, for it can.*t \(r_prec', text)


def test_curves_are_those_of_the_csv(tmp_path: Path) -> None:
    """A line from the lower left corner to the upper right one, and a word that somebody wrote into the file."""
    run = run_in(tmp_path)
    (run / "metrics.csv").write_text("step,residual_norm,saturation\n10,2.5,1\n20,5,x\n30,7.5,\n,3,3\n")
    seen = Tags(page(run, told())).seen
    (line,) = [attributes for tag, attributes in seen if tag == "polyline"]
    assert sum(attributes.get("href") == "metrics.csv" for _, attributes in seen) == 2  # of the curves and the files
    assert line["points"] == "0.0,90.0 150.0,45.0 300.0,0.0"


def test_the_strip_shows_what_lies_in_the_folder_up_to_the_last_step(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    (run / "snapshots").mkdir()
    for step in (*range(50, 650, 50), 800):
        (run / "snapshots" / f"step-{step:06d}.png").touch()
    links = [a["href"] for tag, a in Tags(page(run, told())).seen if tag == "a" and "snapshots" in str(a.get("href"))]
    assert links == [f"snapshots/step-{step:06d}.png" for step in (50, 100, 200, 250, 350, 400, 500, 600)]


class Shown(Snapshots):
    """Pictures without a prior, two columns of four views."""

    def columns(self, *run: Any) -> list[torch.Tensor]:
        return [torch.zeros(4, 3, 2, 2)] * 3


def test_pictures_come_early_and_say_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    sheets: dict[int, Any] = {}
    monkeypatch.setattr("asdkit.run.report.save_grid", lambda images, path, *rest: sheets.update({trainer.at: rest}))
    module = create_autospec(Distillation, instance=True, guidance=SDS(), prior=SimpleNamespace(sharded=False))
    module.device = torch.device("cpu")
    trainer = SimpleNamespace(datamodule=Cameras(), is_global_zero=True, default_root_dir=tmp_path, max_steps=23)
    trainer.loggers, snapshots = [], Shown(every=10)
    for trainer.at in range(1, 24):
        trainer.global_step = trainer.at
        snapshots.on_train_batch_end(trainer, module)
    assert list(sheets) == [1, 2, 4, 8, 10, 20, 23]
    columns, scale, labels = sheets[8]
    assert (columns, scale) == (3, 96) and len(labels) == 12
    assert labels[:3] == ["0°, step 8, render", "alpha", "the prior's guess"]
    assert labels[3::3] == ["90°", "180°", "270°"]
    err = capsys.readouterr().err
    assert err == f"The first picture is {tmp_path / 'snapshots' / 'step-000001.png'}; more follow there.\n"


@pytest.mark.parametrize(("signum", "begun", "left"), [(2, True, 1), (15, True, 1), (10, True, 0), (2, False, 0)])
def test_a_signal_between_two_steps_leaves_a_report(signum: int, begun: bool, left: int) -> None:
    """Not SIGUSR1, for the job must be requeued; nor one before the first step. Another error is not reported."""
    report, made = Report(), []
    report._leave = lambda *run: made.append(run)  # type: ignore[method-assign]
    trainer, module = SimpleNamespace(default_root_dir="x"), create_autospec(Distillation, instance=True)
    if begun:
        report.on_train_start(trainer, module)
    report.on_exception(trainer, module, ValueError())
    report.on_exception(trainer, module, Interrupted(signum))
    assert len(made) == left


def test_a_prompt_that_nobody_can_judge_is_not_measured() -> None:
    judge, pictures = ToyboxJudge(), torch.zeros(2, 3, 8, 8)
    module = create_autospec(Distillation, instance=True, prompt="a purple unicorn")
    assert judge.measure(module, Cameras(), None, Render(pictures, pictures[:, :1], pictures[:, :1])) == {}
    assert set(judge.unmeasured) == {"psnr", "iou", "azimuth", "r_precision"}


def test_the_errors_are_standard_errors_over_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the values 1, 2, 6: deviation sqrt(7), mean 3, error sqrt(7 / 3); a single picture has none."""
    monkeypatch.setattr(judges, "hsv_saturation", lambda images: torch.tensor([1.0, 2.0, 6.0]))
    judge, pictures = CLIPJudge(), torch.zeros(1, 3, 8, 8)
    render = Render(pictures, pictures[:, :1], pictures[:, :1])
    results = judge.measure(create_autospec(Distillation, instance=True, prompt="x"), Canvas(), None, render)
    assert results["saturation"] == 3 and judge.errors == {"saturation": pytest.approx((7 / 3) ** 0.5)}


def test_the_rows_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    """A run of four steps goes on from the second, and logs something new; a torn last row is dropped too."""
    trainer = SimpleNamespace(global_step=0, is_global_zero=True)

    def go_on(steps: range, **more: float) -> list[dict[str, str]]:
        logger, trainer.global_step = MetricsCSV(tmp_path), steps.start - 1
        logger.follow(trainer, "0123")
        for trainer.global_step in steps:
            logger.log_metrics({"a": 10.0 * trainer.global_step + len(more), **more})
        return list(csv.DictReader((tmp_path / "metrics.csv").open()))

    assert go_on(range(1, 1)) == [], "the file is there before it has a row"
    go_on(range(1, 5))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("50.0,01")
    rows = go_on(range(3, 6), b=1.0)
    assert [(row["step"], row["a"], row["b"]) for row in rows] == [
        ("1", "10.0", ""), ("2", "20.0", ""), ("3", "31.0", "1.0"), ("4", "41.0", "1.0"), ("5", "51.0", "1.0"),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (100, 50.0, "a red duck: step 500 of 800, 2:30 left, 2.00 steps/s, pull 100%"),
        (2, 40.0, "a red duck: step 402 of 800, 2:12:40 left, 0.05 steps/s, pull 100%"),
        (400, 100.0, "a red duck: step 800 of 800, 0:00 left, 4.00 steps/s, pull 100%"),
    ],
)
def test_speed_and_time_left_are_those_of_this_process(monkeypatch, capsys, done: int, seconds: float, line) -> None:
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
