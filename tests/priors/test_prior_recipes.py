"""The overlays for real priors, run on tiny random pipelines of their families."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recipe import small_run, write_recipe
from support.resuming import assert_resuming_is_exact, last
from support.tiny_families import make

from asdkit.priors import autoencoder
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


def test_a_draft_encodes_small_pictures_as_they_are(
    tiny_folder: Path, kl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's keys, at a sixteenth of its pixels, two iterations on either side of the switch."""
    assert {path.stem for path in (recipe_folder() / "priors").glob("*.yaml")} == {*FAMILY, "draft"}
    encoded: list[tuple[str, int]] = []

    def noted(vae: Any, images: torch.Tensor) -> torch.Tensor:
        encoded.append((type(vae).__name__, images.shape[-1]))
        return encode(vae, images)

    encode = autoencoder.encode
    monkeypatch.setattr(autoencoder, "encode", noted)
    text = (recipe_folder() / "priors" / "draft.yaml").read_text()
    for old, new in {"madebyollin/taesd": str(tiny_folder / "vae"), "256": "16", "512": "32", "2500": "2"}.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "draft.yaml").write_text(text)
    options = ("--config", str(tmp_path / "draft.yaml"), "--trainer.max_steps=4", "--trainer.callbacks=[]")
    small_run(write_recipe(tmp_path, kl_folder), *options, "--snapshots.every=0")
    assert encoded == [("AutoencoderTiny", 16)] * 2 + [("AutoencoderTiny", 32)] * 2
