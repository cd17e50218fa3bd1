"""One iteration is one global step, everywhere, and a run that went on is the run that never stopped, bit by bit."""

import csv
from pathlib import Path

import pytest
import torch

from asdkit.cli import main


def last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def flat(state: object, prefix: str = "") -> dict[str, object]:
    """Every leaf of nested dictionaries and lists."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if items is None:
        return {prefix: state}
    return {key: leaf for name, value in items for key, leaf in flat(value, f"{prefix}/{name}").items()}


def fit(*arguments: object) -> None:
    assert main(["fit", *map(str, arguments)]) == 0


@pytest.mark.parametrize("method", ["ASD", "SDS"])
def test_resuming_is_exact(recipe: Path, method: str) -> None:
    runs = recipe.parent / "runs" / "small"
    options = ("--config", recipe, "--model.guidance", method)
    fit(*options, "--run.name=straight")
    fit(*options, "--run.name=halves", "--trainer.max_steps=6")
    assert last(runs / "halves")["global_step"] == 6
    fit(runs / "halves", "--trainer.max_steps=10")
    straight, halves = last(runs / "straight"), last(runs / "halves")
    assert straight["global_step"] == halves["global_step"] == 10
    assert int(straight["state_dict"]["generator.alive"].sum()) > 60, "nothing has grown"
    for part in ("state_dict", "optimizer_states"):
        expected, got = flat(straight[part]), flat(halves[part])
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            same = torch.equal(value, got[name]) if isinstance(value, torch.Tensor) else value == got[name]
            assert same, f"{part}{name}"


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


def test_several_critic_steps_are_still_one_iteration(recipe: Path) -> None:
    fit(
        "--config",
        recipe,
        "--run.name=one",
        "--trainer.max_steps=3",
        "--model.critic_steps=3",
        "--model.share_noise=false",
    )
    checkpoint = last(recipe.parent / "runs" / "small" / "one")
    assert checkpoint["global_step"] == 3
    generator, critic = checkpoint["optimizer_states"]
    assert {int(state["step"]) for state in generator["state"].values()} == {3}
    assert {int(state["step"]) for state in critic["state"].values()} == {9}


def test_a_checkpoint_holds_what_learns_and_never_the_prior(recipe: Path) -> None:
    fit("--config", recipe, "--run.name=one", "--trainer.max_steps=1")
    names = last(recipe.parent / "runs" / "small" / "one")["state_dict"]
    assert not [name for name in names if name.startswith("prior.")]
    assert [name for name in names if "lora_A" in name] and "generator.means" in names
