"""Helpers of several tests."""

from pathlib import Path

import torch

from asdkit.commands.main import main


def assert_resuming_is_exact(
    recipe: Path, *options: object, half: int = 3, steps: int = 6, stops: bool = False
) -> dict:
    """A run of `steps` iterations against one from its checkpoint after `half`; returns the last checkpoint.

    With `stops`, the other is a run of its own, which came to its end after `half`.
    """
    runs = recipe.parent / "runs" / "small"
    options = ("--config", recipe, *options)
    keep = (f"--checkpoints.every={half}", "--checkpoints.keep_all=true")
    fit(*options, *keep, "--run.name=straight", f"--trainer.max_steps={steps}")
    if stops:
        fit(*options, "--run.name=halves", f"--trainer.max_steps={half}")
        assert last(runs / "halves")["global_step"] == half
        fit(runs / "halves", f"--trainer.max_steps={steps}")
    else:
        start = runs / "straight" / "checkpoints" / f"step-{half:06d}.ckpt"
        fit(*options, "--run.name=halves", f"--trainer.max_steps={steps}", "--ckpt_path", start)
    straight, halves = last(runs / "straight"), last(runs / "halves")
    assert straight["global_step"] == halves["global_step"] == steps
    for part in ("state_dict", "optimizer_states"):
        assert_same(straight[part], halves[part])
    return straight


def assert_same(first: object, second: object) -> None:
    """Two nests of dictionaries and lists hold equal leaves."""
    expected, got = flat(first), flat(second)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]) if isinstance(value, torch.Tensor) else value == got[name], name


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
