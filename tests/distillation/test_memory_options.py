"""Every combination of what saves memory with every generator and rasteriser takes the same step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support.quiet import quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader

import asdkit
from asdkit.generators import gaussians as gaussians_module
from asdkit.lab import Affine, GaussianPrior
from asdkit.rendering.cameras import Batch, ring
from asdkit.rendering.rasterize import rasterize

PROMPT = "a red cube"
MODES = ("classic", "antialiased", "surfels")
nerf = partial(asdkit.NeRF, bound=0.8, hidden=4, samples=6, importance=4, rates=asdkit.NeRFRates(sky=0.1))
sizes, penalties = {"count": 60, "capacity": 80, "sh_degree": 1}, asdkit.GaussianPenalties(0.1, 0.1)
gaussians = partial(asdkit.Gaussians, **sizes, density=asdkit.Fraction(), penalties=penalties)
GENERATORS: dict[str, Callable[[], asdkit.Generator]] = {
    **{mode: partial(gaussians, mode=mode) for mode in MODES},
    "voxels": lambda: nerf(asdkit.Voxels((4, 8), 2), penalties=asdkit.NeRFPenalties(0.1, 0.1, 0.1, 0.1)),
    "planes": lambda: nerf(asdkit.TriPlane((8,), 2)),
    "hashes": lambda: nerf(asdkit.HashGrid(2, 2, 4, 2, 6)),
    "pixels": lambda: asdkit.Pixels("noise", count=2, size=16),
    "latents": lambda: asdkit.Latents(count=2, size=16),
}
BACKENDS = [("auto", name) for name in GENERATORS]
BACKENDS += [("torch", mode) for mode in MODES[:2]] + [("gsplat", mode) for mode in MODES]


def one_step(name: str, network: asdkit.Pretrained | None = None, **rendering: object) -> dict[str, Tensor]:
    """Adam's means of an iteration's gradients, and the statistics of density control."""
    torch.manual_seed(0)
    prior = network or GaussianPrior({PROMPT: [0.9, 0.1, 0.2]}, 0.5, 0.2)
    adapter = asdkit.LoRA(rank=2, targets=("to_q", "to_v")) if network else Affine()
    generator = GENERATORS[name]()
    if isinstance(generator, asdkit.Gaussians):  # round ones have no gradient of their rotations
        generator.log_scales.data[:, 0] += 0.5
    guidance, rendering = asdkit.ASD(3.0, -0.5, adapter), asdkit.Rendering(**rendering)
    model = asdkit.Distillation(PROMPT, prior, generator, guidance, rendering=rendering)
    batch = Batch(None if name in ("pixels", "latents") else ring(4, size=16))
    quiet_trainer(1, accelerator="auto").fit(model, DataLoader([batch], batch_size=None))
    moments = model.trainer.optimizers[0].state
    left = {key: moments[values]["exp_avg"] for key, values in generator.named_parameters() if values in moments}
    left |= {key: values for key, values in generator.named_buffers() if key.startswith("grad_")}
    return {key: values.detach().cpu() for key, values in left.items()}


def same(step: dict[str, Tensor], whole: dict[str, Tensor], options: str) -> None:
    assert step.keys() == whole.keys() and all(values.any() for values in whole.values())
    for key, values in whole.items():
        near = {"rtol": 1e-4, "atol": 1e-5 * float(values.abs().max())}
        torch.testing.assert_close(step[key], values, **near, msg=f"{key} with {options}")


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name"), BACKENDS)
def test_memory_is_all_that_they_change(monkeypatch: pytest.MonkeyPatch, backend: str, name: str) -> None:
    if backend == "gsplat" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(gaussians_module, "rasterize", partial(rasterize, backend=backend))
    whole = one_step(name)
    for chunk, rerender in ((0, True), (1, False), (1, True), (2, False), (2, True)):
        same(one_step(name, chunk=chunk, rerender=rerender), whole, f"{chunk}, {rerender}")


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_with_a_network_that_is_checkpointed(tiny_folder: Path, name: str) -> None:
    network, checkpointed = (asdkit.Pretrained(str(tiny_folder), checkpointing=saves) for saves in (False, True))
    same(one_step(name, checkpointed, chunk=2, rerender=True), one_step(name, network), "chunk 2")
