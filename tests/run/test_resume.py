"""One iteration is one global step, everywhere, and a run that went on is the run that never stopped, bit by bit.

What does not fit, or is gone, is said before anything in the run folder changes.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.recipe import small_run, write_recipe
from support.resuming import assert_resuming_is_exact, assert_same, fit, last
from support.two import fit as train

from asdkit import ASD, Canvas, DiscriminatorSteps, Distillation, GaussianPrior, Gaussians, Pixels
from asdkit.commands.main import main
from asdkit.formats.splat_files import write_splats
from asdkit.lab import Affine

KEPT = ("--checkpoints.every=1", "--checkpoints.keep_all=true")
SHORT = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]", "--data.views_per_step=1")


def test_resuming_is_exact(recipe: Path) -> None:
    """Of a run that came to its end before; other recipes and methods are resumed in tests/commands/test_recipes.py."""
    straight = assert_resuming_is_exact(recipe, *SHORT, half=4, steps=6, stops=True)
    assert int(straight["state_dict"]["generator.alive"].sum()) > 60, "nothing has grown"


@pytest.mark.parametrize(("density", "option"), [("MCMC", "growth=0.2"), ("Threshold", "gradient=1e-7")])
def test_resuming_is_exact_with_other_densities(recipe: Path, density: str, option: str) -> None:
    own = (f"--model.generator.density={density}", f"--model.generator.density.{option}")
    rounds = ("--model.generator.rounds.every=2", "--model.generator.rounds.first=2")
    straight = assert_resuming_is_exact(recipe, *own, *rounds, *SHORT, half=2, steps=4)
    assert int(straight["state_dict"]["generator.alive"].sum()) > 60, "nothing has grown"


def test_resuming_is_exact_when_epochs_end(recipe: Path) -> None:
    """The run goes on after three steps, at the end of an epoch or in its middle; no camera comes again."""

    def learned(name: str, *options: object) -> dict[str, torch.Tensor]:
        fit("--config", recipe, *SHORT, "--trainer.max_steps=4", *KEPT, f"--run.name={name}", *options)
        return last(runs / name)["state_dict"]

    runs = recipe.parent / "runs" / "small"
    endless = learned("endless")
    for batches in (3, 2):
        epochs, start = f"--trainer.limit_train_batches={batches}", runs / f"{batches}/checkpoints/step-000003.ckpt"
        assert_same(learned(str(batches), epochs), endless)
        assert_same(learned(f"halves-{batches}", epochs, "--ckpt_path", start), endless)


@pytest.mark.parametrize("files", ["splats", "picture"])
def test_a_run_goes_on_without_what_it_started_from(recipe: Path, files: str) -> None:
    """Its folder is moved, and the asset, or the source image, is gone: the checkpoint holds both."""
    runs, asset = recipe.parent / "runs" / "small", recipe.parent / "asset.ply"
    if files == "splats":
        write_splats(asset, Gaussians(count=50, capacity=50).splats())
        options = ("--asset", asset, "--model.guidance=ASDEdit", "--model.source=a red duck", "--data.size=16")
    else:
        asset = recipe.parent / "source.png"
        Image.new("RGB", (16, 16), (200, 60, 20)).save(asset)
        options = ("--model.generator={class_path: Pixels, init_args: {init: source, size: 16, count: 1}}",)
        options += ("--data={class_path: Canvas, init_args: {size: 16, image: " + f"{asset}" + "}}",)
        options += ("--model.guidance=DDS", "--model.source=a red duck")
        lines = recipe.read_text().splitlines()
        recipe.write_text("\n".join(line for line in lines if not line.startswith("data:")))
    options += ("--model.target=a red cube", "--model.prior.image_size=16", *SHORT[:3])
    fit("--config", recipe, *options, *KEPT, "--run.name=straight", "--trainer.max_steps=2")
    straight, moved = last(runs / "straight")["state_dict"], recipe.parent / "moved"
    asset.unlink()
    (runs / "straight").rename(moved)
    alone = Distillation.load_from_checkpoint(moved / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(value, straight[f"generator.{key}"]) for key, value in alone.generator.state_dict().items())
    fit(moved, "--ckpt_path", moved / "checkpoints" / "step-000001.ckpt")
    assert_same(straight, last(moved)["state_dict"])
    assert str(asset) in (moved / "config.yaml").read_text()


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations; treat it as read-only."""
    folder = tmp_path_factory.mktemp("fitting")
    lora = ("--model.guidance.adapter=LoRA", "--model.guidance.adapter.rank=2")
    return small_run(write_recipe(folder, tiny_folder), *SHORT, "--trainer.max_steps=2", *lora)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.generator.capacity=200", "--model.generator.capacity is 90 in the checkpoint, and 200 here"),
        ("--model.guidance.adapter.rank=3", "--model.guidance.adapter.rank is 2 in the checkpoint, and 3 here"),
        ("--model.guidance.adapter=Embedding", "adapter is asdkit.LoRA in the checkpoint, and asdkit.Embedding here"),
        ("--model.generator=NeRF", "--model.generator is asdkit.Gaussians in "),
        ("--run.name=other", "--run.name names the folder of a new run, and"),
        ("--model=TrainVAE", "The checkpoint does not fit: generator."),
        ("--steps=1", "The run has made 2 iterations already; --trainer.max_steps must be more, or left out; got 1."),
        ("", "has come to its end, after 2 iterations; --trainer.max_steps=N goes on to N"),
    ],
)
def test_nothing_changes_before_a_checkpoint_fits(finished: Path, capsys, option: str, said: str) -> None:
    before = content(finished)
    assert main(["fit", str(finished), *(["--trainer.max_steps=3", option] if option else [])]) == (2 if option else 0)
    assert said in capsys.readouterr().err
    assert content(finished) == before


def test_a_run_that_was_killed_before_its_report_gets_it(finished: Path, tmp_path: Path) -> None:
    """After the last checkpoint there is no iteration left that would begin anything."""
    run = shutil.copytree(finished, tmp_path / "copied")
    done = json.loads((run / "run.json").read_text())
    made = [path for path in run.iterdir() if path.suffix in {".html", ".png", ".ply", ".mp4", ".webp"}]
    assert {"report.html", "contact.png", "splats.ply"} <= {path.name for path in made}
    for path in made:
        path.unlink()
    (run / "run.json").write_text(json.dumps(done | {"status": "running", "exit_code": None, "metrics": {}}))
    fit(run)
    again = json.loads((run / "run.json").read_text())
    same = ("status", "exit_code", "iterations", "max_steps", "prompt")
    assert [again[key] for key in same] == [done[key] for key in same] and again["status"] == "finished"
    assert (run / "splats.ply").read_bytes() == (finished / "splats.ply").read_bytes()
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}


def test_another_method_says_what_it_leaves_out(finished: Path, tmp_path: Path, caplog) -> None:
    """A copied run, which keeps no old checkpoint; the generator and its optimiser go on."""
    run = shutil.copytree(finished, tmp_path / "copied")
    fit(run, "--model.guidance=SDS", "--trainer.max_steps=3")
    assert "The checkpoint is of asdkit.ASD, the run is of asdkit.SDS: guidance." in caplog.text
    assert int(next(iter(last(run)["optimizer_states"][0]["state"].values()))["step"]) == 3
    fit(run, "--model.guidance=VSD", "--trainer.max_steps=4")
    assert "of asdkit.SDS, the run is of asdkit.VSD: guidance." in caplog.text
    assert [int(next(iter(part["state"].values()))["step"]) for part in last(run)["optimizer_states"]] == [4, 1]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "step-000004.ckpt"]


def test_a_run_goes_on_at_the_rates_of_its_options(tmp_path: Path) -> None:
    """They move on with the iterations where they are ramps; a checkpoint's own count for nothing."""

    def go_on(steps: int, start: Path | None, rate: float) -> list[float]:
        guidance = ASD(adapter=Affine())
        generator = Pixels("noise", count=1, size=8, lr=rate)
        learning = DiscriminatorSteps(lr=2 * rate)
        model = Distillation("y", GaussianPrior({"y": 0.5}), generator, guidance, discriminator=learning)
        trainer = train(model, Canvas(), steps=steps, start=start)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]

    assert go_on(2, None, 0.02) == [0.02, 0.04]
    assert go_on(3, tmp_path / "last.ckpt", 0.25) == [0.25, 0.5]


def test_a_run_goes_on_in_a_new_folder_when_the_checkpoint_is_named(finished: Path) -> None:
    before = content(finished)
    options = ("--trainer.max_steps=3", "--run.name=second")
    fit("--config", finished / "config.yaml", "--ckpt_path", finished / "checkpoints" / "last.ckpt", *options)
    assert last(finished.with_name("second"))["global_step"] == 3 and content(finished) == before


def test_a_run_that_is_shorter_than_the_interval_of_logging_has_a_row(recipe: Path) -> None:
    fit(
        "--config",
        recipe,
        "--run.name=short",
        "--trainer.max_steps=2",
        "--trainer.log_every_n_steps=30",
        "--logger=csv",
    )
    run = recipe.parent / "runs" / "small" / "short"
    for file in run / "metrics.csv", run / "csv" / "metrics.csv":
        assert [row["step"] for row in csv.DictReader(file.open()) if row["residual_norm"]] in (["2"], ["1"]), file


def test_rows_and_names_count_iterations_whatever_is_logged_or_validated_when(recipe: Path) -> None:
    options = ("--trainer.max_steps=5", "--trainer.log_every_n_steps=3", "--trainer.val_check_interval=2")
    fit("--config", recipe, "--run.name=one", *options)
    run = recipe.parent / "runs" / "small" / "one"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["residual_norm"]] == ["3"]
    assert [row["step"] for row in rows if row["psnr"]] == ["2", "4", "5"]
    psnr = json.loads((run / "run.json").read_text())["metrics"]["psnr"]
    assert psnr == pytest.approx(float(rows[-1]["psnr"])) and rows[-1]["psnr"] != rows[-2]["psnr"], "the last one"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "step-000005.ckpt"]
    assert last(run)["global_step"] == 5
