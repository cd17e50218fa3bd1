"""What a step spends within the spans that it marks for profilers: seconds, and floating-point operations."""

import json
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import profile, record_function
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


def operations_by_span(step: Callable[[], None]) -> Counter[str]:
    """Floating-point operations of a step by its spans; what torch's counter counts is the innermost one's."""
    counter, by_span, spans = operations(), Counter[str](), [OTHER]
    enter: Any = record_function.__enter__
    leave: Any = record_function.__exit__

    def charge() -> None:
        by_span[spans[-1]] += counter.get_total_flops() - by_span.total()

    def entered(span: record_function) -> Any:
        charge()
        spans.append(_label(span.name) if span.name.startswith(_PREFIX) else spans[-1])
        return enter(span)

    def left(span: record_function, *raised: Any) -> None:
        charge()
        spans.pop()
        leave(span, *raised)

    with counter, patch.multiple(record_function, __enter__=entered, __exit__=left):
        step()
        charge()
    return by_span


def operations() -> FlopCounterMode:
    """torch's counter of floating-point operations, which by itself does not know the CPU's attention."""
    counter, aten = FlopCounterMode(display=False), torch.ops.aten
    for known in (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_flash_attention_backward):
        name = known.__name__.replace("flash_attention", "flash_attention_for_cpu")
        counter.flop_registry[getattr(aten, name)] = counter.flop_registry[known]
    return counter
