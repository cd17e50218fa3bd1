"""`asdkit bench`: sections, the plain loop, the paper-faithful mode, what is counted and what is printed."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from asdkit.commands import bench
from asdkit.commands.bench import Bench, Measuring, matmul_peak, operations, spread, table
from asdkit.commands.bench_sections import LOGGING, Plain, Sections, counted, paper_faithful, replaced
from asdkit.commands.main import main
from asdkit.data import Cameras, Canvas
from asdkit.discriminators.adapters import LoRA
from asdkit.distillation import Distillation
from asdkit.generators.gaussians import Gaussians
from asdkit.generators.images import Latents
from asdkit.methods import ASD, SDS
from asdkit.priors.families import StableDiffusion
from asdkit.priors.pretrained import Pretrained
from asdkit.run.signals import Signals

VIEWS, SIZE = 2, 16


@pytest.fixture(scope="module")
def measuring(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measuring:
    """A finished measurement of the tiny recipe, five steps of each kind."""
    from conftest import RECIPE

    folder = tmp_path_factory.mktemp("bench")
    path = folder / "small.yaml"
    path.write_text(RECIPE.format(prior=tiny_folder, root=folder / "runs"))
    found = Measuring(["--config", str(path), "--trainer.log_every_n_steps=2"], 5, folder / "metrics", Signals())
    assert not (folder / "runs").exists()
    return found


@pytest.fixture
def module(measuring: Measuring) -> Distillation:
    return measuring.model


# ------------------------------------------------------------------------------------------------ sections


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_section_has_what_its_inner_ones_have_not() -> None:
    clock = Clock()
    sections = Sections(clock)
    clock.now += 1
    with sections.within("outer"):
        clock.now += 2
        with sections.within("inner"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    with pytest.raises(KeyError), sections.within("inner"):
        clock.now += 32
        raise KeyError
    clock.now += 64
    assert sections.close() == {"other": 81, "outer": 10, "inner": 36}


def test_what_logging_calls_is_loggings() -> None:
    clock = Clock()
    sections = Sections(clock)

    def forward(by: float) -> float:
        clock.now += by
        return by

    timed = sections.around(forward, lambda by: "big" if by > 5 else "small")
    with sections.within(LOGGING):
        assert timed(1) == 1
    timed(2)
    timed(by=8)
    assert sections.close() == {"other": 0, LOGGING: 1, "small": 2, "big": 8}


def test_a_replaced_attribute_comes_back(module: Distillation) -> None:
    before = module.share_noise
    with replaced(module, share_noise="other", training_step=None):
        assert module.share_noise == "other" and module.training_step is None
    assert module.share_noise == before
    assert "training_step" not in vars(module) and callable(module.training_step)


def test_sections_add_up_to_the_step(measuring: Measuring) -> None:
    facts = measuring.bench.facts
    sections = {section["name"]: section for section in facts["sections"]}
    assert set(sections) == {
        "render", "encode", "base forwards", "discriminator forward", "encode backward", "render backward",
        "discriminator loss", "discriminator backward", "generator optimiser", "discriminator optimiser",
        "density control", "logging", "other",
    }  # fmt: skip
    assert sum(section["share_of_step"] for section in sections.values()) == pytest.approx(1, abs=0.3)
    whole = sum(section["seconds"]["median"] for section in sections.values())
    assert 0.2 < whole / facts["bare_seconds"]["median"] < 5
    assert all(section["seconds"]["median"] > 0 for section in sections.values())


def test_each_section_times_its_own_part(module: Distillation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that takes a tenth of a second longer shows in its section, and in no other."""
    slow = {
        "render": (module.generator, "render"), "encode": (module.prior, "encode"),
        "density control": (module.generator, "after_step"), "logging": (module.guidance, "diagnostics"),
        "generator optimiser": (module.generator, "before_step"),
    }  # fmt: skip

    def slowed(function: Any) -> Any:
        return lambda *args, **kwargs: (time.sleep(0.1), function(*args, **kwargs))[1]

    for name, (owner, attribute) in slow.items():
        with replaced(owner, **{attribute: slowed(getattr(owner, attribute))}):
            times = bench._taken_apart(module, time.perf_counter, every=1)
        assert times[name] > 0.1
        assert sum(times.values()) - times[name] < 0.1 + sum(bench._taken_apart(module, time.perf_counter).values())


def test_operations_are_charged_to_the_part_that_does_them(measuring: Measuring, module: Distillation) -> None:
    """Of the frozen network two conditions for each view, of phi one and backward, of the autoencoder the encoder."""
    sections = {section["name"]: section for section in measuring.bench.facts["sections"]}
    prior = module.prior
    x_t, text = torch.zeros(2 * VIEWS, *prior.latent_shape(SIZE, SIZE)), torch.zeros(2 * VIEWS, *prior.condition_shape)
    with operations() as counter, torch.no_grad():
        prior.family.call(prior.network, x_t, torch.zeros(2 * VIEWS), {"text": text})
    base = counter.get_total_flops()
    camera = 2 * 2 * VIEWS * sum(p.numel() for p in prior.camera.parameters() if p.ndim == 2)
    assert abs(sections["base forwards"]["flop"] - base) <= camera
    images = torch.zeros(VIEWS, 3, SIZE, SIZE, requires_grad=True)
    with operations() as counter:
        x0 = prior.encode(images)
    assert sections["encode"]["flop"] == counter.get_total_flops()
    with operations() as counter:
        x0.sum().backward()
    assert sections["encode backward"]["flop"] == counter.get_total_flops()
    assert base / 2 < sections["discriminator forward"]["flop"] < base
    assert sections["discriminator backward"]["flop"] > 0.3 * sections["discriminator forward"]["flop"]
    assert sections["render"]["flop"] is None and sections["render backward"]["flop"] is None


def test_shares_of_the_peak_are_operations_over_seconds(measuring: Measuring) -> None:
    facts = measuring.bench.facts
    counted_ones = [section for section in facts["sections"] if section["flop"]]
    assert len(counted_ones) >= 5
    for section in counted_ones:
        rate = section["flop"] / section["seconds"]["median"]
        assert section["share_of_peak"] == pytest.approx(rate / facts["peak"]["flop_per_second"])


# ------------------------------------------------------------------------------------------------ operations by hand


def test_operations_of_a_convolution_and_a_matrix_by_hand() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(2), nn.Linear(64, 7))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    forward = 2 * (2 * 5 * 64) * 3 * 9 + 2 * (2 * 5) * 64 * 7
    with operations() as counter:
        y = layers(x)
    assert counter.get_total_flops() == forward
    with operations() as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * forward  # for the inputs, and for the weights


def test_operations_of_attention_by_hand() -> None:
    """Two products of L x L x d for each head; torch counts five on the way back, one of them done again."""
    batch, heads, length, width = 2, 3, 8, 4
    q, k, v = (torch.randn(batch, heads, length, width, requires_grad=True) for _ in range(3))
    product = 2 * batch * heads * length * length * width
    with operations() as counter:
        y = nn.functional.scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == 2 * product
    with operations() as counter:
        y.sum().backward()
    assert counter.get_total_flops() in (4 * product, 5 * product)


def test_the_peak_is_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[float] = iter([0, 2.0, 2, 2.5, 2.5, 4, *(4 + i // 2 for i in range(34))])
    monkeypatch.setattr(bench, "seconds", lambda device: lambda: next(readings))
    a = 2 * 1024**3 / 0.5
    readings = iter([0, 2.0, 2.0, 2.5, *(x for i in range(18) for x in (10.0 * i + 10, 10.0 * i + 11))])
    assert matmul_peak(torch.device("cpu"), torch.float32) == a


def test_spread_is_median_and_quartiles() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 10.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}


# ------------------------------------------------------------------------------------------------ modes


def rows_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Rows of each call that the network really gets, and whether a graph is kept, from now on."""
    calls: list[tuple[int, bool]] = []
    call = StableDiffusion.call

    def watched(self: StableDiffusion, network: nn.Module, x_t: Tensor, *rest: Any) -> Tensor:
        output = call(self, network, x_t, *rest)
        calls.append((len(x_t), output.requires_grad))
        return output

    monkeypatch.setattr(StableDiffusion, "call", watched)
    return calls


def test_the_fast_mode_shares_calls(module: Distillation, monkeypatch: pytest.MonkeyPatch) -> None:
    """e_null and e_y together, and e_phi once for both steps."""
    calls = rows_of(monkeypatch)
    Plain(module, every=10**9).run(2)
    assert calls == 2 * [(2 * VIEWS, False), (VIEWS, True)]


def test_the_faithful_mode_calls_for_each_prediction(module: Distillation, monkeypatch: pytest.MonkeyPatch) -> None:
    """e_null, e_y and e_phi for the generator; e_phi with its graph and e_y again for the discriminator."""
    calls = rows_of(monkeypatch)
    with paper_faithful(module):
        Plain(module, every=10**9).run(1)
    assert calls == [(VIEWS, False)] * 3 + [(VIEWS, True), (VIEWS, False)]
    calls.clear()
    Plain(module, every=10**9).run(1)
    assert len(calls) == 2  # and afterwards all is as it was


def test_the_faithful_discriminator_has_draws_of_its_own(module: Distillation, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Tensor] = []
    predict = module.prior.predict

    def watched(x: Any, *rest: Any) -> list[Tensor]:
        draws.append(x.eps)
        return predict(x, *rest)

    with replaced(module.prior, predict=watched), paper_faithful(module):
        Plain(module, every=10**9).run(1)
    assert all(torch.equal(draw, draws[0]) for draw in draws[:3])
    assert torch.equal(draws[3], draws[4]) and not torch.equal(draws[0], draws[3])


def test_separate_predictions_are_those_of_one_call(module: Distillation) -> None:
    conditions = list(dict.fromkeys(module.guidance.conditions()))
    shape = (VIEWS, *module.prior.latent_shape(SIZE, SIZE))
    x = module.prior.draw(torch.ones(shape), torch.tensor([9, 500]), torch.ones(shape))
    with counted(module) as calls:
        together = module.prior.predict(x, conditions)
        with paper_faithful(module):
            apart = module.prior.predict(x, conditions)
    assert [call["predictions"] for call in calls] == [2, 1, 1]
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_another_model_of_phi_is_counted_and_split_too(tiny_folder: Path, module: Distillation) -> None:
    other = Pretrained(str(tiny_folder))
    guidance = ASD(adapter=LoRA(prior=other))
    two = Distillation("a red duck", Pretrained(str(tiny_folder)), Gaussians(count=9, capacity=9), guidance)
    assert two.priors == [two.prior, other]
    assert module.priors == [module.prior]


# ------------------------------------------------------------------------------------------------ without Lightning


class StartsPlain(pl.Callback):
    """Takes steps without Lightning before the trainer's first one."""

    def __init__(self, steps: int) -> None:
        self.steps, self.after = steps, {}

    def on_train_start(self, trainer: pl.Trainer, module: Distillation) -> None:
        Plain(module).run(self.steps)
        assert trainer.global_step == 0 and module.trainer is trainer
        self.after = copy_of(module)


def copy_of(module: Distillation) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def trained(tiny_folder: Path, folder: Path, steps: int, *callbacks: pl.Callback) -> Distillation:
    torch.manual_seed(0)
    module = Distillation(
        "a red duck",
        Pretrained(str(tiny_folder)),
        Gaussians(count=40, capacity=40, init_opacity=0.5),
        ASD(),
        discriminator_steps=2,
        discriminator_clip=0.05,
    )
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=2,
    )
    trainer.fit(module, datamodule=Cameras(views_per_step=VIEWS, size=SIZE))
    return module


def test_the_plain_loop_takes_the_trainers_steps(tiny_folder: Path, tmp_path: Path) -> None:
    """Bit for bit, with two discriminator steps each and a gradient that is clipped."""
    lightning = copy_of(trained(tiny_folder, tmp_path, 4))
    plain = StartsPlain(4)
    trained(tiny_folder, tmp_path, 1, plain)
    assert plain.after.keys() == lightning.keys()
    assert all(torch.equal(plain.after[name], value) for name, value in lightning.items())


def test_a_guidance_that_does_not_learn_and_images_without_cameras(tiny_folder: Path, tmp_path: Path) -> None:
    module = Distillation("a red duck", Pretrained(str(tiny_folder)), Latents(count=VIEWS, size=SIZE), SDS())
    watch = Bench(1, 1)
    trainer = pl.Trainer(
        max_steps=watch.total,
        accelerator="cpu",
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=Canvas(size=SIZE))
    assert {"base forwards", "render backward"} <= {section["name"] for section in watch.facts["sections"]}
    assert "encode" not in {section["name"] for section in watch.facts["sections"]}
    modes = watch.facts["modes"]
    assert [call["predictions"] for call in modes["fast"]["calls"]] == [2]
    assert [call["predictions"] for call in modes["faithful"]["calls"]] == [1, 1]


# ------------------------------------------------------------------------------------------------ what is reported


def test_every_kind_has_its_rounds_and_the_first_is_a_warm_up(measuring: Measuring) -> None:
    """Five steps in blocks of two, as often as is logged, are three rounds."""
    assert {kind: len(times) for kind, times in measuring.bench.times.items()} == dict.fromkeys(
        ("fast", "bare", "faithful"), 4
    )
    assert measuring.trainer.global_step == 16
    times, facts = measuring.bench.times, measuring.bench.facts
    assert facts["modes"]["fast"]["seconds"] == spread(times["fast"][1:])
    assert facts["modes"]["faithful"]["seconds"] == spread(times["faithful"][1:])
    assert facts["bare_seconds"] == spread(times["bare"][1:])
    ratios = [a / b for a, b in zip(times["fast"][1:], times["faithful"][1:], strict=True)]
    assert facts["fast_to_faithful"] == spread(ratios)
    ratios = [a / b for a, b in zip(times["fast"][1:], times["bare"][1:], strict=True)]
    assert facts["lightning_to_bare"] == spread(ratios)


def test_times_are_per_step(monkeypatch: pytest.MonkeyPatch, module: Distillation) -> None:
    watch = Bench(8, 4)
    watch.now, watch.resident = Clock(), None
    watch._open(module)
    watch.now.now += 2
    watch._close("fast", module)
    assert watch.times == {"fast": [0.5]} and watch.memory == {"fast": None}


def test_json_has_all_facts_and_stands_alone(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code = main(["bench", "--config", str(recipe), "--prior", "random:toybox", "--steps", "1", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    facts = json.loads(out)
    assert sorted(tmp_path.rglob("*")) == before  # no run folder, no checkpoint, no picture
    assert facts.keys() == {
        "recipe", "date", "versions", "machine", "prior", "x0", "steps", "peak", "sections", "modes", "bare_seconds",
        "fast_to_faithful", "lightning_to_bare", "lightning_seconds",
    }  # fmt: skip
    assert facts["recipe"] == "small" and facts["steps"] == 1
    assert facts["versions"]["torch"] == torch.__version__ and facts["machine"]["device"] == "cpu"
    assert facts["machine"].keys() == {"device", "name", "processor", "cores", "threads"}
    assert facts["prior"]["name"] == facts["prior"]["digest"] == "random:toybox"
    assert facts["prior"]["parameters"] == 8_452_136 + 237_483 and facts["prior"]["phi"] > 1000
    assert facts["x0"] == [VIEWS, 8, 4, 4]
    assert facts["peak"].keys() == {"flop_per_second", "dtype"} and facts["peak"]["dtype"] == "float32"
    for section in facts["sections"]:
        assert section.keys() == {"name", "seconds", "share_of_step", "flop", "share_of_peak"}
        assert section["seconds"].keys() == {"median", "low", "high"}
    for mode, evaluations in (("fast", 3), ("faithful", 5)):
        assert facts["modes"][mode].keys() == {"seconds", "memory", "evaluations", "calls"}
        assert facts["modes"][mode]["evaluations"] == evaluations


def test_the_table_says_what_the_facts_say() -> None:
    times = {"median": 0.5, "low": 0.25, "high": 0.75}
    calls = [
        {"predictions": 2, "adapted": False, "with_gradient": False, "x0": [4, 4, 64, 64]},
        {"predictions": 1, "adapted": True, "with_gradient": True, "x0": [4, 4, 64, 64]},
    ]
    mode = {"seconds": times, "memory": 3 * 2**30, "evaluations": 3, "calls": calls}
    facts = {
        "recipe": "gs3d", "date": "2026-11-24", "versions": {"torch": "2.13"}, "x0": [4, 4, 64, 64], "steps": 9,
        "machine": {"device": "cuda", "name": "a card", "processor": "", "cores": 16, "threads": 8},
        "prior": {"name": "random:sd21", "digest": "", "parameters": 949_564_587, "phi": 829_952},
        "peak": {"flop_per_second": 4e14, "dtype": "bfloat16"},
        "sections": [
            {"name": "render", "seconds": times, "share_of_step": 0.125, "flop": None, "share_of_peak": None},
            {"name": "base forwards", "seconds": times, "share_of_step": 0.5, "flop": 8e13, "share_of_peak": 0.4},
        ],
        "modes": {"fast": mode, "faithful": mode | {"memory": None, "calls": []}},
        "bare_seconds": times, "lightning_seconds": times,
        "fast_to_faithful": {"median": 0.61, "low": 0.6, "high": 0.625},
        "lightning_to_bare": {"median": 1.01, "low": 1.0, "high": 1.02},
    }  # fmt: skip
    text = table(facts)
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
    assert rows["render"] == ["500", "250", "-", "750", "12.5", "-", "-"]
    assert rows["base forwards"] == ["500", "250", "-", "750", "50.0", "80000", "40.0"]
    assert rows["a step without Lightning"] == rows["what Lightning adds"] == ["500", "250", "-", "750"]
    assert "prior random:sd21 (949.6 M parameters and 0.83 M of phi, bfloat16), x0 4x4x64x64" in text
    assert "a card, 8 of 16 threads, 2026-11-24, torch 2.13" in text and "peak: 400 TFLOP/s" in text
    assert "fast: peak memory 3.00 GiB; network calls: 2 frozen, 1 e_phi with gradient\n" in text
    assert "faithful: peak memory unknown; network calls: none\n" in text
    assert "fast / faithful: 0.610 (0.600 - 0.625)\nLightning / bare loop: 1.010 (1.000 - 1.020)\n" in text
    assert text.endswith("The frozen network's forwards: 40 % of the measured bfloat16 peak")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_of_memory_is_forgotten() -> None:
    start = bench._resident("VmRSS")
    block = torch.ones(50_000_000)
    del block
    assert bench._resident("VmHWM") >= start + 150_000_000
    bench._forget_peak()
    assert bench._resident("VmHWM") < start + 150_000_000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--config", "gs3d", "--prior", "random:sd99"],
            "There is no architecture 'sd99'; random: is followed by sd15,",
        ),
        (["--config", "gs3d", "--steps", "0"], "bench needs at least one step; got --steps 0."),
        (["--config", "gs3d", "--steps", "few"], "invalid int value: 'few'"),
        (["--config", "gs4d"], "did you mean 'gs3d'?"),
        ([], "bench needs a recipe"),
        (["--config", "gs3d", "--prior"], "--prior needs a value."),
    ],
    ids=str,
)
def test_mistakes(options: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", *options]) == 2
    out, err = capsys.readouterr()
    assert not out and sentence in err and err.count("\n") == 1


def test_a_run_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert main(["bench", str(tmp_path)]) == 2
    assert f"bench times recipes, not runs; name one with --config {tmp_path}" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--help"]) == 0
    assert "usage: asdkit bench --config RECIPE [--prior random:sd21]" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_size_on_a_gpu(capsys: pytest.CaptureFixture) -> None:
    options = ["--prior", "random:sd21", "--model.prior.dtype=bfloat16", "--data.size=512", "--steps", "3", "--json"]
    assert main(["bench", "--config", "gs3d", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["device"] == "cuda" and facts["x0"] == [4, 4, 64, 64]
    base = next(section for section in facts["sections"] if section["name"] == "base forwards")
    assert base["flop"] == pytest.approx(8 * 0.804e12, rel=0.01)
    assert 2e9 < facts["modes"]["fast"]["memory"] < 80e9
