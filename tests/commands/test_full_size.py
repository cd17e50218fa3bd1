"""A prior of full size brings its family's settings, below the command line's options, whatever is made."""

from pathlib import Path

import pytest
import yaml
from support.tiny_families import make

from asdkit.commands.main import main
from asdkit.priors.locate import overlay_of
from asdkit.run.recipes import recipe_folder

EDIT = "--model.source=a cat", "--model.target=a dog"
CASES = {  # recipe and options: what follows from them, and what the line names
    "gs3d --prior sd21-base": {"size": 512, "steps": 5000, "dtype": "bfloat16", "lr": 1e-4, "count": 20000},
    "gs3d --model.prior.path=sdxl": {"size": 512, "dtype": "bfloat16", "image_size": 1024, "chunk": 1},
    "gs3d --config priors/sd35": {"size": 512, "path": "sd35", "checkpointing": True, "chunk": 2},
    "gs3d --prior sd15 --data.size=64 --model.prior.dtype=float32": {"size": 64, "dtype": "float32", "steps": 5000},
    "gs3d --model.guidance=VSD --prior sd15": {"size": 512, "scale": 7.5},
    "gs3d --model.generator=NeRF --prior sd15": {"size": 64, "image_size": 512, "samples": 64},
    'gs3d --model.prior={"init_args":{"path":"sdxl"}}': {"size": 512, "image_size": 1024, "path": "sdxl"},
    'gs3d --model={"class_path":"asdkit.Distillation","init_args":{"prior":{"init_args":{"path":"sd15"}}}}': {
        "size": 512,
        "path": "sd15",
        "dtype": "bfloat16",
    },
    'gs3d --model.generator={"class_path":"NeRF"} --prior sd15': {"size": 64, "image_size": 512, "samples": 64},
    "nerf3d --prior if": {"size": 64, "image_size": 0, "samples": 64, "steps": 10000},
    "amortized3d --prior sd15": {"size": 64, "image_size": 512, "samples": 64, "steps": 50000, "scale": 7.5},
    "image2d --prior flux": {"size": 512, "scale": 1.0, "distilled_guidance": 3.5, "steps": 1000},
    "image2d --prior pixart --config image2d/vsd": {"size": 512, "scale": 7.5},
    "onestep2d --prior sd15": {"size": 512, "count": 2, "average": 0.999, "checkpointing": True, "steps": 5000},
    "edit2d --prior sd35-large": {"size": 512, "scale": 7.5, "pull": 0.0, "steps": 500},
    "image3d --prior sd21-base --data.references.file=docs/images/duck.png": {"size": 512, "steps": 5000, "eta": 0.5},
    "refine3d --prior sd21-base": {"size": 512, "steps": 1500, "scale": 7.5, "lr": 1e-4, "capacity": 4000},
    "edit3d --prior random:sd21": {"size": 512, "scale": 7.5, "pull": 0.0, "path": "random:sd21"},
}


def _resolved(words: str, capsys: pytest.CaptureFixture) -> tuple[dict, str]:
    options = [*words.split(), *(EDIT if words.startswith("edit") else ())]
    assert main(["fit", "--config", *options, "--print_config"]) == 0
    out, err = capsys.readouterr()
    return yaml.safe_load(out), err


def _flat(config: dict) -> dict:
    """The settings by the last part of their names; `size` is that of the renders."""
    model = config["model"]["init_args"]
    flat = model["discriminator"] | model["rendering"]
    for part in (model["prior"], model["generator"], model["guidance"], config["data"]):
        flat |= part["init_args"]
    return flat | {"steps": config["trainer"]["max_steps"]}


@pytest.mark.parametrize("words", CASES)
def test_the_family_is_below_the_options(words: str, capsys: pytest.CaptureFixture) -> None:
    config, err = _resolved(words, capsys)
    flat = _flat(config)
    assert {name: flat[name] for name in CASES[words]} == CASES[words]
    guidance = config["model"]["init_args"]["guidance"]["init_args"]
    for adapter in (guidance[name]["init_args"] for name in ("adapter", "source_adapter") if guidance.get(name)):
        assert (adapter["rank"], list(adapter["targets"])) == (4, [])  # the attention of its family
    (judge,) = config["trainer"]["callbacks"]  # the toybox's knows nothing of it
    assert judge == {"class_path": "asdkit.CLIPJudge", "init_args": {"models": [], "prompts": ""}}
    (line,) = [line for line in err.splitlines() if line.startswith("From priors/full_size/")]
    assert "discriminator" in line and ("data.size" in line) == ("--data.size" not in words)


def test_the_order_of_recipes_and_options_does_not_matter(capsys: pytest.CaptureFixture) -> None:
    options = ["--prior", "sd15", "--data.size=96", "--config", "gs3d", "--model.prompt", "a cat", "--print_config"]
    assert main(["fit", *options]) == 0
    flat = _flat(yaml.safe_load(capsys.readouterr().out))
    assert (flat["size"], flat["dtype"], flat["path"]) == (96, "bfloat16", "sd15")


def test_a_recipe_that_names_its_prior_itself_keeps_its_settings_and_says_so(tmp_path: Path, capsys) -> None:
    recipe = yaml.safe_load((recipe_folder() / "gs3d.yaml").read_text())
    recipe["model"]["init_args"]["prior"] = {"class_path": "asdkit.Pretrained", "init_args": {"path": "sd21-base"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    config, err = _resolved(str(tmp_path / "own.yaml"), capsys)
    assert config["data"]["init_args"]["size"] == 128
    assert "own.yaml names its prior, sd21-base, and all settings are its own; --prior sd21-base would" in err


@pytest.mark.parametrize("prior", ["toybox", "random:toybox", "tiny"])
def test_asdkits_own_priors_keep_the_recipe(prior: str, tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    plain, _ = _resolved("gs3d", capsys)
    config, err = _resolved(f"gs3d --prior {tiny_folder if prior == 'tiny' else prior}", capsys)
    config["model"]["init_args"]["prior"] = plain["model"]["init_args"]["prior"]
    assert config == plain and "From priors" not in err


def test_a_recipe_of_ones_own_keeps_what_the_overlay_does_not_know(tmp_path: Path, capsys) -> None:
    """Its generator, its embedding as phi and its callbacks are no toybox's; its judge is, and is replaced."""
    recipe = yaml.safe_load((recipe_folder() / "image2d.yaml").read_text())
    model = recipe["model"]["init_args"]
    model["generator"] = {"class_path": "asdkit.Pixels", "init_args": {"size": 128}}
    model["guidance"]["init_args"] |= {"gamma": -0.25, "adapter": {"class_path": "asdkit.Embedding"}}
    monitor = {"class_path": "pytorch_lightning.callbacks.LearningRateMonitor"}
    recipe["trainer"]["callbacks"].append(monitor)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe))
    config, _ = _resolved(f"{file} --prior sd21", capsys)
    model = config["model"]["init_args"]
    assert model["generator"]["class_path"] == "asdkit.Pixels" and model["generator"]["init_args"]["size"] == 128
    assert model["guidance"]["init_args"]["adapter"]["class_path"] == "asdkit.Embedding"
    assert model["guidance"]["init_args"]["gamma"] == -0.25
    assert config["data"]["init_args"]["size"] == 512 and model["prior"]["init_args"]["dtype"] == "bfloat16"
    callbacks = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert callbacks == ["asdkit.CLIPJudge", monitor["class_path"]]


@pytest.mark.parametrize(
    ("family", "overlay"),
    [("sd", "sd15"), ("sdxl", "sdxl"), ("sd3", "sd35"), ("flux", "flux"), ("pixart", "pixart"), ("deepfloyd", "if")],
)
def test_a_folder_tells_its_family(family: str, overlay: str, tmp_path: Path) -> None:
    folder = make(family, tmp_path / "model")[0]
    for file in folder.rglob("*.safetensors"):
        file.unlink()  # the small files are enough
    assert overlay_of(str(folder)) == overlay
