"""The checks for extenders: what is shipped passes them, and what is wrong is refused, each by its sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import asdkit
from asdkit import CFG, Adapter, Field, Prior
from asdkit.generators.base import Render
from asdkit.lab import Affine
from asdkit.testing import check_adapter, check_field, check_generator, check_prior
from asdkit.testing.templates.discriminator import TemplateASD
from asdkit.testing.templates.generator import Template as Balls
from asdkit.testing.templates.prior import Template as Small


def gaussian() -> asdkit.GaussianPrior:
    return asdkit.GaussianPrior({"y": [1.0, -1.0, 0.5], "z": [0.25, 0.5, 0.0]}, -0.25, 0.5, 0.875)


def finite() -> asdkit.FiniteSetPrior:
    prior = asdkit.FiniteSetPrior()
    for text, grey in (("y", 0.25), ("z", 0.75)):
        prior.add(text, torch.full((1, 3, 16, 16), grey))
    return prior


PASSES: dict[str, tuple[Any, ...]] = {
    "Balls": (check_generator, Balls),
    "Pixels": (check_generator, lambda: asdkit.Pixels(size=16, count=2)),
    "Latents": (check_generator, lambda: asdkit.Latents(size=16, count=2)),
    "Network": (check_generator, lambda: asdkit.Network(size=16, count=2)),
    "Gaussians": (check_generator, lambda: asdkit.Gaussians(count=40, capacity=60)),
    "NeRF": (check_generator, lambda: asdkit.NeRF(asdkit.Voxels([8], 4), samples=8)),
    "Amortized3D": (check_generator, lambda: asdkit.Amortized3D(8, 4, 8, 8)),
    "a small prior": (check_prior, Small),
    "a Gaussian prior": (check_prior, gaussian),
    "a finite set": (check_prior, finite),
    "an adapter of the lab": (check_adapter, lambda: Affine(1000, 3), gaussian),
    "a template": (check_field, TemplateASD),
    "Eq. 9": (check_field, lambda: asdkit.ASD(real_samples=asdkit.SourceImage())),
    "editing": (check_field, lambda: asdkit.ASDEdit(pull=0.1)),
    "a head": (check_field, lambda: asdkit.DMD2(real_samples=asdkit.SourceImage())),
    "redrawn": (check_field, lambda: asdkit.AsynchronousSD()),
    "inverted": (check_field, lambda: asdkit.ISM(steps=2)),
    "a learned null": (check_field, lambda: asdkit.LODS()),
    "no discriminator": (check_field, lambda: asdkit.CSD(negative_scale=1.0)),
    "the field below, unbroken": (check_field, lambda: Weighted()),
    "it in an expression": (check_field, lambda: CFG() - Weighted()),
    "the adapter below, unbroken": (check_adapter, lambda: Shift()),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_is_right_passes(name: str) -> None:
    check, *makers = PASSES[name]
    check(*makers)


def refused(check: Callable, make: Callable, sentence: str, *arguments: Any) -> None:
    with pytest.raises(AssertionError) as error:
        check(make, *arguments)
    assert sentence in str(error.value) and str(error.value).endswith("."), str(error.value)


def broken(base: type, **methods: Any) -> type:
    """A class with other methods than its base's, or other attributes."""
    return type("Broken", (base,), methods)


def restless(balls: Balls) -> None:
    Balls.__init__(balls)
    balls.centres.data += 0.01 * torch.randn(32, 3)


def some_balls(*names: str, **more: str) -> type[Balls]:
    """Balls of whose parameters only these are optimised, in a group that says `more`."""
    return broken(
        Balls,
        parameter_groups=lambda self: [{"params": [getattr(self, name) for name in names], "lr": self.lr, **more}],
    )


def radiating(change: Callable[..., tuple[Tensor, Tensor]], **methods: Any) -> type[Balls]:
    """Balls whose density and colours are changed."""
    radiance = {"radiance": lambda self, points: change(self, *Balls.radiance(self, points))}
    return broken(Balls, **radiance, **methods)


def changed(change: Callable[[Render], Render]) -> type[Balls]:
    """Balls whose renders are changed."""
    return broken(Balls, render=lambda self, *asked: change(Balls.render(self, *asked)))


RENDERS: list[tuple[Callable[[Render], Render], str]] = [
    (lambda r: r._replace(image=r.image.double()), "render's image is of torch.float64; it must be float32"),
    (lambda r: r._replace(alpha=r.alpha[:, 0]), "render's alpha has the shape [2, 16, 16]; it must be [2, 1, 16, 16]"),
    (lambda r: r._replace(image=2 * r.image), "render's image reaches from "),
    (lambda r: r._replace(image=r.image * 0 + 0.5), "render doesn't show the background"),
    (lambda r: r._replace(image=(r.image - r.alpha * len(r.image) / 4).clamp(0, 1)), "something else beside others"),
    (lambda r: r._replace(depth=r.depth / 0), "render's depth is not finite everywhere"),
    (lambda r: Render(*(value.to("meta") for value in r)), "render's image is on meta; it must be on cpu"),
]
BALLS: list[tuple[Callable, str]] = [
    (broken(Balls, __init__=restless), "Setting up the generator gives something else when it is asked again"),
    (
        changed(lambda r: r._replace(depth=r.depth + np.random.rand())),
        "The generator gives something else when it is asked again",
    ),
    (some_balls("centres", "colours", name="balls"), "must have each parameter that learns once, and no other"),
    (
        some_balls("centres", "colours", "radii"),
        "Each group of parameter_groups() needs a name of its own and an lr; the names are [None]",
    ),
    (
        radiating(lambda _, density, colours: (density, colours.detach())),
        "The gradient of x0 never reaches colours, which can't learn",
    ),
    (
        radiating(lambda _, density, colours: (density * torch.ones(len(density)), colours)),
        "The generator mixes devices when all is moved to another",
    ),
    (
        radiating(
            lambda self, density, colours: (self.strength * density, colours),
            strength=1.0,
            after_step=lambda self, *_: setattr(self, "strength", 0.5),
        ),
        "The generator that gets a checkpoint's state before setup is not what was saved",
    ),
    *((changed(change), sentence) for change, sentence in RENDERS),
]


@pytest.mark.parametrize(("make", "sentence"), BALLS, ids=[sentence for _, sentence in BALLS])
def test_a_broken_generator_is_refused(make: Callable, sentence: str) -> None:
    refused(check_generator, make, sentence)


class Weighted(Field):
    """A learned multiple of e_y; what is wrong with it is an argument."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.ones(())), wrong
        self.prompt = asdkit.Prompt()

    def conditions(self) -> list[Any]:
        return self.prompt.conditions() if "conditions" not in self.wrong else []

    def take_words(self, *words: Any) -> None:
        self.prompt.take_words(*words)

    def setup(self, prior: Prior) -> None:
        if "registers" in self.wrong:
            self.prior = prior
        prior.requires_grad_("trains" in self.wrong)

    def needs(self, x: Any) -> list[Any]:
        return self.prompt.needs(x) if "needs" not in self.wrong else []

    def forward(self, x: Any) -> Tensor:
        value = self.weight * x.predict(self.prompt.conditions()[0])
        if "keeps" in self.wrong:
            value = vars(x).setdefault("kept", value)
        change: Callable[[Tensor], Tensor] = self.wrong.get("value", lambda value: value)
        if "in_place" in self.wrong:
            x.x_t.mul_(2)
        return change(value)

    def loss(self, x: Any) -> Tensor | None:
        loss: Callable = self.wrong.get("loss", lambda value: value.square().mean())
        return loss(self(x))


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"value": lambda v: v.mean()}, "The field's value has the shape []; it must be [2, 3, 16, 16]"),
    ({"value": lambda v: v.tolist()}, "The field's value is no tensor, but of type list"),
    ({"value": lambda v: v.half().long()}, "The field's value is of torch.int64; it must be float32 or float64"),
    ({"value": lambda v: v + torch.rand(())}, "The field gives something else when it is asked again for the same"),
    ({"value": lambda v: v + np.random.rand()}, "The field gives something else when it is asked again"),
    ({"value": lambda v: v + torch.ones(16)}, "The field mixes devices"),
    ({"in_place": True}, "The field changes x0, eps or x_t in place"),
    ({"needs": True}, "The field asks the prior about ['y'] beyond needs()"),
    ({"conditions": True}, "conditions() lacks ['y'] of needs()"),
    ({"registers": True}, "The field has the prior's weights among its own"),
    ({"trains": True}, "The gradient of the loss reaches frozen weights of the prior"),
    ({"loss": lambda v: None}, "A field needs a loss where it has parameters"),
    ({"loss": lambda v: v.square()}, "The loss has the shape [2, 3, 16, 16]; it must be []"),
    ({"loss": lambda v: v.detach().mean().requires_grad_()}, "The gradient of the loss never reaches weight"),
    ({"keeps": True}, "forget(x) leaves predictions from before the parameters changed"),
]


@pytest.mark.parametrize(("wrong", "sentence"), FIELDS, ids=[sentence for _, sentence in FIELDS])
def test_a_broken_field_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    refused(check_field, lambda: Weighted(**wrong), sentence)


class Shift(Adapter):
    """What is added to the network's output while it is on; what is wrong with it is an argument."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.full((3, 1, 1), wrong.get("start", 0.0)))
        self.wrong, self.on = wrong, "always" in wrong
        if "random" in wrong:
            self.offset.data.copy_(1e-9 * torch.randn(3, 1, 1))
        self.hooked, self.copies = False, 1

    def setup(self, prior: Prior) -> None:
        if self.hooked and "again" in self.wrong:
            self.offset = nn.Parameter(torch.zeros(3, 1, 1))
        if not self.hooked:
            prior.network.register_forward_hook(self.add)
        if "writes" in self.wrong:
            self.offset = prior.network.last.bias
            self.offset.requires_grad_()
        self.hooked = True

    def add(self, network: nn.Module, args: Any, eps: Tensor) -> Tensor:
        return eps + self.offset / self.copies if self.on and "unused" not in self.wrong else eps

    @contextmanager
    def switched_on(self, views: Any, copies: int) -> Iterator[None]:
        self.on, self.copies = True, copies if "copies" in self.wrong else 1
        if "error" in self.wrong:
            yield
            self.on = False
            return
        try:
            yield
        finally:
            self.on = "always" in self.wrong


ADAPTERS: list[tuple[dict[str, Any], str]] = [
    ({"start": 1.0}, "e_phi starts "),
    ({"always": True}, "e_y is no longer the prior's own once phi has changed"),
    ({"error": True}, "switched_on leaves the adapter on when there is an error inside"),
    ({"again": True}, "A second setup must do nothing, and makes other parameters"),
    ({"random": True}, "Setting up the field gives something else when it is asked again"),
    ({"unused": True}, "The loss depends on no parameter, so that nothing could learn"),
    ({"writes": True}, "The field has the prior's weights among its own"),
    ({"copies": True}, "e_phi of a condition is another beside a second one"),
]


@pytest.mark.parametrize(("wrong", "sentence"), ADAPTERS, ids=[sentence for _, sentence in ADAPTERS])
def test_a_broken_adapter_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    refused(check_adapter, lambda: Shift(**wrong), sentence, *([] if "random" not in wrong else [Small, 1e-6]))


def one_by_one(small: Small, x: Any, conditions: Any, *adapter: Any) -> list[Tensor]:
    return [Small.predict(small, x, [condition], *adapter)[0] for condition in conditions]


def deaf(small: Small, x: Any, *asked: Any) -> list[Tensor]:
    x.prompts = {}
    return Small.predict(small, x, *asked)


def predicting(change: Callable[[Tensor], Tensor]) -> type[Small]:
    """A prior whose predictions are changed."""
    return broken(Small, predict=lambda self, *asked: [change(eps) for eps in Small.predict(self, *asked)])


def fresh(small: Small) -> None:
    small._modules.pop("network", None)
    Small.setup(small)


def unfrozen(small: Small) -> None:
    Small.setup(small)
    small.requires_grad_(True)


PRIORS: list[tuple[Callable, str]] = [
    (broken(Small, setup=unfrozen), "The prior's weights must not require a gradient"),
    (broken(Small, setup=fresh), "A second setup must do nothing, and makes another network"),
    (broken(Small, encode=lambda *asked: Small.encode(*asked).detach()), "encode carries no gradient to the pictures"),
    (broken(Small, decode=lambda self, x0: x0.detach()), "decode leaves [0,1]"),
    (broken(Small, digest=""), "digest is ''; it must tell the weights"),
    (predicting(lambda eps: eps + torch.rand(())), "predict gives something else when it is asked again"),
    (broken(Small, predict=one_by_one), "predict calls self.network 2 times; all conditions go through it in one call"),
    (broken(Small, predict=deaf), "predict gives samples with prompts of their own those of others"),
    (broken(Small, predict=lambda *asked: Small.predict(*asked[:3])), "The loss depends on no parameter"),
    (broken(Small, moved=lambda self, conditions: conditions), "The loss depends on no parameter"),
    (predicting(lambda eps: eps * torch.ones(16)), "predict mixes devices"),
]


@pytest.mark.parametrize(("make", "sentence"), PRIORS, ids=[sentence for _, sentence in PRIORS])
def test_a_broken_prior_is_refused(make: Callable, sentence: str) -> None:
    refused(check_prior, make, sentence)
