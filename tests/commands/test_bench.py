"""`asdkit bench`: spans, the bare loop, the paper-faithful mode, what is counted and what is printed."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from support.quiet import quiet_trainer
from support.recipe import write_recipe
from support.tiny import loaded
from torch import Tensor, nn
from torch.profiler import record_function

from asdkit import ASD, SDS, Cameras, Canvas, DiscriminatorSteps, Distillation, Gaussians, Initial, Latents, Pretrained
from asdkit.commands import bench_report, bench_steps
from asdkit.commands.bench_report import comparison, forget_peak, measured_peak, resident, spread, table
from asdkit.commands.bench_steps import NEVER, Bench, BenchCLI, bare_loop, computes_in, network_calls, operations
from asdkit.commands.main import main
from asdkit.priors.families import StableDiffusion
from asdkit.priors.network_runner import halve
from asdkit.run.exits import Signals

VIEWS, SIZE, CPU = 2, 16, torch.device("cpu")


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchCLI:
    """A finished measurement of the tiny recipe, five steps of each kind."""
    folder = tmp_path_factory.mktemp("bench")
    path = write_recipe(folder, tiny_folder)
    cli = BenchCLI(["--config", str(path), "--trainer.log_every_n_steps=2"], 5, folder / "metrics", Signals())
    assert not (folder / "runs").exists()
    return cli


@pytest.fixture
def module(finished: BenchCLI) -> Distillation:
    return finished.model


def test_a_span_has_what_its_inner_ones_have_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the host's clock, or by events on a GPU; other programs' spans are part of what they lie in."""
    clock, waited = [0.0], []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def elapsed_time(self, later: "Event") -> float:
            assert waited, "read before the device was there"
            return 1000 * (later.at - self.at)

    def spend(seconds: float) -> None:
        clock[0] += seconds

    def step() -> None:
        spend(1)
        with record_function("asdkit.backward"):
            spend(2)
            with record_function("asdkit.encode_backward"):
                spend(4)
            with record_function("Optimizer.step#Adam.step"):
                spend(8)
        with record_function("asdkit.backward"):
            spend(16)
        spend(32)

    monkeypatch.setattr(bench_steps.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    expected = {"other": 33.0, "backward": 26.0, "encode_backward": 4.0}
    for device in (CPU, torch.device("cuda")):
        assert bench_steps.seconds_by_span(step, 2, device) == [expected, expected]


def test_sections_add_up_to_the_step(finished: BenchCLI) -> None:
    sections = finished.bench.facts["sections"]
    assert set(sections) == {
        "render", "encode", "prior", "e_phi", "encode_backward", "backward", "discriminator", "optimizer", "other",
    }  # fmt: skip
    assert list(sections)[-1] == "other" and all(section["seconds"]["median"] > 0 for section in sections.values())
    assert sum(section["share_of_step"] for section in sections.values()) == pytest.approx(1, abs=0.5)  # of medians
    steps, render = finished.bench.spans[2:], sections["render"]
    assert len(steps) == 6 and render["seconds"] == spread([step["render"] for step in steps])
    whole = spread([sum(step.values()) for step in steps])["median"]
    assert render["share_of_step"] * whole == pytest.approx(render["seconds"]["median"])
    for block, seconds in enumerate(finished.bench.times["bare"]):  # of the same steps
        assert sum(sum(step.values()) for step in finished.bench.spans[2 * block :][:2]) < 2 * seconds


def test_operations_are_charged_to_the_span_that_does_them(finished: BenchCLI, module: Distillation) -> None:
    """Of the frozen network two conditions for each view, of phi one and backward, of the autoencoder the encoder."""
    facts, prior = finished.bench.facts, module.prior
    flop = {name: section["flop"] for name, section in facts["sections"].items()}
    x_t, text = torch.zeros(2 * VIEWS, *prior.latent_shape(SIZE, SIZE)), torch.zeros(2 * VIEWS, *prior.condition_shape)
    with operations() as counter, torch.no_grad():
        prior.family.call(prior.network, x_t, torch.zeros(2 * VIEWS), {"text": text})
    base = counter.get_total_flops()
    camera = 2 * 2 * VIEWS * sum(p.numel() for p in prior.camera.parameters() if p.ndim == 2)
    assert abs(flop["prior"] - base) <= camera
    images = torch.zeros(VIEWS, 3, SIZE, SIZE, requires_grad=True)
    with operations() as counter:
        x0 = prior.encode(images)
    assert flop["encode"] == counter.get_total_flops()
    with operations() as counter:
        x0.sum().backward()
    assert flop["encode_backward"] == counter.get_total_flops()
    assert base / 2 < flop["e_phi"] < base and flop["discriminator"] > 0.3 * flop["e_phi"]
    assert flop["optimizer"] is None
    for section in facts["sections"].values():
        if section["flop"]:
            rate = section["flop"] / section["seconds"]["median"]
            assert section["share_of_peak"] == pytest.approx(rate / facts["peak"]["flop_per_second"])


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


def test_the_fast_mode_shares_calls_and_the_faithful_one_makes_one_for_each_prediction(module, monkeypatch) -> None:
    """Fast: e_null and e_y together, and e_phi once for both steps.

    Faithful: e_null, e_y and e_phi for the generator; e_phi with its graph and e_y for the discriminator, which draws
    itself.
    """
    calls, draws, predict = rows_of(monkeypatch), [], module.prior.predict
    fast = [(2 * VIEWS, False), (VIEWS, True)]
    step = bare_loop(module, NEVER)
    step()
    step()
    assert calls == 2 * fast
    monkeypatch.setattr(module.prior, "predict", lambda x, *rest: (draws.append(x.eps), predict(x, *rest))[1])
    with network_calls(module, faithful=True) as listed:
        bare_loop(module, NEVER)()
    assert calls[4:] == [(VIEWS, False)] * 3 + [(VIEWS, True), (VIEWS, False)]
    assert [call["predictions"] for call in listed] == [1] * 5
    assert [call["adapted"] for call in listed] == [False, False, True, True, False]
    assert all(torch.equal(draw, draws[0]) for draw in draws[:3])
    assert torch.equal(draws[3], draws[4]) and not torch.equal(draws[0], draws[3])
    bare_loop(module, NEVER)()
    assert calls[9:] == fast  # and afterwards all is as it was


def test_separate_predictions_are_those_of_one_call(module: Distillation) -> None:
    conditions = list(dict.fromkeys(module.guidance.conditions()))
    shape = (VIEWS, *module.prior.latent_shape(SIZE, SIZE))
    x = module.prior.draw(torch.ones(shape), torch.tensor([9, 500]), torch.ones(shape))
    together = module.prior.predict(x, conditions)
    with network_calls(module, faithful=True):
        separate = module.prior.predict(x, conditions)
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-5)


def trained(module: Distillation, data: pl.LightningDataModule, steps: int, callback: pl.Callback) -> None:
    quiet_trainer(steps, callbacks=[callback], log_every_n_steps=2).fit(module, datamodule=data)


def test_the_bare_loop_takes_the_trainers_steps(tiny_folder: Path) -> None:
    """Bit for bit, with two discriminator steps each."""
    states: list[dict[str, Tensor]] = []

    class Bare(pl.Callback):
        """Takes the steps before the trainer's first one."""

        def on_train_start(self, trainer: pl.Trainer, module: Distillation) -> None:
            step = bare_loop(module)
            for _ in range(4):
                step()
            assert trainer.global_step == 0 and module.trainer is trainer
            states.append(copy.deepcopy(module.state_dict()))

    for steps, callback in ((4, pl.Callback()), (1, Bare())):
        torch.manual_seed(0)
        generator = Gaussians(count=40, capacity=40, initial=Initial(opacity=0.5))
        prior, twice = Pretrained(str(tiny_folder)), DiscriminatorSteps(2)
        module = Distillation("a red duck", prior, generator, ASD(), discriminator=twice)
        trained(module, Cameras(views_per_step=VIEWS, size=SIZE), steps, callback)
        states.append(module.state_dict())
    lightning, bare, _ = states
    assert bare.keys() == lightning.keys()
    assert all(torch.equal(bare[name], value) for name, value in lightning.items())


def test_a_guidance_that_does_not_learn_and_images_without_cameras(tiny_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench_report, "measured_peak", lambda *_: 1e12)
    module = Distillation("a red duck", Pretrained(str(tiny_folder)), Latents(count=VIEWS, size=SIZE), SDS())
    bench = Bench("latents", 1, 1)
    trained(module, Canvas(size=SIZE), bench.total, bench)
    names = bench.facts["sections"].keys()
    assert {"prior", "backward"} <= names and not {"e_phi", "discriminator"} & names
    for kind, predictions in {"fast": [2], "faithful": [1, 1]}.items():
        assert [call["predictions"] for call in bench.facts["kinds"][kind]["calls"]] == predictions


def test_every_kind_has_its_rounds_and_the_first_is_a_warm_up(finished: BenchCLI) -> None:
    """Five steps in blocks of two, as often as is logged, are three rounds."""
    assert spread([4.0, 1.0, 2.0, 3.0, 10.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}  # the quartiles
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}
    times, facts = finished.bench.times, finished.bench.facts
    assert {kind: len(blocks) for kind, blocks in times.items()} == {"fast": 4, "bare": 4, "faithful": 4}
    assert finished.trainer.global_step == 16
    fast, bare, faithful = (times[kind][1:] for kind in ("fast", "bare", "faithful"))
    assert [facts["kinds"][kind]["seconds"] for kind in times] == [spread(blocks[1:]) for blocks in times.values()]
    assert facts["fast_to_faithful"]["wall"] == spread([a / b for a, b in zip(fast, faithful, strict=True)])
    assert facts["lightning_to_bare"]["wall"] == spread([a / b for a, b in zip(fast, bare, strict=True)])
    assert facts["lightning_seconds"] == spread([a - b for a, b in zip(fast, bare, strict=True)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("fast", "operations"), [(0, 2 * 1024**3), (20, 2 * 4 * 30 * 30 * 256 * 128 * 9)])
def test_the_peak_is_the_fastest_product(
    threads: int, fast: int, operations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of matrices, or in a convolution; by the thread's own seconds where there is one, else by the wall's."""
    seconds = [0.001 if i == fast + 1 else 10.0 for i in range(40)]
    readings = iter([reading for taken in seconds for reading in (0.0, taken)])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    if threads == 1:
        monkeypatch.setattr(bench_report.time, "process_time", lambda: next(readings))
    else:
        monkeypatch.setattr(bench_report, "now", lambda device: next(readings))
    assert measured_peak(CPU, torch.float32) == operations / 0.001


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's own account of the process")
def test_the_peak_of_memory_is_forgotten() -> None:
    start = resident("VmRSS")
    block = torch.ones(100_000_000)  # larger than what the C library keeps for the next tensors
    del block
    assert resident("VmHWM") >= start + 150_000_000
    forget_peak(CPU)
    assert resident("VmHWM") < start + 150_000_000


def test_json_has_all_facts_and_stands_alone(recipe, tiny_folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_report, "measured_peak", lambda *_: 1e12)
    before = sorted(tmp_path.rglob("*"))
    code = main(["bench", "--config", str(recipe), "--steps", "1", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    facts = json.loads(out)
    assert sorted(tmp_path.rglob("*")) == before  # no run folder, no checkpoint, no picture
    assert facts.keys() == {
        "recipe", "date", "versions", "machine", "prior", "x0", "steps", "peak", "sections", "kinds",
        "fast_to_faithful", "lightning_to_bare", "lightning_seconds", "floor_seconds",
    }  # fmt: skip
    assert facts["recipe"] == "small" and facts["steps"] == 1
    assert facts["versions"]["torch"] == torch.__version__ and facts["machine"]["device"] == "cpu"
    prior = loaded(tiny_folder)
    assert facts["x0"] == [VIEWS, *prior.latent_shape(SIZE, SIZE)]
    assert (facts["prior"]["name"], facts["prior"]["digest"]) == (str(tiny_folder), prior.digest)
    assert facts["prior"]["parameters"] == sum(p.numel() for p in prior.parameters()) and facts["prior"]["phi"] > 1000
    assert facts["peak"]["dtype"] == "float32"
    asked = {kind: sum(c["predictions"] for c in facts["kinds"][kind]["calls"]) for kind in ("fast", "faithful")}
    assert asked == {"fast": 3, "faithful": 5}
    keys = {"seconds", "processor_seconds", "memory", "calls", "flop"}
    assert facts["kinds"]["fast"].keys() == keys
    assert f"prior {tiny_folder} (0.1 M parameters" in table(facts)


def times(median: float) -> dict[str, float]:
    return {"median": median, "low": median / 2, "high": 1.5 * median}


@pytest.fixture
def facts() -> dict[str, Any]:
    call = {"predictions": 2, "adapted": False, "with_gradient": False}
    mode = {"seconds": times(0.5), "processor_seconds": times(0.25), "memory": 3 * 2**30, "flop": 6e13}
    mode["calls"] = [call, {"predictions": 1, "adapted": True, "with_gradient": True}]
    render = {"share_of_step": 0.125, "flop": None, "share_of_peak": None, "floor_seconds": None}
    prior = {"share_of_step": 0.5, "flop": 8e13, "share_of_peak": 0.4, "floor_seconds": 0.2}
    return {
        "recipe": "gs3d", "date": "2026-11-24", "versions": {"torch": "2.13"}, "x0": [4, 4, 64, 64], "steps": 9,
        "machine": {"device": "cuda", "name": "a card", "cores": 16, "threads": 8, "load": 0.5},
        "prior": {"name": "random:sd21", "parameters": 949_564_587, "phi": 829_952},
        "peak": {"flop_per_second": 4e14, "dtype": "bfloat16"},
        "sections": {"render": render | {"seconds": times(0.5)}, "prior": prior | {"seconds": times(0.5)}},
        "kinds": {
            "fast": mode, "bare": {"seconds": times(0.5), "processor_seconds": times(0.125)},
            "faithful": mode | {"memory": None, "calls": []},
        },
        "lightning_seconds": times(0.5), "floor_seconds": 0.2,
        "fast_to_faithful": {
            "wall": {"median": 0.61, "low": 0.6, "high": 0.625}, "operations": 0.778,
            "processor": {"median": 0.7, "low": 0.6, "high": 0.8},
        },
        "lightning_to_bare": {
            "wall": {"median": 1.01, "low": 1.0, "high": 1.02}, "processor": {"median": 1.03, "low": 1.0, "high": 1.04},
        },
    }  # fmt: skip


def test_the_table_says_what_the_facts_say(facts: dict[str, Any]) -> None:
    text = table(facts)
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
    assert rows["render"] == ["500", "250", "-", "750", "12.5", "-", "-", "-"]
    assert rows["prior"] == ["500", "250", "-", "750", "50.0", "80000", "200", "40.0"]
    assert rows["what Lightning adds"] == ["500", "250", "-", "750"]
    assert rows["a bare step"] == ["500", "250", "-", "750", "125"]
    assert rows["a fast step"] == ["500", "250", "-", "750", "250"]
    assert "the floor of a fast step        200, and a bare one takes 2.5 times that\n" in text
    assert "prior random:sd21 (949.6 M parameters and 0.83 M of phi, bfloat16), x0 4x4x64x64" in text
    assert "a card, 8 of 16 threads, load 0.5, 2026-11-24, torch 2.13" in text and "peak: 400 TFLOP/s" in text
    assert "fast: peak memory 3.00 GiB; network calls: 2 frozen, 1 e_phi with gradient\n" in text
    assert "faithful: peak memory unknown; network calls: none\n" in text
    assert "fast / faithful: 0.610 (0.600 - 0.625); of the processor's time 0.700 (0.600 - 0.800)\n" in text
    assert "bare loop: 1.010 (1.000 - 1.020); of the processor's time 1.030 (1.000 - 1.040)\n" in text
    assert text.endswith("fast / faithful by operations: 0.778")
    facts["machine"] |= {"device": "cpu", "threads": 1}  # which other work on the machine does not lengthen
    assert "and a bare one takes 0.625 times that\n" in table(facts)


def test_the_faithful_mode_computes_what_it_does_not_share(finished: BenchCLI) -> None:
    """One frozen prediction and one of phi more than the fast mode, whose two frozen ones are a call."""
    facts = finished.bench.facts
    fast, faithful = (facts["kinds"][kind]["flop"] for kind in ("fast", "faithful"))
    flop = {name: section["flop"] for name, section in facts["sections"].items()}
    assert faithful - fast == pytest.approx(flop["prior"] / 2 + flop["e_phi"], rel=0.02)
    assert facts["fast_to_faithful"]["operations"] == fast / faithful
    prior = facts["sections"]["prior"]
    assert prior["floor_seconds"] == pytest.approx(prior["flop"] / facts["peak"]["flop_per_second"])
    assert facts["floor_seconds"] == pytest.approx(fast / facts["peak"]["flop_per_second"])


def test_the_processors_seconds_are_those_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, clock = Bench("gs3d", 2, 2), iter([1.0, 4.0])
    monkeypatch.setattr(bench_steps.time, "process_time", lambda: next(clock))
    module: Any = SimpleNamespace(device=CPU)
    bench._resident = None
    bench._open(module)
    bench._close("fast", module)
    assert bench.processor == {"fast": [1.5]}


def test_halved_convolutions_are_held_against_bfloat16() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    module: Any = SimpleNamespace(prior=network, device=CPU)
    assert computes_in(module) == torch.float32
    halve(network)
    assert computes_in(module) == torch.bfloat16
    module.device = torch.device("cuda")  # where they are plain ones
    assert computes_in(module) == torch.float32
    network.half()
    assert computes_in(module) == torch.float16


def test_ratios_to_an_earlier_measurement(facts: dict[str, Any]) -> None:
    earlier = copy.deepcopy(facts) | {"date": "2026-11-01", "versions": {"torch": "2.12"}}
    earlier["kinds"]["bare"]["seconds"] = times(1.0)
    earlier["kinds"]["fast"]["seconds"] = times(2.0)
    earlier["kinds"]["fast"]["processor_seconds"] = times(0.2)
    earlier["sections"]["prior"]["seconds"] = times(0.4)
    earlier["sections"]["another"] = earlier["sections"].pop("render")
    earlier["machine"]["load"] = 7.0  # which always differs
    heading, *lines, was = comparison(facts, earlier).splitlines()
    rows = {line[:26].strip(): line[26:].strip() for line in lines}
    assert heading == "Ratios to gs3d of 2026-11-01:" and was == "versions was torch 2.12"
    assert rows == {
        "a fast step": "0.250, of the processor's time 1.250",
        "a faithful step": "1.000, of the processor's time 1.000",
        "a bare step": "0.500, of the processor's time 1.000",
        "prior": "1.250",
    }


def test_an_earlier_file_is_compared_with(recipe: Path, tmp_path: Path, facts, capsys, refused, monkeypatch) -> None:
    monkeypatch.setattr(bench_steps, "timed", lambda *_: facts)
    (tmp_path / "before.json").write_text(json.dumps(facts))
    assert main(["bench", "--config", str(recipe), "--compare", str(tmp_path / "before.json")]) == 0
    assert "Ratios to gs3d of 2026-11-24:\na fast step " in capsys.readouterr().out
    (tmp_path / "before.json").write_text("{}")
    said = refused("bench", "--config", recipe, "--compare", tmp_path / "before.json")
    assert "--compare needs a file of what asdkit bench --json has printed" in said


def test_curves(recipe: Path, tmp_path: Path, facts: dict[str, Any], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is timed with the others as they are; two keys have the same; the picture has a panel for each."""
    pytest.importorskip("matplotlib")
    calls: list[list[str]] = []
    monkeypatch.setattr(bench_steps, "timed", lambda arguments, *_: (calls.append(arguments[2:]), facts)[1])
    vary = ["--vary", "data.views_per_step=1,4", "--vary", "model.generator.count+model.generator.capacity=9,90"]
    vary += ["--vary", "model.guidance=SDS,ASD"]
    assert main(["bench", "--config", str(recipe), *vary, "--out", str(tmp_path / "out")]) == 0
    both = [[f"--model.generator.{name}={count}" for name in ("count", "capacity")] for count in (9, 90)]
    words = [["--model.guidance=SDS"], ["--model.guidance=ASD"]]
    assert calls == [["--data.views_per_step=1"], ["--data.views_per_step=4"], *both, *words]
    assert "| data.views_per_step | 4 | 500 | 250 | 200 |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "curves.json").read_text())) == 6
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.size == (1200, 350)


MISTAKES = {
    "--config gs3d --prior random:sd99": "There is no architecture 'sd99'; random: is followed by sd15,",
    "--config gs3d --steps 0": "bench needs at least one step; got --steps 0.",
    "--config gs3d --steps few": "invalid int value: 'few'",
    "--config gs4d": "did you mean 'gs3d'?",
    "": "bench needs a recipe",
    "--config gs3d --prior": "--prior needs a value.",
    "--config gs3d --compare none.json": "needs a file of what asdkit bench --json has printed; got none.json",
    "--config gs3d --vary size": "--vary needs an option and its values, key=value,value,...; got 'size'.",
    "--config gs3d --vary data.sizes=1,2": "did you mean --data.size?",
    "--config gs3d --vary data.size=16 --json": "--json and --compare are of a recipe as it is, not of --vary;",
    "--config gs3d --part 2": "--part, --dry-run and --out are of --gpu",
    "--config gs3d --out curves": "--part, --dry-run and --out are of --gpu",
    "--gpu --config gs3d": "--gpu takes no options of a recipe, such as --config; leave it out.",
    "--gpu --part 4": "invalid choice: 4",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes(options: str, refused: Callable) -> None:
    assert MISTAKES[options] in refused("bench", *options.split())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_size_on_a_gpu(capsys: pytest.CaptureFixture) -> None:
    options = ["--prior", "random:sd21", "--model.prior.dtype=bfloat16", "--data.size=512", "--steps", "3", "--json"]
    assert main(["bench", "--config", "gs3d", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["device"] == "cuda" and facts["x0"] == [4, 4, 64, 64]
    prior = facts["sections"]["prior"]
    assert prior["flop"] == pytest.approx(8 * 0.804e12, rel=0.01) and prior["share_of_peak"] > 0.05
    assert 2e9 < facts["kinds"]["fast"]["memory"] < 80e9
