"""Every shipped recipe runs, and two steps are one step, a checkpoint, and one more: bit by bit."""

from pathlib import Path

import pytest
import torch
from support.resuming import assert_same

from asdkit.commands.main import main
from asdkit.run.recipes import recipes

DUCK = Path(__file__).parents[2] / "docs" / "images" / "duck.png"
QUICK = ("--snapshots.every=0", "--report.size=16", "--checkpoints.every=1", "--checkpoints.keep_all=true")
ALONE = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto")
WORDS = ("--model.source", "a yellow duck", "--model.target", "a red duck")
SPLATS = ("--model.generator.count=60", "--model.generator.capacity=90")
CAMERAS = ("--data.views_per_step=2", "--data.orbit.views=2")
PLANES = ("--model.generator.resolution=8", "--model.generator.samples=8")
FEW_PROMPTS = ("--data.prompts.per_step=2", "--data.prompts.held_out=true")  # a sixth, of which each is embedded
SIXTEEN = ("--data.size=16", "--model.prior.image_size=16")
FEW = ("--data.count=8", "--data.held_out=4", "--data.batch_size=4")
REAL = [f"--model.guidance.real_samples{value}" for value in ("=PriorSamples", ".count=2", ".steps=2")]
FAMILIES = {
    "image2d": ("--model.generator.size=16", "--model.generator.count=2"),
    "onestep2d": ("--model.generator.size=16", "--model.generator.count=2"),
    "edit2d": ("--model.generator.size=16", "--data.size=16", *WORDS),
    "gs3d": (*SPLATS, *CAMERAS, "--data.size=16"),
    "nerf3d": (*CAMERAS, *SIXTEEN, "--model.generator.samples=8"),
    "amortized3d": (*CAMERAS, *SIXTEEN, *FEW_PROMPTS, *PLANES),
    "edit3d": (*SPLATS, *CAMERAS, "--data.size=16", *WORDS),
    "image3d": (*SPLATS, *CAMERAS, "--data.size=16", "--model.guidance.real_samples.within_deg=180"),
    "asset3d": (*SPLATS, *CAMERAS, "--data.size=16"),
    "refine3d": (*CAMERAS, "--data.size=16"),
    "toybox/vae": ("--model.width=8", "--model.output=weights", "--model.start=", *FEW),
    "toybox/unet": ("--model.channels=[16,32]", "--model.text_width=32", "--model.start=", *FEW),
    "toybox/clip": ("--model.start=", "--model.width=32", "--model.layers=1", "--model.output=weights", *FEW),
}
OWN = {
    "image2d/dmd2": ("--model.discriminator.steps=2", *REAL),
    "onestep2d/dmd2": ("--model.discriminator.steps=2", *REAL),
    "onestep2d/prompts": ("--data.prompts.per_step=2", "--data.prompts.kinds=[duck]"),
    "image2d/gan": ("--model.guidance.adapter=PeftAdapter", "--model.guidance.adapter.options.r=2", *REAL),
    "image2d/vsd50": ("--model.discriminator.steps=3",),
    "gs3d/coarse_to_fine": ("--data.size={class_path: Ramp, init_args: {start: 8, end: 16, steps: 2}}", SIXTEEN[1]),
}


def fit(folder: Path, *options: object, code: int = 0) -> Path:
    """Run it quickly, without what looks at the result; returns the run folder."""
    quick = (*QUICK, *ALONE, "--trainer.val_check_interval=99", "--run.recipe=r", f"--run.root={folder}")
    assert main(["fit", *map(str, [*options, *quick])]) == code
    return max((folder / "r").iterdir(), key=lambda run: run.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """What second stages and edits start from: an object and a radiance field."""
    folder = tmp_path_factory.mktemp("made")
    prior = f"--model.prior.path={tiny_folder}"
    for name, recipe in {"object": "gs3d", "field": "nerf3d"}.items():
        steps = ("--trainer.max_steps=1", f"--run.name={name}")
        fit(folder, "--config", recipe, prior, *FAMILIES[recipe], *steps)
    return folder


def options_of(name: str, made: Path, tiny: Path, folder: Path) -> list[object]:
    """The options that make a recipe small, and give it what it needs."""
    base = name.split("/")[0]
    if base == "toybox":
        return ["--config", name, *FAMILIES[name], f"--data.cache={folder / 'cache'}"]
    needs = {
        "gs3d/from_nerf": (f"--model.generator.init={made / 'r' / 'field'}",),
        "gs3d/two_priors": (f"--model.guidance.second.field.prior.path={tiny}",),
        "edit3d": ("--asset", made / "r" / "object"),
        "edit2d": (f"--data.image={DUCK}",),
        "image3d": (f"--data.references.file={DUCK}",),
        "asset3d": ("--data.asset", made / "r" / "object"),
        "refine3d": ("--model.generator.init", made / "r" / "object"),
    }
    overlay = ["--config", name] if name != base else []
    own = (*needs.get(base, ()), *needs.get(name, ()), *FAMILIES[base], *OWN.get(name, ()))
    return ["--config", base, *overlay, f"--model.prior.path={tiny}", *own]


def reads(weights: Path) -> tuple[str, ...]:
    """The options that name the toybox's autoencoder for the training on its latents."""
    return f"--model.weights={weights}", f"--data.vae={weights / 'vae'}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """What the toybox's network is trained on: an autoencoder, and a network before it."""
    folder = tmp_path_factory.mktemp("trained")
    weights, step = folder / "weights", "--trainer.max_steps=1"
    fit(folder, *options_of("toybox/vae", folder, tiny_folder, folder), f"--model.output={weights}", step)
    fit(folder, *options_of("toybox/unet", folder, tiny_folder, folder), *reads(weights), step)
    return weights


@pytest.mark.parametrize("name", [name for name in recipes() if not name.startswith("priors/")])
def test_every_recipe_runs_and_resumes_exactly(name, made, tiny_folder, tmp_path: Path, request, monkeypatch) -> None:
    """But for other methods on images, whose parts of a checkpoint are those of their recipe."""
    monkeypatch.chdir(tmp_path)
    options = options_of(name, made, tiny_folder, tmp_path)
    if name == "toybox/unet":
        options += reads(request.getfixturevalue("trained"))
    options.append("--trainer.max_steps=2")
    one, two = (f"checkpoints/step-00000{step}.ckpt" for step in (1, 2))
    unjudged = () if name.startswith("toybox") else ("--trainer.callbacks=[]",)
    straight = fit(tmp_path / "straight", *options, *(unjudged if "/" in name else ()))
    first, last = (torch.load(straight / file, weights_only=True) for file in (one, two))
    assert last["global_step"] == 2 and last["optimizer_states"]
    learned = [key for key, value in first["state_dict"].items() if not torch.equal(value, last["state_dict"][key])]
    assert learned, "nothing has moved"
    if name.startswith(("image2d/", "edit2d/")) and name != "image2d/sds":
        return
    resumed = fit(tmp_path / "resumed", *options, *unjudged, "--ckpt_path", straight / one)
    assert not (resumed / one).exists()
    again = torch.load(resumed / two, weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(last[part], again[part])
