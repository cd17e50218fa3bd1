"""How often the network is asked, and about how many samples: counted, against numbers counted by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.quiet import quiet_trainer
from torch import nn

from asdkit import Alpha2, DiscriminatorSteps, Distillation, Gaussians, Latents, Pretrained, Rendering, Rounds, UNetCopy
from asdkit.data import Cameras, Canvas
from asdkit.methods import ASD, DDS, VSD, ASDEdit
from asdkit.scores.fields import Field

B = 3
STEPS = 2


@dataclass
class Counter:
    """Rows of every call without a gradient, of every call with one, and of every backward pass."""

    frozen: list[int] = field(default_factory=list)
    learning: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)

    def watch(self, network: nn.Module) -> None:
        network.register_forward_hook(self._called)

    def _called(self, network: nn.Module, args: tuple, output: Any) -> None:
        rows = len(args[0])
        if not torch.is_grad_enabled():
            self.frozen.append(rows)
            return
        self.learning.append(rows)
        output.sample.register_hook(lambda gradient: self.back.append(len(gradient)))


def _counted(tiny_folder: Path, guidance: Field, log_every: int = 100, **settings: Any) -> Counter:
    """Of STEPS iterations of B images' latents, none of which is logged unless `log_every` says so."""
    cameras = settings.pop("cameras", False)
    data = Cameras(views_per_step=4, size=16) if cameras else Canvas(size=16)
    if settings.pop("with_source", False):
        data.source = torch.rand(1, 3, 16, 16)
        settings["source"] = "a red cube"
    generator = Gaussians(count=20, capacity=20, rounds=Rounds(every=0)) if cameras else Latents(count=B, size=16)
    module = Distillation("a yellow duck", Pretrained(str(tiny_folder)), generator, guidance, **settings)
    counter = Counter()
    trainer = quiet_trainer(STEPS, log_every_n_steps=log_every, callbacks=[_Watcher(counter)])
    trainer.fit(module, datamodule=data)
    return counter


class _Watcher(pl.Callback):
    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.counter.watch(pl_module.prior.network)
        for leaf in pl_module.guidance.leaves():
            if network := getattr(getattr(leaf, "adapter", None), "_network", None):
                self.counter.watch(network)


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
    "DDS": (lambda: DDS(), ONCE, [6, 6], []),  # here and on the source
    "ASDEdit": (lambda: ASDEdit(), ONCE, [6, 6, 3], [3, 3, 3]),  # phi here, psi there; psi and e_z here, its fake
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_an_iteration_asks_for_this_much(tiny_folder: Path, name: str) -> None:
    guidance, settings, frozen, learning = CASES[name]
    found = _counted(tiny_folder, guidance(), **settings)
    assert sorted(found.frozen) == sorted(frozen * STEPS)
    assert sorted(found.learning) == sorted(learning * STEPS)
    assert sorted(found.back) == sorted(found.learning), "every call with a graph is needed once for a gradient"


@pytest.mark.parametrize("name", ["ASD", "ASD, two discriminator steps", "VSD, own draws", "ASDEdit"])
@pytest.mark.slow
def test_logging_asks_for_no_more(tiny_folder: Path, name: str) -> None:
    guidance, settings, frozen, learning = CASES[name]
    found = _counted(tiny_folder, guidance(), log_every=1, **settings)
    assert (sorted(found.frozen), sorted(found.learning)) == (sorted(frozen * STEPS), sorted(learning * STEPS))
