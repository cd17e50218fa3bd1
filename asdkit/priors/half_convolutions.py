"""Convolutions that multiply in bfloat16, within a network that otherwise computes in single precision."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.priors.families import Model


def fastest_dtype() -> Literal["mixed", "float32"]:
    """What frozen networks compute in fastest on this CPU: `mixed` where it has matrix units for bfloat16 (AMX).

    Elsewhere convolutions are slower in bfloat16 than in single precision (docs/benchmarks.md has the table).
    """
    return "mixed" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"


class HalfConv2d(nn.Conv2d):
    """A frozen convolution: input, weights and result are rounded to bfloat16, and come and go in single precision.

    On other devices than the CPU, and where its weights learn (in a copy of the network), it is the plain one.
    """

    _half: tuple[Tensor, Tensor | None] | None = None  # weights and bias, rounded once

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        if self.weight.requires_grad or x.device.type != "cpu":
            return super().forward(x)
        if self._half is None:
            weight = self.weight.detach().to(torch.bfloat16, memory_format=torch.channels_last)
            self._half = weight, None if self.bias is None else self.bias.detach().bfloat16()
        x = x.to(torch.bfloat16, memory_format=torch.channels_last)  # which the matrix units take as it is
        return nn.functional.conv2d(x, *self._half, self.stride, self.padding, self.dilation, self.groups).float()


def halve(model: Model) -> None:
    """Let the convolutions of a model, whose weights are there and frozen, multiply in bfloat16."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = HalfConv2d
