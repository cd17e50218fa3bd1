"""A device that isn't there: its tensors compute on the CPU, don't mix with the CPU's, and a GPU's waits are counted.

It is torch's Python backend for `privateuse1`, which a process registers once and for all: use it in a fork.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
SIZES = {  # operations whose result is of a size that is known only when it is there
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
NUMBERS = {"_local_scalar_dense", "equal", "_linalg_check_errors"}  # those that Python is told a number by
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


class OnDevice(Tensor):
    """A tensor of the device; `host` has its values."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        tensor: OnDevice = Tensor._make_wrapper_subclass(cls, host.shape, device=torch.device(NAME, 0), **layout)
        tensor.host = host
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()  # torch has none of subclasses

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.host})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} was called outside of the context of the pretend device.")


class Waits(TorchDispatchMode):
    """Carries out all operations, those of the device included, and counts by kind what a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def take(self) -> dict[str, int]:
        """What has been counted since the last time."""
        counts, self.counts = dict(self.counts), Counter()
        return counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        leaves: list[Any] = []
        _mapped(leaves.append, (args, *kwargs.values()))
        on_device = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        asked = kwargs.get("device")
        goes_there = bool(on_device) if asked is None else torch.device(asked).type == NAME
        if on_device or goes_there:
            _refuse_mixtures(name, args, leaves, bool(on_device))
            self.counts.update(_waits(name, args, kwargs, leaves, goes_there))
        kwargs = {key: _mapped(_on_host, value) for key, value in kwargs.items() if key != "pin_memory"}
        result = function(*_mapped(_on_host, args), **kwargs)
        if name == "copy_":
            return leaves[0]
        known = {id(tensor.host): tensor for tensor in on_device}  # what is changed in place stays the same tensor

        def on_its_device(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else OnDevice(value)

        return _mapped(on_its_device, result) if goes_there else result


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """What a function makes of everything in lists of lists; torch's own for this takes longer than the operations."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, part) for part in value])
    return function(value)


def _on_host(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == NAME:
        return torch.device("cpu")
    return leaf.host if isinstance(leaf, OnDevice) else leaf


def _of_the_cpu(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice)]


def _refuse_mixtures(name: str, args: Any, leaves: list[Any], is_of_device: bool) -> None:
    """CUDA takes single numbers and indices from the CPU, and what is copied."""
    if not is_of_device or name in ("_to_copy", "copy_"):
        return
    indices = [id(index) for index in args[1]] if name in INDEXED else []
    if any(tensor.ndim and id(tensor) not in indices for tensor in _of_the_cpu(leaves)):
        raise RuntimeError(f"{name}: expected all tensors to be on the device {NAME}, but found one on the cpu.")


def _waits(name: str, args: Any, kwargs: dict[str, Any], leaves: list[Any], goes_there: bool) -> list[str]:
    """The kinds of waiting that an operation is: copies, numbers for Python, results of unknown size."""
    if name == "copy_":
        goes_there = isinstance(args[0], OnDevice)
    if name in ("_to_copy", "copy_"):
        crosses = bool(_of_the_cpu(leaves)) if goes_there else True
        return [f"copies {'from' if goes_there else 'to'} the host"] if crosses and not _is_pinned() else []
    if name in INDEXED:
        indices = [index for index in args[1] if index is not None]
        fills = len(args) > 2 and args[2].numel() == 1  # which CUDA does without looking at the mask
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8) and not fills]
        return ["copies from the host"] * any(index.ndim for index in _of_the_cpu(indices)) + ["sizes"] * bool(masks)
    if name in SIZES and kwargs.get("output_size") is None:
        return ["sizes"]
    return ["numbers"] if name in NUMBERS else []


def _is_pinned() -> bool:
    """Whether this is one of the copies that CUDA makes through pinned memory, without waiting."""
    return any(frame.f_code.co_name == "to_device" for frame, _ in traceback.walk_stack(None))


class _Module(_DummyBackendModule):
    """What torch asks the module of a device, which stands for `torch.cuda`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32]


@contextmanager
def pretend_device(keeps_parameters: bool = True) -> Iterator[Waits]:
    """A context in which there is a device `pretend`.

    Unless it `keeps_parameters`, as CUDA does, a module that is moved to it has new ones.
    """
    _setup_privateuseone_for_python_backend(NAME, _Module())
    torch.__future__.set_swap_module_params_on_conversion(keeps_parameters)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) becomes a copy from the CPU, as it is
    with torch.autograd.set_multithreading_enabled(False), Waits() as waits:  # a new device has no thread of its own
        yield waits


class _Accelerator(pl.accelerators.CPUAccelerator):
    """What Lightning asks about the device, of which there is one."""

    def setup_device(self, device: torch.device) -> None:
        pass


def pretend_strategy() -> dict[str, Any]:
    """Options of a Trainer that works on the device."""
    strategy = SingleDeviceStrategy(torch.device(NAME, 0), _Accelerator())
    return {"strategy": strategy, "accelerator": "auto", "devices": "auto", "num_sanity_val_steps": 0}
