"""What all checks share: draws that are always the same, and the questions that every part is asked."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asdkit.core.randomness import generator_for
from asdkit.rendering.cameras import ring
from asdkit.scores.prior import Condition, Noised, Prior
from asdkit.testing.templates.prior import Template

SmallPrior = Template
Y, Z = Condition("y"), Condition("z")  # the run's prompt, and the words for its source
Ready = Callable[..., tuple[nn.Module, Prior]]
T = TypeVar("T")


def demand(condition: object, sentence: str) -> None:
    """Raise an AssertionError with this sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def images(device: str = "cpu") -> Tensor:
    """Two pictures of 16 pixels."""
    return torch.rand(2, 3, 16, 16, generator=generator_for(0, 0, "images")).to(device)


def draw(prior: Prior, device: str = "cpu", **facts: Any) -> Noised:
    """A draw of two samples, at a small and at a large t, with cameras and a source."""
    shape = prior.encode(images(device)).shape
    x0, eps, source = torch.randn(3, *shape, generator=generator_for(0, 0, "draw")).to(device)
    levels, random = torch.tensor([1, len(prior.schedule) * 9 // 10]), generator_for(0, 0, "further")
    return prior.draw(x0, levels, eps, ring(2).to(device), source=source, random=random, **facts)


def same(one: Any, other: Any) -> bool:
    """Whether tensors, or all tensors of two lists, are the same to the bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return len(one) == len(other) and all(map(same, one, other))


def repeatable(what: str, function: Callable[[], T], values: Callable[[T], Any] = lambda result: result) -> T:
    """What a function gives; it must give it twice, whatever torch's global generator would give."""
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(function())
    fault = f"{what} gives something else when it is asked again for the same, as what a global random generator draws"
    advice = "draw from the generator that is given, or from asdkit.core.randomness.generator_for"
    demand(same(*map(values, results)), f"{fault}; {advice}.")
    return results[0]


def check_like(what: str, value: Any, expected: Tensor) -> None:
    """Whether something is a finite tensor of real numbers, of another tensor's shape and device."""
    demand(isinstance(value, Tensor), f"{what} is no tensor, but of type {type(value).__name__}.")
    shape, wanted = list(value.shape), list(expected.shape)
    demand(shape == wanted, f"{what} has the shape {shape}; it must be {wanted}.")
    demand(value.is_floating_point(), f"{what} is of {value.dtype}; it must be float32 or float64.")
    demand(value.device == expected.device, f"{what} is on {value.device}; it must be on {expected.device}.")
    demand(value.isfinite().all(), f"{what} is not finite everywhere.")


def check_gradients(what: str, part: nn.Module, prior: Prior) -> None:
    """Whether a backward pass has reached every parameter of a part, and nothing that is frozen."""
    learning = {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}
    for name, gradient in ((name, parameter.grad) for name, parameter in learning.items()):
        demand(gradient is not None, f"The gradient of {what} never reaches {name}, which can't learn.")
        finite = gradient is not None and gradient.isfinite().all()
        demand(finite, f"The gradient of {what} with respect to {name} is not finite.")
    own = {id(parameter) for parameter in learning.values()}
    others = [parameter for parameter in prior.parameters() if id(parameter) not in own]
    touched = any(parameter.grad is not None or parameter.requires_grad for parameter in others)
    demand(not touched, f"The gradient of {what} reaches frozen weights of the prior.")


def check_devices(what: str, ready: Callable[[str], T], value: Callable[[T, str], Iterable[Tensor]]) -> None:
    """Whether something stays on its device: on torch's `meta`, on the CPU where `meta` is the default, and on CUDA
    where there is one. What can't be asked is left out.
    """
    places = [("meta", "cpu"), ("cpu", "meta"), *([("cuda", "cpu")] if torch.cuda.is_available() else [])]
    for device, default in places:
        made = ready(device)
        try:
            with torch.device(default):
                devices = {result.device.type for result in value(made, device)}
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if device != "cuda" and "not on the expected device" not in str(error):
                continue
            devices = {"several"}
        advice = "make tensors with device=..., and keep those that stay as parameters or by register_buffer"
        demand(devices == {device}, f"{what} mixes devices when all is moved to another: {advice}.")


def _state(made: tuple[nn.Module, Prior]) -> list[Tensor]:
    return list(made[0].state_dict().values())


def check_part(
    what: str, ready: Ready, value: Callable[..., Iterable[Tensor]], learn: Callable[[Any, Prior], None]
) -> None:
    """Ask what all parts that learn are asked. `ready` gives the part and a prior of its own, set up, with a state that
    came before (or none), on a device; `value` what it shows or predicts, of both and the device; `learn` takes a step.
    """
    called = what[0].lower() + what[1:]

    def learned() -> tuple[nn.Module, Prior]:
        made = ready()
        learn(*made)
        return made

    made = repeatable(f"Setting up {called}", ready, _state)
    repeatable(what, lambda: value(*made))
    part, prior = repeatable(f"A step of {called}", learned, _state)
    state, expected, restored = part.state_dict(), value(part, prior), ready()
    restored[0].load_state_dict(state)
    for when, again in {"before": ready(state), "after": restored}.items():
        fault = f"{what} that gets a checkpoint's state {when} setup is not what was saved"
        advice = "keep all that it depends on as parameters or by register_buffer"
        demand(same(expected, value(*again)), f"{fault}; {advice}.")
    check_devices(what, lambda device: ready(None, device), lambda made, device: value(*made, device))
