"""How the network of a pretrained model runs: its number format, compilation, checkpoints, and offsets of time."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from asdkit.core.contexts import replaced
from asdkit.core.parts import require
from asdkit.priors.families import Embedded, Family, Model
from asdkit.scores.prior import Adapter

Compile = bool | Literal["blocks"]


class NetworkRunner:
    """Calls networks of one family, which it has prepared; its arguments are those of `Pretrained`."""

    def __init__(self, checkpointing: bool = False, compile: Compile = False) -> None:
        self.checkpointing, self.compile = checkpointing, compile
        self._time_offset: Tensor | None = None
        self._recompute_context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._compiled_region = False

    def prepare(self, network: Model, family: Family) -> None:
        """Let a network take offsets of its time embedding, and make it as fast or small as the options say."""
        family.time_module(network).register_forward_hook(self._add_time_offset)
        self._speed_up(network)

    def copy(self, network: Model) -> Model:
        """A copy of a network in single precision; its hooks, like the original's, are methods of this runner."""
        copied = copy.deepcopy(network, {id(self): self}).float()
        self._speed_up(copied)
        return copied

    def __call__(
        self, family: Family, network: Model, x_t: Float[Tensor, "N C h w"], time: Tensor, prompts: Embedded
    ) -> Float[Tensor, "N C h w"]:
        """The network's output in single precision or better, whatever it computes in; without a predicted variance."""
        dtype = next(network.parameters()).dtype
        prompts = {name: value.to(dtype) for name, value in prompts.items()}
        return to_float32(family.call(network, x_t.to(dtype), time, prompts)[:, : x_t.shape[1]])

    def time_offset(self, offset: Float[Tensor, "N width"] | None) -> AbstractContextManager[None]:
        """Add to the time embedding of each row within this context; contexts add up."""
        outer = self._time_offset
        total = outer if offset is None else offset if outer is None else outer + offset
        return replaced(self, "_time_offset", total)

    @contextmanager
    def graphs(self, adapter: Adapter | None) -> Iterator[None]:
        """Compiled graphs are for training steps alone; what is computed again there has this adapter on."""
        eager = bool(self.compile) and not self._compiled_region
        recompute = nullcontext if adapter is None else partial(adapter.switched_on, None, 1)
        stance = torch.compiler.set_stance("force_eager") if eager else nullcontext()
        with stance, replaced(self, "_recompute_context", recompute):
            yield

    def in_step(self) -> AbstractContextManager[None]:
        """A training step, whose shapes come again: what is worth compiling."""
        return replaced(self, "_compiled_region", True)

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """A block's output, which is computed again in the backward pass, with the adapter that is on now."""
        if torch.compiler.is_compiling():  # the graph holds the adapter
            return checkpoint(block, *args, use_reentrant=False)
        recompute = self._recompute_context

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), recompute()  # of the first and of the second computation

        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    def _speed_up(self, network: Model) -> None:
        if self.checkpointing:
            network.enable_gradient_checkpointing(self.checkpointed)
        if self.compile == "blocks":
            require(bool(network._repeated_blocks), "compile=blocks: diffusers knows no block to compile; say true.")
            network.compile_repeated_blocks(dynamic=False)
        elif self.compile:
            network.compile(dynamic=False)

    def _add_time_offset(self, module: nn.Module, args: tuple[Any, ...], embedding: Tensor) -> Tensor:
        return embedding if self._time_offset is None else embedding + self._time_offset.to(embedding)


def to_float32(values: Tensor) -> Tensor:
    """In single precision, if they are in half."""
    return values.float() if values.itemsize < 4 else values


def fastest_dtype() -> Literal["mixed", "float32"]:
    """What frozen networks compute in fastest on this CPU: `mixed` where it multiplies bfloat16 faster.

    That is where it has matrix units for it (AMX), or AMD's vectors of bfloat16. Intel's are slower than single
    precision (docs/benchmarks.md has the table).
    """
    cpu = torch.cpu.get_capabilities()
    has_fast_vectors = cpu.get("avx512_bf16") and str(cpu.get("cpu_name")).startswith("AMD")
    return "mixed" if cpu.get("amx_bf16") or has_fast_vectors else "float32"


class HalfLayer(nn.Module):
    """A frozen layer: input, weights and result are rounded to bfloat16, and come and go in single precision.

    On other devices than the CPU, and where its weights learn (in a copy of the network), it is the plain one.
    """

    weight: Tensor
    bias: Any  # a tensor, or None
    _half: tuple[Tensor, Tensor | None] | None = None  # weights and bias, rounded once

    def rounded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """The input, the weights and the bias in bfloat16, if that is what is multiplied here."""
        if self.weight.requires_grad or x.device.type != "cpu":
            return None
        order = torch.channels_last if x.dim() == self.weight.dim() == 4 else torch.contiguous_format  # as in oneDNN
        if self._half is None:
            with torch.inference_mode(False):  # whose tensors no later step could learn through
                weight = self.weight.detach().to(torch.bfloat16, memory_format=order)
                self._half = weight, None if self.bias is None else self.bias.detach().bfloat16()
        return x.to(torch.bfloat16, memory_format=order), *self._half


class HalfConv2d(HalfLayer, nn.Conv2d):
    """A frozen convolution."""

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        half = self.rounded(x)
        if half is None:
            return nn.Conv2d.forward(self, x)
        return nn.functional.conv2d(*half, self.stride, self.padding, self.dilation, self.groups).float()


class HalfLinear(HalfLayer, nn.Linear):
    """A frozen linear layer."""

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N D"]:
        half = self.rounded(x)
        return nn.Linear.forward(self, x) if half is None else nn.functional.linear(*half).float()


def halve(model: Model) -> None:
    """Let convolutions and linear layers of a model, whose weights are there and frozen, multiply in bfloat16."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = HalfConv2d
        elif type(module) is nn.Linear:
            module.__class__ = HalfLinear
