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


GENERATORS: dict[str, Callable] = {
    "Balls": Balls,
    "Pixels": lambda: asdkit.Pixels(size=16, count=2),
    "Latents": lambda: asdkit.Latents(size=16, count=2),
    "Network": lambda: asdkit.Network(size=16, count=2),
    "Gaussians": lambda: asdkit.Gaussians(count=40, capacity=60),
    "NeRF": lambda: asdkit.NeRF(asdkit.Voxels([8], 4), samples=8),
    "Amortized3D": lambda: asdkit.Amortized3D(8, 4, 8, 8),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_shipped_generators_pass(name: str) -> None:
    check_generator(GENERATORS[name])


@pytest.mark.parametrize("make", [Small, gaussian, asdkit.FiniteSetPrior], ids=lambda make: make.__name__)
def test_shipped_priors_pass(make: Callable[[], Prior]) -> None:
    if make is asdkit.FiniteSetPrior:
        make = finite
    check_prior(make)


def finite() -> asdkit.FiniteSetPrior:
    prior = asdkit.FiniteSetPrior()
    for text, grey in (("y", 0.25), ("z", 0.75)):
        prior.add(text, torch.full((1, 3, 16, 16), grey))
    return prior


def test_an_adapter_of_the_lab_passes() -> None:
    check_adapter(lambda: Affine(1000, 3), gaussian)


METHODS: dict[str, Callable] = {
    "a template": TemplateASD,
    "Eq. 9": lambda: asdkit.ASD(real_samples=asdkit.SourceImage()),
    "editing": lambda: asdkit.ASDEdit(pull=0.1),
    "a head": lambda: asdkit.DMD2(real_samples=asdkit.SourceImage()),
    "redrawn": lambda: asdkit.AsynchronousSD(),
    "inverted": lambda: asdkit.ISM(steps=2),
    "a learned null": lambda: asdkit.LODS(),
    "no discriminator": lambda: asdkit.CSD(negative_scale=1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_shipped_fields_pass(name: str) -> None:
    check_field(METHODS[name])


# ------------------------------------------------------------------------------------------------ broken generators


def refused(check: Callable, make: Callable, sentence: str, *arguments: Any) -> None:
    with pytest.raises(AssertionError) as error:
        check(make, *arguments)
    assert sentence in str(error.value) and str(error.value).endswith("."), str(error.value)


class Restless(Balls):
    def __init__(self) -> None:
        super().__init__()
        self.centres.data += 0.01 * torch.randn(32, 3)


class Flickering(Balls):
    def render(self, views: Any, background: Tensor | None = None) -> Render:
        render = super().render(views, background)
        return render._replace(depth=render.depth + np.random.rand())


class Forgetful(Balls):
    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "balls", "params": [self.centres, self.colours], "lr": self.lr}]


class Nameless(Balls):
    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.lr}]


class Cut(Balls):
    def radiance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density, colours = super().radiance(points)
        return density, colours.detach()


class Left(Balls):
    def radiance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density, colours = super().radiance(points)
        return density * torch.ones(len(points)), colours


class Unsaved(Balls):
    strength = 1.0

    def after_step(self, *rest: Any) -> None:
        self.strength = 0.5

    def radiance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density, colours = super().radiance(points)
        return self.strength * density, colours


def changed(change: Callable[[Render], Render]) -> type[Balls]:
    """Balls whose renders are changed."""
    return type("Changed", (Balls,), {"render": lambda self, *asked: change(Balls.render(self, *asked))})


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
    (Restless, "Setting up the generator gives something else when it is asked again"),
    (Flickering, "The generator gives something else when it is asked again"),
    (Forgetful, "must have each parameter that learns once, and no other"),
    (Nameless, "Each group of parameter_groups() needs a name of its own and an lr; the names are [None]"),
    (Cut, "The gradient of x0 never reaches colours, which can't learn"),
    (Left, "The generator mixes devices when all is moved to another"),
    (Unsaved, "The generator that gets a checkpoint's state before setup is not what was saved"),
    *((changed(change), sentence) for change, sentence in RENDERS),
]


@pytest.mark.parametrize(("make", "sentence"), BALLS, ids=[sentence for _, sentence in BALLS])
def test_a_broken_generator_is_refused(make: Callable, sentence: str) -> None:
    refused(check_generator, make, sentence)


# ------------------------------------------------------------------------------------------------ broken fields


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


def test_the_same_field_unbroken_passes() -> None:
    check_field(Weighted)
    check_field(lambda: CFG() - Weighted())


# ------------------------------------------------------------------------------------------------ broken adapters


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


def test_the_same_adapter_unbroken_passes() -> None:
    check_adapter(Shift)


# ------------------------------------------------------------------------------------------------ broken priors


class Unfrozen(Small):
    def setup(self) -> None:
        super().setup()
        self.requires_grad_(True)


class Fresh(Small):
    def setup(self) -> None:
        self._modules.pop("network", None)
        super().setup()


class Blind(Small):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).detach()


class Glaring(Small):
    def decode(self, x0: Tensor) -> Tensor:
        return x0.detach()


class Anonymous(Small):
    digest = ""


class Noisy(Small):
    def predict(self, *asked: Any) -> list[Tensor]:
        return [eps + torch.rand(()) for eps in super().predict(*asked)]


class OneByOne(Small):
    def predict(self, x: Any, conditions: Any, adapter: Adapter | None = None) -> list[Tensor]:
        return [super(OneByOne, self).predict(x, [condition], adapter)[0] for condition in conditions]


class Deaf(Small):
    def predict(self, x: Any, conditions: Any, adapter: Adapter | None = None) -> list[Tensor]:
        x.prompts = {}
        return super().predict(x, conditions, adapter)


class Unadapted(Small):
    def predict(self, x: Any, conditions: Any, adapter: Adapter | None = None) -> list[Tensor]:
        return super().predict(x, conditions)


class Unmoved(Small):
    def moved(self, conditions: Tensor) -> Tensor:
        return conditions


class Scattered(Small):
    def predict(self, *asked: Any) -> list[Tensor]:
        return [eps * torch.ones(16) for eps in super().predict(*asked)]


PRIORS: list[tuple[Callable, str]] = [
    (Unfrozen, "The prior's weights must not require a gradient"),
    (Fresh, "A second setup must do nothing, and makes another network"),
    (Blind, "encode carries no gradient to the pictures"),
    (Glaring, "decode leaves [0,1]"),
    (Anonymous, "digest is ''; it must tell the weights"),
    (Noisy, "predict gives something else when it is asked again"),
    (OneByOne, "predict calls self.network 2 times; all conditions go through it in one call"),
    (Deaf, "predict gives samples with prompts of their own those of others"),
    (Unadapted, "The loss depends on no parameter"),
    (Unmoved, "The loss depends on no parameter"),
    (Scattered, "predict mixes devices"),
]


@pytest.mark.parametrize(("make", "sentence"), PRIORS, ids=[sentence for _, sentence in PRIORS])
def test_a_broken_prior_is_refused(make: Callable, sentence: str) -> None:
    refused(check_prior, make, sentence)
