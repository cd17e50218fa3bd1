"""Two processes on the CPU (gloo) as users start them, and the strategies that are refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import strategies
from support.forked import Forked, wait_for
from support.resuming import assert_same
from support.two import free_port, on_two_ranks

from asdkit import SDS, Canvas, Distillation, Pixels, Pretrained
from asdkit.commands.main import main
from asdkit.ranks import Sharded, average_gradients, check_precision, check_strategy, checksums
from asdkit.toybox.given import cutout

DUMP = """
import pytorch_lightning as pl
import torch

class Dump(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        facts = {"azimuth": batch.views.azimuth, "optimizers": [o.state_dict() for o in trainer.optimizers]}
        facts |= {"angle": batch.references.angle_deg} if batch.references else {}
        torch.save(pl_module.state_dict() | facts, f"rank{trainer.global_rank}.pt")
"""
TWO = ("--trainer.devices=2", "--trainer.callbacks=[]", "--snapshots.every=0", "--ranks.check_every=3")
TWO += ("--trainer.callbacks+=dump.Dump", "--trust=dump", "--run.name=two")


def assert_the_same_gaussians(folder: Path) -> None:
    one, two = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not any(torch.equal(one.pop(own), two.pop(own)) for own in {"azimuth", "angle"} & one.keys())
    assert int(one["generator.alive"].sum()) > 60, "nothing has grown"
    assert all(optimizer["state"] for optimizer in one["optimizers"])
    assert_same(one, two)


@pytest.fixture
def environment(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of two processes, which write down what they hold after each step."""
    (recipe.parent / "dump.py").write_text(DUMP)
    monkeypatch.chdir(recipe.parent)
    path = f"{Path(__file__).parents[2]}:{recipe.parent}"
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def test_two_forked_processes_run_a_recipe_as_it_is(
    recipe: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has cameras of its own, half of them near to a picture that both are given."""
    monkeypatch.syspath_prepend(recipe.parent)
    cutout("a red duck", 20.0, recipe.parent / "duck.png")
    posed = ["--data.references=ReferenceView", "--data.references.file=duck.png", "--data.references.azimuth_deg=20"]
    posed += ["--model.guidance.real_samples=NearestReference", "--model.guidance.real_samples.within_deg=80"]
    arguments = ["fit", "--config", str(recipe), *posed, *TWO, "--trainer.strategy=ddp_fork"]
    child = Forked(lambda: main(arguments), recipe.parent / "log", environment)
    assert child.wait() == 0, child.text()
    assert_the_same_gaussians(recipe.parent)
    assert (recipe.parent / "runs" / "small" / "two" / "report.html").is_file()


def test_processes_that_lightning_starts_are_one_run_and_stop_together(
    recipe: Path, environment: dict[str, str]
) -> None:
    """The first process alone is told, as by `kill`; a further one that fails would have it killed by Lightning.

    The prior is one in closed form, with which they start sooner.
    """
    command = [sys.executable, "-m", "asdkit", "fit", "--config", str(recipe), *TWO, "--trainer.strategy=ddp"]
    command += ["--model.prior=GaussianPrior", "--model.prior.means={a red duck: [0.9, 0.1, 0.2]}"]
    command += ["--model.guidance.adapter=asdkit.lab.Affine", "--trainer.max_steps=100000"]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    run = recipe.parent / "runs" / "small" / "two"
    wait_for(lambda: (run / "checkpoints" / "last.ckpt").is_file() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 143, err
    report = json.loads((run / "run.json").read_text())
    assert (report["status"], report["exit_code"], report["processes"]) == ("interrupted", 143, 2)
    assert f"step-{report['iterations']:06d}.ckpt" in report["reason"]
    assert_the_same_gaussians(recipe.parent)


AVERAGE = "pytorch_lightning.callbacks.StochasticWeightAveraging, init_args: {swa_lrs: 0.1}"
PRUNING = "pytorch_lightning.callbacks.ModelPruning, init_args: {pruning_fn: l1_unstructured}"
PARTS = "pytorch_lightning.callbacks.GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}"


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--trainer.strategy=deepspeed_stage_2", "can't be used, for it"),
        ("--trainer.precision=bf16-mixed", "must stay 32-true"),
        ("--trainer.accumulate_grad_batches=2", "--data.views_per_step"),
        (f"--trainer.callbacks+={{class_path: {PARTS}}}", "--model.rendering.chunk"),
        ("--trainer.gradient_clip_val=1.0", "--model.discriminator.clip"),
        ("--trainer.callbacks+=EMAWeightAveraging", "a Network has an average of its own"),
        (f"--trainer.callbacks+={{class_path: {AVERAGE}}}", "a Network has an average of its own"),
        ("--trainer.callbacks+=BackboneFinetuning", "the discriminator's adapter"),
        ("--trainer.callbacks+=SpikeDetection", "a run ends by itself"),
        (f"--trainer.callbacks+={{class_path: {PRUNING}}}", "--model.generator.density"),
    ],
)
def test_what_cannot_work_is_refused_with_what_does_it_here(
    recipe: Path, refused: Callable[..., str], option: str, instead: str
) -> None:
    assert instead in refused("fit", "--config", recipe, option)
    assert not (recipe.parent / "runs").exists()


def test_which_strategies_and_precisions_are_refused_and_why() -> None:
    assert strategies.StrategyRegistry["model_parallel"]["strategy"] is Sharded
    for allowed in (strategies.SingleDeviceStrategy, strategies.DDPStrategy, Sharded):
        check_strategy(allowed)
    reasons = {strategies.DeepSpeedStrategy: "one optimiser", strategies.FSDPStrategy: "flat"}
    reasons |= {strategies.ModelParallelStrategy: "folders", strategies.XLAStrategy: "does not reduce"}
    for refused, reason in reasons.items():
        with pytest.raises(ValueError, match=f"{refused.__name__} can't be used, .*{reason}.* --trainer.strategy=ddp"):
            check_strategy(refused)

    with pytest.raises(ValueError, match="Own can't be used, for it is not known to average"):
        check_strategy(type("Own", (strategies.ParallelStrategy,), {}))
    for precision in (None, 32, "32", "32-true"):
        check_precision(precision)
    for precision in ("16-mixed", "bf16-mixed", "bf16-true", "16-true", "64-true"):
        with pytest.raises(ValueError, match="must stay 32-true"):
            check_precision(precision)


def test_a_module_from_python_refuses_too_before_the_prior_is_loaded(tmp_path: Path) -> None:
    module = Distillation("a red cube", Pretrained("/nowhere"), Pixels(), SDS())
    trainer = pl.Trainer(accelerator="cpu", devices=1, precision="bf16-mixed", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="must stay 32-true"):
        trainer.fit(module, Canvas())
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy=strategies.ModelParallelStrategy(), logger=False)
    module.trainer = trainer
    with pytest.raises(ValueError, match="ModelParallelStrategy can't be used"):
        module.setup("fit")


def test_checksums_see_every_bit_and_its_place() -> None:
    values = torch.arange(3 * 2**20, dtype=torch.float32)
    state = {"a": values, "none": torch.zeros(0), "mask": torch.tensor([True, False]), "flag": torch.tensor(3)}
    names, sums = checksums(state)
    assert names == ["a", "mask", "flag"] and sums.dtype == torch.int64
    for place in (0, 1, 2**20, 3 * 2**20 - 1):
        changed = values.clone()
        changed[place] = changed[place].nextafter(torch.tensor(-1.0))
        assert checksums({"a": changed})[1][0] != sums[0]
    blocks = values.view(3, -1)
    for permuted in (values.flip(0), blocks[[1, 0, 2]].flatten()):
        assert checksums({"a": permuted})[1][0] != sums[0]
    assert checksums({"mask": torch.tensor([False, True])})[1][0] != sums[1]
    for dtype in (torch.float16, torch.float64, torch.uint8):
        assert checksums({"a": torch.ones(4, dtype=dtype)})[1] != checksums({"a": torch.zeros(4, dtype=dtype)})[1]
    assert checksums({"a": values[::2]})[1] == checksums({"a": values[::2].contiguous()})[1]


def test_two_processes_average_what_either_has_and_leave_alone_what_none_has(tmp_path: Path) -> None:
    def average(rank: int) -> list[list[float] | None]:
        torch.distributed.init_process_group("gloo")
        both, one, none = weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        both.grad = torch.tensor([1.0, 2.0]) * (1 + 2 * rank)
        one.grad = torch.tensor([4.0, 6.0]) if rank else None
        average_gradients(torch.optim.SGD(weights), 1)  # which leaves all as it is
        average_gradients(torch.optim.SGD(weights), 2)
        return [weight.grad if weight.grad is None else weight.grad.tolist() for weight in weights]

    assert on_two_ranks(average, tmp_path) == [[[2.0, 4.0], [2.0, 3.0], None]] * 2
