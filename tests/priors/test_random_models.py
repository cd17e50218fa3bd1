"""Named architectures: the published models' sizes and operations, and random weights that stay finite."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from support.architectures import counted, documented_row, on_meta, predicted
from support.tiny import loaded

from asdkit import Pretrained
from asdkit.commands.bench_gpu import parts
from asdkit.commands.main import main
from asdkit.priors.locate import ARCHITECTURES
from asdkit.scores.prior import Condition

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
# Millions of parameters of the network and of the autoencoder, and TFLOP of a forward pass at 512 pixels where known.
PUBLISHED = {
    "sd15": (859.520964, 83.653863, 0.803),
    "sd21": (865.910724, 83.653863, 0.804),
    "sdxl": (2567.463684, 83.653863, 1.589),
    "sd3": (2028.328, 83.819683, 2.107),
    "sd35": (2243.17152, 83.819683, None),
    "flux": (11901.40832, 83.819683, None),
    "pixart": (610.856096, 83.653863, None),
    "if": (4300, 0, None),
    "toybox": (8.452136, 0.283659, None),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_the_published_ones(name: str) -> None:
    """And a forward pass with embedded prompts of the true shapes fits."""
    network, vae, tera = PUBLISHED[name]
    prior = on_meta(name)
    million = sum(p.numel() for p in prior.network.parameters()) / 1e6
    assert million == pytest.approx(network, rel=2e-3 if name == "if" else 1e-9)
    million = sum(p.numel() for p in prior.vae.parameters()) / 1e6 if prior.vae else 0
    assert million == pytest.approx(vae)
    forward = counted(lambda: predicted(prior, {"if": 64, "toybox": 128}.get(name, 512)).sum())
    assert forward > 0 and (tera is None or forward / 1e12 == pytest.approx(tera, rel=1e-3))


def test_the_small_one_is_what_asdkit_ships() -> None:
    weights, architecture = Pretrained().folder, ARCHITECTURES["toybox"]
    for part, file in (("network", "unet/config"), ("vae", "vae/config"), ("scheduler", "scheduler/scheduler_config")):
        shipped, settings = json.loads((weights / f"{file}.json").read_text()), architecture[part]
        assert settings and {key: shipped[key] for key in settings} == settings
    index = json.loads((weights / "model_index.json").read_text())
    assert index["_class_name"] == architecture["pipeline"]
    prior = loaded("toybox", Condition("a red cube"))
    assert architecture["embeds"] == {"text": list(prior.condition_shape)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_are_finite_and_always_the_same(dtype: str) -> None:
    predictions = []
    for _ in range(2):
        prior = loaded("random:toybox", dtype=dtype)
        assert {p.dtype for p in prior.parameters()} == {getattr(torch, dtype)}
        assert torch.get_default_dtype() == torch.float32
        assert not any(p.requires_grad for p in prior.parameters()) and not prior.network.training
        x0 = prior.encode(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        x = prior.draw(x0, torch.tensor([20, 800]), torch.ones_like(x0))
        predictions.append(torch.cat(prior.predict(x, [Condition("a duck"), Condition("a cube")])))
        assert x0.isfinite().all() and x0.std() > 1e-3
    assert torch.equal(*predictions) and predictions[0].isfinite().all()
    assert 0.05 < predictions[0].std() < 20
    assert not torch.allclose(predictions[0][:2], predictions[0][2:], atol=1e-3)
    assert not torch.allclose(*predictions[0][:2])


def test_no_two_layers_or_rows_are_alike_and_the_shipped_priors_camera_and_words_are_its_own() -> None:
    prior = loaded("random:toybox")
    attention = next(m for name, m in prior.network.named_modules() if name.endswith("attn1"))
    q, k = attention.to_q.weight, attention.to_k.weight
    assert not torch.allclose(q, k, atol=1e-2)
    assert torch.linalg.matrix_rank(q) == len(q)
    assert q.std() == pytest.approx(q.shape[1] ** -0.5, rel=0.05)
    norm = next(m for m in prior.network.modules() if isinstance(m, torch.nn.GroupNorm))
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    assert prior.camera is None and prior.words.unknown("dragon") == {} and prior.digest == "random:toybox"


@pytest.mark.parametrize("views", [1, 4])
def test_the_commands_in_the_documentation_resolve(views: int, capsys: pytest.CaptureFixture) -> None:
    common = re.search(r"`COMMON` stands for `([^`]*)`", PAGE)[1].split()
    options = re.search(r"`asdkit bench COMMON --steps 100 (--data.views_per_step 4 --model[^`]*)`", PAGE)[1].split()
    assert main(["fit", *common, *options, f"--data.views_per_step={views}", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]["init_args"]
    assert model["prior"]["init_args"]["path"] == "random:sd21" and model["prior"]["init_args"]["dtype"] == "bfloat16"
    assert model["generator"]["init_args"]["count"] == 100_000
    assert (config["data"]["init_args"]["size"], config["data"]["init_args"]["views_per_step"]) == (512, views)


def test_the_documented_commands_are_those_of_the_benchmark_and_the_table_is_computed(tmp_path: Path) -> None:
    """`asdkit bench --gpu --part 2` carries out what the table of targets names; of the numbers two rows."""
    common = re.search(r"`COMMON` stands for `([^`]*)`", PAGE)[1]
    documented = re.findall(r"`asdkit (\w+ COMMON[^`]*)`", PAGE)
    for check in parts(tmp_path, tiny=False)[2]:
        own = [word for word in check.command[2:] if not word.startswith(("--run.", "--report.", "--json"))]
        words = " ".join(own).replace("=", " ").replace(common, "COMMON")
        assert words.replace("views_per_step 4", "views_per_step 1") in documented or words in documented
    assert documented_row("sd21") in PAGE and documented_row("sd21", 256, tiny=True) in PAGE
