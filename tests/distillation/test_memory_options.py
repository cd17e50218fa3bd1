"""Every combination of what saves memory with every generator and rasteriser takes the same step."""

from collections.abc import Callable
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from asdkit.distillation import Distillation
from asdkit.generators import gaussians as gaussians_module
from asdkit.generators.base import Generator
from asdkit.generators.gaussian_settings import GaussianPenalties
from asdkit.generators.gaussians import Gaussians
from asdkit.generators.images import Latents, Pixels
from asdkit.generators.nerf import NeRF, NeRFRates
from asdkit.generators.nerf_encodings import HashGrid, TriPlane, Voxels
from asdkit.generators.nerf_penalties import NeRFPenalties
from asdkit.lab import Affine, GaussianPrior
from asdkit.methods import ASD
from asdkit.rendering.cameras import Batch, ring
from asdkit.rendering.rasterize import rasterize
from asdkit.rendering.settings import Rendering

MODES = ("classic", "antialiased", "surfels")
nerf = partial(NeRF, bound=0.8, hidden=4, samples=6, importance=4, rates=NeRFRates(sky=0.1))
GENERATORS: dict[str, Callable[[], Generator]] = {
    **{
        mode: partial(Gaussians, count=60, capacity=80, sh_degree=1, mode=mode, penalties=GaussianPenalties(0.1, 0.1))
        for mode in MODES
    },
    "voxels": lambda: nerf(Voxels((4, 8), 2), penalties=NeRFPenalties(0.1, 0.1, 0.1, 0.1)),
    "planes": lambda: nerf(TriPlane((8,), 2)),
    "hashes": lambda: nerf(HashGrid(2, 2, 4, 2, 6)),
    "pixels": lambda: Pixels("noise", count=2, size=8),
    "latents": lambda: Latents(count=2, size=8),
}  # fmt: skip
BACKENDS = [("auto", name) for name in GENERATORS]
BACKENDS += [(backend, mode) for backend in ("torch", "gsplat") for mode in MODES]


def one_step(name: str, rendering: Rendering) -> dict[str, Tensor]:
    """Adam's means of an iteration's gradients, and the statistics of density control."""
    generator = GENERATORS[name]()
    if isinstance(generator, Gaussians):  # round ones have no gradient of their rotations
        generator.log_scales.data[:, 0] += 0.5
    model = Distillation(
        "y", GaussianPrior({"y": [0.9, 0.1, 0.2]}, 0.5, 0.2), generator, ASD(3.0, -0.5, Affine()), rendering=rendering
    )
    batch = Batch(None if name in ("pixels", "latents") else ring(4, size=8))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    accelerator = "gpu" if torch.cuda.is_available() and name in MODES else "cpu"
    trainer = pl.Trainer(max_steps=1, accelerator=accelerator, devices=1, log_every_n_steps=1, **quiet)
    trainer.fit(model, DataLoader([batch], batch_size=None))
    moments = trainer.optimizers[0].state
    left = {key: moments[values]["exp_avg"] for key, values in generator.named_parameters() if values in moments}
    left |= {key: values for key, values in generator.named_buffers() if key.startswith("grad_")}
    return {key: values.detach().cpu() for key, values in left.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name"), BACKENDS)
def test_memory_is_all_that_they_change(monkeypatch: pytest.MonkeyPatch, backend: str, name: str) -> None:
    if backend == "gsplat" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(gaussians_module, "rasterize", partial(rasterize, backend=backend))
    whole = one_step(name, Rendering())
    for chunk in (0, 1, 2):
        for rerender in (False, True):
            step = one_step(name, Rendering(chunk=chunk, rerender=rerender))
            assert step.keys() == whole.keys() and all(values.any() for values in whole.values())
            for key, values in whole.items():
                near = {"rtol": 1e-4, "atol": 1e-5 * float(values.abs().max())}
                torch.testing.assert_close(step[key], values, **near, msg=f"{key}, {chunk}, {rerender}")
