"""How often the network is asked, and about how many samples: counted, against numbers counted by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.exact import randn, ready
from support.quiet import quiet_trainer
from support.tiny import loaded
from torch import nn

from asdkit import Alpha2, DiscriminatorSteps, Distillation, Gaussians, Latents, Pretrained, Rendering, Rounds, UNetCopy
from asdkit.data import Cameras, Canvas
from asdkit.methods import ASD, DDS, LODS, VSD, ASDEdit, AsynchronousSD, DeltaASD
from asdkit.rendering.cameras import ring
from asdkit.scores.fields import Field
from asdkit.scores.prior import Prior

B, STEPS = 3, 2


class Counter(pl.Callback):
    """Rows of every call without a gradient, of every call with one, and of every backward pass."""

    def __init__(self) -> None:
        self.frozen, self.learning, self.back = [], [], []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Distillation) -> None:
        adapters = [getattr(leaf, "adapter", None) for leaf in pl_module.guidance.leaves()]
        for network in (pl_module.prior.network, *(getattr(adapter, "_network", None) for adapter in adapters)):
            if network is not None:
                network.register_forward_hook(self._called)

    def _called(self, network: nn.Module, args: tuple, output: Any) -> None:
        rows = len(args[0])
        if not torch.is_grad_enabled():
            self.frozen.append(rows)
            return
        self.learning.append(rows)
        output.sample.register_hook(lambda gradient: self.back.append(len(gradient)))


def _counted(tiny_folder: Path, guidance: Field, log_every: int, **settings: Any) -> Counter:
    """Of STEPS iterations of B images' latents."""
    cameras = settings.pop("cameras", False)
    data = Cameras(views_per_step=4, size=16) if cameras else Canvas(size=16)
    if settings.pop("with_source", False):
        data.source = torch.rand(1, 3, 16, 16)
        settings["source"] = "a red cube"
    generator = Gaussians(count=20, capacity=20, rounds=Rounds(every=0)) if cameras else Latents(count=B, size=16)
    module = Distillation("a yellow duck", Pretrained(str(tiny_folder)), generator, guidance, **settings)
    counter = Counter()
    trainer = quiet_trainer(STEPS, log_every_n_steps=log_every, callbacks=[counter])
    trainer.fit(module, datamodule=data)
    return counter


ONCE = {"with_source": True}
TWO_STEPS, NO_STEPS = ({"discriminator": DiscriminatorSteps(steps)} for steps in (2, 0))
OWN_DRAWS, TWICE_OWN = ({"discriminator": DiscriminatorSteps(steps, share_noise=False)} for steps in (1, 2))
IN_PARTS = {"cameras": True, "rendering": Rendering(chunk=2)}
CASES: dict[str, tuple[Callable[[], Field], dict[str, Any], list[int], list[int]]] = {
    # name: guidance, settings, rows of the calls of an iteration without gradient, and of those with one
    "VSD, own draws": (lambda: VSD(), OWN_DRAWS, [6, 3], [3]),  # gamma 0 does not ask for e_y
    "ASD": (lambda: ASD(), {}, [6], [3]),
    "ASD without guidance": (lambda: ASD(1.0), {}, [3], [3]),
    "ASD, a gamma of the draw": (lambda: ASD(gamma=Alpha2()), {}, [6], [3]),
    "ASD, copy": (lambda: ASD(adapter=UNetCopy()), {}, [6], [3]),
    "ASD, two discriminator steps": (lambda: ASD(), TWO_STEPS, [6], [3, 3]),  # e_y is known
    "ASD, no discriminator steps": (lambda: ASD(), NO_STEPS, [6, 3], []),
    "ASD, own draws": (lambda: ASD(), OWN_DRAWS, [6, 3, 3], [3]),  # e_null and e_y, e_phi; e_y
    "ASD, own draws, two steps": (lambda: ASD(), TWICE_OWN, [6, 3, 3, 3], [3, 3]),
    "ASD of four views in two parts": (lambda: ASD(), IN_PARTS, [4, 4], [2, 2]),
    "DDS": (lambda: DDS(), ONCE, [12], []),  # here and on the source
    "DDS without guidance": (lambda: DDS(1.0), ONCE, [6], []),
    "ASDEdit": (lambda: ASDEdit(), ONCE, [12, 3], [3, 3, 3]),  # phi here, psi there; psi and e_z here, its fake
    "DeltaASD": (lambda: DeltaASD(), ONCE, [12], [3, 3]),
    "LODS": (lambda: LODS(), {}, [3], [3]),
    "a later draw": (lambda: AsynchronousSD(), {}, [9], []),
}


LOGGED = ("ASD", "ASD, two discriminator steps", "VSD, own draws", "ASDEdit")


@pytest.mark.parametrize(("name", "log_every"), [*((name, 100) for name in CASES), *((name, 1) for name in LOGGED)])
@pytest.mark.slow
def test_an_iteration_asks_for_this_much_and_logging_for_no_more(tiny_folder: Path, name: str, log_every: int) -> None:
    guidance, settings, frozen, learning = CASES[name]
    found = _counted(tiny_folder, guidance(), log_every, **settings)
    assert sorted(found.frozen) == sorted(frozen * STEPS)
    assert sorted(found.learning) == sorted(learning * STEPS)
    assert sorted(found.back) == sorted(found.learning), "every call with a graph is needed once for a gradient"


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("method", [DDS, ASDEdit, AsynchronousSD])
def test_one_call_for_several_draws_predicts_what_a_call_for_each_does(
    tiny_folder: Path, method: Callable[[], Field], seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = loaded(tiny_folder)
    guidance = ready(method(), prior).double()
    prior.double()
    cameras = ring(B, offset_deg=20.0)
    cameras = replace(cameras, **{name: tensor.double() for name, tensor in cameras.tensors.items()})
    (x0, eps, source), t = randn(3, B, 4, 8, 8), torch.tensor([20, 500, 970])
    values, rows = [], []
    prior.network.register_forward_hook(lambda network, args, output: rows.append(len(args[0])))
    for apart in (False, True):
        if apart:
            together = [n for n in rows if n != B]
            rows.clear()
            monkeypatch.setattr(prior, "predict_all", partial(Prior.predict_all, prior))
        torch.manual_seed(0)
        values.append(guidance(prior.draw(x0, t, eps, cameras if seen else None, source=source)).detach())
    assert len(together) == 1 < len(rows) and values[0].dtype == torch.float64
    assert torch.allclose(*values, rtol=0, atol=1e-6) and values[0].abs().max() > 0.01
