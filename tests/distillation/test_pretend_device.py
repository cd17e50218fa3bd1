"""Every generator and method takes the CPU's steps on another device, and waits for it no more than the docs say."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.forked import Forked
from support.pretend_device import NAME, Waits, pretend_device, pretend_strategy
from support.quiet import quiet_trainer
from torch import Tensor

import asdkit
from asdkit.formats.pictures import save_grid
from asdkit.formats.splat_files import write_splats
from asdkit.rendering import rasterize

STEPS, VIEWS = 3, 2


class Brightness(asdkit.Scorer):
    """Likes bright pictures."""

    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        return images.flatten(1).mean(1)


gaussians = partial(asdkit.Gaussians, count=20, capacity=24, initial=asdkit.Initial(opacity=0.5))
nerf = partial(asdkit.NeRF, hidden=4, samples=4)
GENERATORS: dict[str, Callable[[], asdkit.Generator]] = {
    "Gaussians": lambda: gaussians(penalties=asdkit.GaussianPenalties(0.1, 0.1), sh_degree=1),
    "MCMC": lambda: gaussians(mode="antialiased", density=asdkit.MCMC()),
    "growing": lambda: gaussians(rounds=asdkit.Rounds(every=4, first=4), density=asdkit.MCMC(growth=0.5)),
    "surfels": lambda: gaussians(mode="surfels"),
    "Voxels": lambda: nerf(asdkit.Voxels((4,), 2), rates=asdkit.NeRFRates(sky=0.1)),
    "TriPlane": lambda: nerf(asdkit.TriPlane((4,), 2), importance=2),
    "HashGrid": lambda: nerf(asdkit.HashGrid(2, 2, 4, 2, 6), occupancy_every=0),
    "Pixels": lambda: asdkit.Pixels("noise", count=2, size=16),
    "Latents": lambda: asdkit.Latents(count=2, size=16),
    "Network": lambda: asdkit.Network(asdkit.SmallUNet(8), count=2, size=16),
    "Amortized3D": lambda: asdkit.Amortized3D(resolution=8, features=2, width=4, samples=4),
}
PROMPT, SOURCE = "a red cube", "a red cone"
METHODS = ("ASD", "Eq. 9", "edit", "ISM", "RewardSDS", "Perp-Neg")


def settings(method: str, adapter: type[asdkit.Adapter]) -> dict[str, Any]:
    real, near = asdkit.PriorSamples(count=2, steps=2), asdkit.NearestReference(180.0)
    twice = asdkit.DiscriminatorSteps(2, clip=1.0, share_noise=False)
    return {
        "ASD": {"guidance": asdkit.ASD(adapter=adapter())},
        "Eq. 9": {"guidance": asdkit.ASD(adapter=adapter(), real_samples=real)},
        "edit": {"guidance": asdkit.ASDEdit(adapter=adapter(), source_adapter=adapter()), "source": SOURCE},
        "ISM": {"guidance": asdkit.ISM(steps=2)},
        "RewardSDS": {"guidance": asdkit.RewardSDS(Brightness(), 7.5, draws=2, temperature=1.0)},
        "Perp-Neg": {"guidance": asdkit.SDS(), "cfg": asdkit.CFGOptions(asdkit.PerpNeg())},
        "posed": {"guidance": asdkit.ASD(adapter=adapter(), real_samples=near)},
        "twice": {"guidance": asdkit.ASD(adapter=adapter()), "discriminator": twice},
    }[method]


IMAGES, SPLATS = ("Pixels", "Latents", "Network"), ("Gaussians", "MCMC", "surfels")
CASES = [  # all methods of each of the four, whose kinds take turns
    *zip(("Gaussians", "MCMC", "Gaussians", "surfels", "MCMC", "surfels"), METHODS, strict=True),
    *zip(("Voxels", "TriPlane", "HashGrid", "HashGrid", "Voxels", "TriPlane"), METHODS, strict=True),
    *product(("Network", "Amortized3D"), ["ASD"]),
    *product(("Gaussians", "Latents"), ["twice"]),
    ("Gaussians", "posed"),
    *product(("Pixels", "Latents"), [method for method in METHODS if method != "Perp-Neg"]),  # which needs cameras
]


def waits_of(kind: str, method: str) -> Counter[str]:
    """What docs/priors.md says of a step."""
    plain_rasteriser = Counter({"sizes": 4 * VIEWS, "copies from the host": VIEWS + 1})
    waits = Counter(plain_rasteriser if kind in SPLATS else {})
    if kind not in (*IMAGES, *SPLATS):
        waits.update({"copies to the host": 1, "sizes": 2 if kind == "TriPlane" else 1})
    if kind == "surfels":
        waits["copies from the host"] += 1
    if method == "edit" and kind not in IMAGES:
        waits.update(plain_rasteriser)  # which draws the asset
    if method == "posed":
        waits.update({"sizes": 4, "copies from the host": 2})  # which draws what is near to the one picture
    return waits


class Steps(pl.Callback):
    """Notes what each step waits for, Lightning's part of it included.

    Adam makes steps of rounding errors where there is nothing else, so that its epsilon is no longer small here.
    """

    def __init__(self, waits: Waits | None = None) -> None:
        self.waits, self.steps = waits, []

    def on_train_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group["eps"] = 1e-2

    def on_train_batch_end(self, *rest: Any) -> None:
        if self.waits is not None:
            self.steps.append(Counter(self.waits.take()))


def learned(prior: Path, kind: str, method: str, folder: Path, **trainer: Any) -> dict[str, Tensor]:
    """What three steps of a run have made of all that learns.

    Plain ASD of Gaussians has a network as its prior, as has Perp-Neg, which needs words for views; the others a prior
    of few operations.
    """
    torch.manual_seed(0)
    model, adapter = asdkit.GaussianPrior({PROMPT: 0.7, SOURCE: 0.4}), asdkit.Embedding
    if method == "Perp-Neg" or (kind, method) == ("Gaussians", "ASD"):
        model, adapter = asdkit.Pretrained(str(prior)), asdkit.LoRA
    sources = {}
    if method == "edit" and kind in IMAGES:
        sources["image"] = str(folder / "source.png")
        save_grid(torch.rand(1, 3, 16, 16), folder / "source.png", 1)
    elif method == "edit":
        sources["asset"] = str(folder / "source.ply")
        write_splats(folder / "source.ply", asdkit.Gaussians(count=9, capacity=9).splats())
    elif method == "posed":
        save_grid(torch.rand(1, 3, 16, 16), folder / "source.png", 1)
        sources["references"] = asdkit.ReferenceView(str(folder / "source.png"))
    views = asdkit.Canvas if kind in IMAGES else partial(asdkit.Cameras, views_per_step=VIEWS)
    module = asdkit.Distillation(PROMPT, model, GENERATORS[kind](), **settings(method, adapter))
    quiet_trainer(STEPS, **trainer).fit(module, datamodule=views(size=16, **sources))
    return {name: values.cpu() for name, values in module.state_dict().items()}


@pytest.fixture(autouse=True)
def plain_rasteriser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterize, "_chosen", lambda *_: "torch")


def in_a_fork(function: Callable[[], None], folder: Path) -> None:
    """A process has the device for ever, so that another one must get it."""
    child = Forked(lambda: function() or 0, folder / "log")
    assert child.wait() == 0, child.text()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_three_steps_are_the_cpus_and_wait_as_the_docs_say(
    tiny_folder: Path, tmp_path: Path, kind: str, method: str
) -> None:
    expected = learned(tiny_folder, kind, method, tmp_path, callbacks=[Steps()])

    def compare() -> None:
        with pretend_device() as waits:
            watch = Steps(waits)
            again = learned(tiny_folder, kind, method, tmp_path, callbacks=[watch], **pretend_strategy())
            assert set(again) == set(expected)
            for name, values in again.items():
                torch.testing.assert_close(values, expected[name], rtol=1e-5, atol=1e-5, msg=name)
            assert watch.steps[1:] == [waits_of(kind, method)] * (STEPS - 1)

    in_a_fork(compare, tmp_path)


@pytest.mark.slow
def test_logs_and_rounds_alone_wait_for_more(tiny_folder: Path, tmp_path: Path) -> None:
    """The third step is logged; the fourth has a round of density control, after which Gaussians are looked up anew."""

    def check() -> None:
        with pretend_device() as waits:
            watch, often = Steps(waits), {"max_steps": 5, "log_every_n_steps": 3}
            learned(tiny_folder, "growing", "ASD", tmp_path, callbacks=[watch], **often, **pretend_strategy())
        _, plain, logged, _, after = watch.steps
        assert plain == waits_of("Gaussians", "ASD") and logged["numbers"] > 0
        assert after == plain + Counter(sizes=1)

    in_a_fork(check, tmp_path)


def test_the_device_does_what_a_gpu_does(tmp_path: Path) -> None:
    def check() -> None:
        with pretend_device() as waits:
            mask, values = torch.tensor([True, False]).to(NAME), torch.arange(2.0).to(NAME)
            assert waits.take() == {"copies from the host": 2}
            for kind, wait in {
                "numbers": [values.sum().item, mask.any().__bool__, lambda: float(values[0])],
                "sizes": [mask.nonzero, lambda: values[mask], values.unique, lambda: torch.bincount(values.long())],
                "copies to the host": [values.tolist, values.cpu, lambda: torch.zeros(2).copy_(values)],
                "copies from the host": [
                    lambda: values[[1, 0]], lambda: values[torch.tensor([1])], lambda: torch.tensor([1.0], device=NAME),
                    lambda: values.new_tensor([1.0]),
                ],
            }.items():  # fmt: skip
                for ask in wait:
                    ask()
                    assert waits.take() == {kind: 1}, (kind, ask)
            halved = values.masked_fill(mask, 0.0)[1:].half() + torch.tensor(1.0) * torch.ones(1, device=NAME)
            assert halved.device.type == NAME and not waits.take()
            assert halved.tolist() == [2.0]
            for mix in (lambda: values + torch.ones(2), lambda: torch.cat([values, torch.ones(2)]), values.numpy):
                with pytest.raises((RuntimeError, TypeError), match=r"device|numpy"):
                    mix()

    in_a_fork(check, tmp_path)


@pytest.mark.parametrize("adapter", [asdkit.LoRA, asdkit.UNetCopy])
def test_a_discriminator_that_parts_from_its_network_on_the_way_is_refused(
    tiny_folder: Path, tmp_path: Path, adapter: type[asdkit.Adapter]
) -> None:
    """Else phi would stay as it is, and nothing say so."""

    def check() -> None:
        model = asdkit.Pretrained(str(tiny_folder))
        module = asdkit.Distillation(PROMPT, model, GENERATORS["Latents"](), asdkit.ASD(adapter=adapter()))
        with pretend_device(keeps_parameters=False):
            trainer = quiet_trainer(1, **pretend_strategy())
            with pytest.raises(ValueError, match=r"so that phi would never learn: .*\.$"):
                trainer.fit(module, datamodule=asdkit.Canvas(size=16))

    in_a_fork(check, tmp_path)
