"""Two processes on the CPU (gloo): different views and noise, the same Gaussians."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DUMP = """
import pytorch_lightning as pl
import torch

class Dump(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == trainer.max_steps:
            facts = {"azimuth": batch.azimuth, "optimizers": [o.state_dict() for o in trainer.optimizers]}
            torch.save(pl_module.state_dict() | facts, f"rank{trainer.global_rank}.pt")
"""


@pytest.mark.parametrize("density", ["Threshold", "MCMC"])
def test_two_processes_hold_the_same_gaussians(recipe: Path, density: str) -> None:
    folder = recipe.parent
    (folder / "dump.py").write_text(DUMP)
    own = {"Threshold": ["gradient=1e-4", "reset_rounds=2"], "MCMC": ["growth=0.2"]}
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.callbacks+=dump.Dump", "--snapshots.every=0"]
    options += [f"--model.generator.density={density}"]
    options += [f"--model.generator.density.{option}" for option in own[density]]
    command = [sys.executable, "-m", "asdkit", "fit", "--config", str(recipe), "--run.name=two", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one.pop("azimuth"), two.pop("azimuth"))
    assert int(one["generator.alive"].sum()) > 60, "nothing has grown"
    moments = [
        [value for state in facts.pop("optimizers") for entry in state["state"].values() for value in entry.values()]
        for facts in (one, two)
    ]
    assert one.keys() == two.keys() and len(moments[0]) == len(moments[1]) > 0
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
