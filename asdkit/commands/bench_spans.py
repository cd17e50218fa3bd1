"""What a step spends within the spans that it marks for profilers: seconds, and floating-point operations."""

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

OTHER = "other"
_PREFIX = "asdkit."


def seconds_by_span(step: Callable[[], None], count: int, device: torch.device) -> list[dict[str, float]]:
    """Seconds of `count` steps by their spans.

    On a GPU they are those that pass on the device from where the host opens a span to where it closes it. Nobody waits
    for them before all steps are done.
    """
    if device.type != "cuda":
        return [_by_span(_readings(step, time.perf_counter), lambda start, end: end - start) for _ in range(count)]

    def event() -> torch.cuda.Event:
        reading = torch.cuda.Event(enable_timing=True)
        reading.record()
        return reading

    steps = [_readings(step, event) for _ in range(count)]
    torch.cuda.synchronize(device)
    return [_by_span(readings, lambda start, end: start.elapsed_time(end) / 1000) for readings in steps]


def operations_by_span(step: Callable[[], None]) -> dict[str, float]:
    """Floating-point operations of a step by its spans."""
    with operations() as counter:
        return _by_span(_readings(step, counter.get_total_flops), lambda start, end: end - start)


def operations() -> FlopCounterMode:
    """torch's counter of floating-point operations, which by itself does not know the CPU's attention."""
    counter, aten = FlopCounterMode(display=False), torch.ops.aten
    for known in (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_flash_attention_backward):
        name = known.__name__.replace("flash_attention", "flash_attention_for_cpu")
        counter.flop_registry[getattr(aten, name)] = counter.flop_registry[known]
    return counter


def _readings(step: Callable[[], None], read: Callable[[], Any]) -> list[tuple[str, Any]]:
    """What a meter says wherever a span opens or closes in a step, with the innermost span that was open until then."""
    readings, spans = [(OTHER, read())], [OTHER]
    enter: Any = record_function.__enter__
    leave: Any = record_function.__exit__

    def entered(span: record_function) -> Any:
        readings.append((spans[-1], read()))
        spans.append(span.name.removeprefix(_PREFIX) if span.name.startswith(_PREFIX) else spans[-1])
        return enter(span)

    def left(span: record_function, *raised: Any) -> None:
        leave(span, *raised)
        readings.append((spans.pop(), read()))

    with patch.multiple(record_function, __enter__=entered, __exit__=left):
        step()
    return [*readings, (OTHER, read())]


def _by_span(readings: list[tuple[str, Any]], difference: Callable[[Any, Any], float]) -> dict[str, float]:
    """What passes between two readings, for the innermost span that was open."""
    passed: dict[str, float] = defaultdict(float)
    for (_, start), (span, end) in pairwise(readings):
        passed[span] += difference(start, end)
    return passed
