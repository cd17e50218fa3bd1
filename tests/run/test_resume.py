"""One iteration is one global step, everywhere, and a run that went on is the run that never stopped, bit by bit."""

import csv
from pathlib import Path

import pytest
import torch
from support.resuming import assert_resuming_is_exact, fit, last

from asdkit import Gaussians, Initial
from asdkit.formats.splat_files import write_splats


@pytest.mark.parametrize("method", ["ASD", "SDS"])
def test_resuming_is_exact(recipe: Path, method: str) -> None:
    straight = assert_resuming_is_exact(recipe, "--model.guidance", method)
    assert int(straight["state_dict"]["generator.alive"].sum()) > 60, "nothing has grown"


SHORT = ("--snapshots.every=0", "--report.size=16", "--trainer.callbacks=[]", "--data.views_per_step=1")


@pytest.mark.parametrize(("density", "option"), [("MCMC", "growth=0.2"), ("Threshold", "gradient=1e-7")])
def test_resuming_is_exact_with_other_densities(recipe: Path, density: str, option: str) -> None:
    own = (f"--model.generator.density={density}", f"--model.generator.density.{option}")
    rounds = ("--model.generator.rounds.every=2", "--model.generator.rounds.first=2")
    straight = assert_resuming_is_exact(recipe, *own, *rounds, *SHORT, half=3, steps=6)
    assert int(straight["state_dict"]["generator.alive"].sum()) > 60, "nothing has grown"


def test_resuming_is_exact_when_an_object_is_edited(recipe: Path) -> None:
    asset = Gaussians(count=50, capacity=50, initial=Initial(opacity=0.8))
    asset.sh.data.normal_(generator=torch.Generator().manual_seed(0))
    write_splats(recipe.parent / "asset.ply", asset.splats())
    words = ("--model.guidance=ASDEdit", "--model.source=a red duck", "--model.target=a red cube")
    moving = "--data.size={class_path: Ramp, init_args: {start: 8, end: 16, steps: 4}}"
    options = ("--asset", recipe.parent / "asset.ply", *words, moving, "--model.prior.image_size=16", *SHORT)
    options += ("--model.generator.rounds.every=0",)
    straight = assert_resuming_is_exact(recipe, *options, half=3, steps=6)
    moved = straight["state_dict"]["generator.means"][:50]
    assert 0 < (moved - asset.means).abs().max() < 0.1  # it started from the asset


def test_a_run_goes_on_in_a_new_folder_when_the_checkpoint_is_named(recipe: Path) -> None:
    runs = recipe.parent / "runs" / "small"
    fit("--config", recipe, "--run.name=first", "--trainer.max_steps=2")
    first = runs / "first"
    before = (first / "run.json").read_bytes()
    checkpoint = first / "checkpoints" / "last.ckpt"
    fit("--config", first / "config.yaml", "--ckpt_path", checkpoint, "--trainer.max_steps=3", "--run.name=second")
    assert last(runs / "second")["global_step"] == 3
    assert (first / "run.json").read_bytes() == before


def test_rows_and_names_count_iterations_whatever_is_logged_or_validated_when(recipe: Path) -> None:
    options = ("--trainer.max_steps=7", "--trainer.log_every_n_steps=3", "--trainer.val_check_interval=2")
    fit("--config", recipe, "--run.name=one", *options)
    run = recipe.parent / "runs" / "small" / "one"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["residual_norm"]] == ["3", "6"]
    assert [row["step"] for row in rows if row["psnr"]] == ["2", "4", "6", "7"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "step-000007.ckpt"]
    assert last(run)["global_step"] == 7
