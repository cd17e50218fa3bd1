"""What a step spends within the spans that it marks for profilers: seconds, and floating-point operations."""

import json
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

OTHER = "other"
_PREFIX, _STEP = "asdkit.", "asdkit.step"
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler prints when it starts and stops


def seconds_by_span(step: Callable[[], None], count: int) -> list[dict[str, float]]:
    """Seconds of several steps by their spans, under torch's profiler, which itself takes time."""
    with profile() as profiler:
        for _ in range(count):
            with record_function(_STEP):
                step()
    with TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        return read_trace(json.loads(Path(folder, "trace.json").read_text())["traceEvents"])


def read_trace(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Seconds of each step by its spans; where spans lie within each other, the time is the innermost one's.

    The events are of a trace in Chrome's format, in microseconds. Where a GPU has worked, its seconds count, in the
    span in which the host launched the work, from whatever thread.
    """

    def of(*kinds: str) -> list[dict[str, Any]]:
        return [event for event in events if event.get("cat") in kinds]

    marks = [event for event in of("user_annotation") if event["name"].startswith(_PREFIX)]
    spans = sorted((mark["ts"], mark["ts"] + mark["dur"], mark["name"]) for mark in marks)
    launched = {event["args"]["correlation"]: event["ts"] for event in of("cuda_runtime", "cuda_driver")}
    on_device = of("kernel", "gpu_memcpy", "gpu_memset")
    work = [(launched[event["args"]["correlation"]], event["dur"]) for event in on_device]
    steps = [(start, end) for start, end, name in spans if name == _STEP]
    return [_by_innermost([span for span in spans if start <= span[0] < end], work) for start, end in steps]


def _by_innermost(spans: list[tuple[float, float, str]], work: list[tuple[float, float]]) -> dict[str, float]:
    """Seconds by the innermost span that is open when a device's work is launched, or else as the host's time goes."""
    edges = sorted({edge for start, end, _ in spans for edge in (start, end)})
    seconds = dict.fromkeys((_label(name) for *_, name in spans), 0.0)
    for time, microseconds in work or [((start + end) / 2, end - start) for start, end in pairwise(edges)]:
        around = [(start, -end, name) for start, end, name in spans if start <= time < end]
        if around:
            seconds[_label(max(around)[-1])] += microseconds / 1e6
    return seconds


def _label(name: str) -> str:
    return OTHER if name == _STEP else name.removeprefix(_PREFIX)


class _OperationsBySpan(TorchDispatchMode):
    """Charges what torch's counter counts to the innermost span; torch marks spans by operations, which pass here."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter, self.by_span, self.spans, self.before = counter, Counter[str](), [OTHER], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.profiler._record_function_enter_new:
            self.charge()
            self.spans.append(_label(args[0]) if args[0].startswith(_PREFIX) else self.spans[-1])
        elif func.overloadpacket is torch.ops.profiler._record_function_exit:
            self.charge()
            self.spans.pop()
        return func(*args, **kwargs or {})

    def charge(self) -> None:
        total = self.counter.get_total_flops()
        self.by_span[self.spans[-1]] += total - self.before
        self.before = total


def operations_by_span(step: Callable[[], None]) -> Counter[str]:
    """Floating-point operations of a step by its spans."""
    counter = operations()
    charged = _OperationsBySpan(counter)
    with counter, charged:
        step()
        charged.charge()
    return charged.by_span


def operations() -> FlopCounterMode:
    """torch's counter of floating-point operations, which by itself does not know the CPU's attention."""
    counter, aten = FlopCounterMode(display=False), torch.ops.aten
    for known in (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_flash_attention_backward):
        name = known.__name__.replace("flash_attention", "flash_attention_for_cpu")
        counter.flop_registry[getattr(aten, name)] = counter.flop_registry[known]
    return counter
