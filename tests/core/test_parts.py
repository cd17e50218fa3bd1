"""Parts remember how they were built, and can be built again from that."""

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

import asdkit
from asdkit.core.parts import Part, preset
from asdkit.lab import Affine


class Base(Part):
    def __init__(self, a: int, b: tuple[float, ...] = (1.0, 2.0), *, c: str = "x", **rest: Any) -> None:
        self.a, self.b, self.c = a, b, c


class Child(Base):
    def __init__(self, d: float) -> None:
        super().__init__(1, c="inner")
        self.d = d


class Silent(Base):
    """Has no constructor of its own."""


def rebuild(spec: dict[str, Any]) -> Any:
    """What a spec stands for, by the library that reads recipes and checkpoints."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=Part)
    return parser.instantiate_classes(parser.parse_object({"part": spec})).part


def test_arguments_with_defaults_of_the_outermost_class_are_recorded() -> None:
    assert Base(3).spec["init_args"] == {"a": 3, "b": [1.0, 2.0], "c": "x"}
    base = Base(3, (5.0,), c="y", extra=1).spec
    assert base == {"class_path": f"{__name__}.Base", "init_args": {"a": 3, "b": [5.0], "c": "y"}}
    assert Child(0.5).spec == {"class_path": f"{__name__}.Child", "init_args": {"d": 0.5}}
    assert Silent(4).spec["class_path"].endswith(".Silent") and Silent(4).spec["init_args"]["a"] == 4


@pytest.mark.parametrize(
    "part",
    [
        Child(2.0),
        asdkit.Timesteps(0.1, asdkit.Ramp(0.5, 0.3, 7), stratified=False),
        asdkit.LoRA(rank=3, targets=("to_q",), camera=False),
        asdkit.Pretrained("somewhere", use_camera=False),
        asdkit.GaussianPrior({"y": [1.0, 2.0], "z": 3.0}, steps=10),
        asdkit.ASD(2.0, -0.75, asdkit.LoRA(rank=2), negative="ugly"),
        asdkit.PerpNeg(f_sb=(1.0, 2.0, 3.0)),
        asdkit.VSD(4.0, Affine(10)),
        asdkit.SDS(50.0),
        asdkit.ShapE("a duck", "somewhere", steps=8, rotation_deg=90.0),
        asdkit.CFG("y", 3.0, negative="z") - 0.5 * asdkit.Noise() + asdkit.Discriminator(Affine(10), 0.5, "y"),
    ],
    ids=lambda part: part.spec["class_path"].rsplit(".", 1)[1],
)
def test_specs_rebuild_parts(part: Part) -> None:
    again = rebuild(part.spec)
    assert type(again) is type(part)
    assert again.spec == part.spec


def test_a_whole_model_is_rebuilt_by_lightnings_own_means() -> None:
    from pytorch_lightning.cli import instantiate_module

    model = asdkit.Distillation(
        "y",
        asdkit.GaussianPrior({"y": [1.0, 0.5, 0.2]}, steps=10),
        asdkit.Gaussians(count=20, capacity=30),
        asdkit.ASD(3.0, -0.75, Affine(10)),
        timesteps=asdkit.Timesteps(0.1, 0.9),
        discriminator=asdkit.DiscriminatorSteps(2),
        cfg=asdkit.CFGOptions(asdkit.PerpNeg(), asdkit.APG(0.5), 0.7, [0.25, 3.0]),
    )
    arguments = dict(model.hparams)
    assert arguments.pop("_instantiator") == "pytorch_lightning.cli.instantiate_module"
    again = instantiate_module(asdkit.Distillation, arguments)
    assert isinstance(again, asdkit.Distillation)
    for name in ("prior", "generator", "guidance", "timesteps"):
        assert getattr(again, name).spec == getattr(model, name).spec
    assert again.discriminator == asdkit.DiscriminatorSteps(2) and again.rendering == model.rendering
    assert again.prompt == "y" and again.cfg.apg.spec == model.cfg.apg.spec and again.cfg.interval == [0.25, 3.0]


def test_what_no_checkpoint_could_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="a must be a number, .* got Tensor"):
        Base(torch.zeros(2))

    @preset
    def build(part: object) -> Base:
        return Base(1)

    with pytest.raises(TypeError, match="part must be"):
        build(object())
