"""The overlays for real priors, run on tiny random pipelines of their families."""

import shutil
from pathlib import Path

import pytest
import torch
from support.recipe import small_run
from support.resuming import assert_resuming_is_exact, last
from support.tiny_families import make

from asdkit.run.recipes import recipe_folder

FAMILY = {"sd15": "sd", "sd21": "sd", "sdxl": "sdxl", "sd35": "sd3", "flux": "flux", "pixart": "pixart"}
FAMILY |= {"if": "deepfloyd"}
SMALL = (
    "--model.prior.image_size=32", "--model.prior.dtype=float32", "--data.size=16",
    "--data.views_per_step=2", "--model.generator.count=50", "--model.generator.capacity=60", "--snapshots.every=0",
    "--report.size=16", "--trainer.accelerator=cpu", "--data.orbit.views=2", "--trainer.callbacks=[]",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILY)
def test_every_overlay_runs(name: str, tmp_path: Path) -> None:
    """And, on the way of Stable Diffusion and on that of flows, resumes exactly."""
    prior = make(FAMILY[name], tmp_path / "prior")[0]
    recipe = tmp_path / "small.yaml"
    shutil.copy(recipe_folder() / "gs3d.yaml", recipe)
    overlay = ("--config", recipe_folder() / "priors" / f"{name}.yaml")
    options = (*overlay, *SMALL, f"--model.prior.path={prior}", f"--run.root={tmp_path / 'runs'}")
    if name in ("sd15", "flux"):
        saved = assert_resuming_is_exact(recipe, *options, half=1, steps=2)
    else:
        saved = last(small_run(recipe, *map(str, options), "--trainer.max_steps=1"))
    learned = [key for key in saved["state_dict"] if "lora_B" in key]
    assert learned and all(torch.isfinite(saved["state_dict"][key]).all() for key in learned)


def test_every_overlay_is_tested() -> None:
    assert {path.stem for path in (recipe_folder() / "priors").glob("*.yaml")} == set(FAMILY)
