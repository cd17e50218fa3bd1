"""What `asdkit bench` says beside its steps: the machine, memory, the peak of the device, and all facts as a table."""

import os
import platform
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asdkit.core.text import rendered
from asdkit.distillation import Distillation
from asdkit.run.machine import versions

_SAME = ("recipe", "x0", "versions", "machine", "prior")


def now(device: torch.device) -> float:
    """Seconds, after the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of several products of square matrices, and of several convolutions."""
    # A single thread of the CPU is timed by its own seconds, which other work on the machine does not lengthen.
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else partial(now, device)
    size = 8192 if device.type == "cuda" else 1024
    a, b, x, weight = (
        torch.randn(shape, device=device).to(dtype)
        for shape in ((size, size), (size, size), (4, 128, size // 32, size // 32), (256, 128, 3, 3))
    )
    x, weight = (values.contiguous(memory_format=torch.channels_last) for values in (x, weight))

    def rate(multiply: Callable[[], Tensor]) -> float:
        with FlopCounterMode(display=False) as counter:
            multiply()
        return float(counter.get_total_flops()) / min(timeit.repeat(multiply, timer=clock, repeat=20, number=1))

    return max(rate(lambda: a @ b), rate(lambda: nn.functional.conv2d(x, weight)))


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def resident(name: str) -> int | None:
    """Bytes of this process in memory, `VmRSS` now or `VmHWM` at most, where the system tells."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)


def forget_peak(device: torch.device) -> None:
    """From now on `peak_memory` is the most since now, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device, before: int | None) -> int | None:
    """The most bytes in use: on CUDA in all, on the CPU above those `before`, None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resident("VmHWM")
    return None if peak is None or before is None else max(0, peak - before)


def environment(device: torch.device) -> dict[str, Any]:
    """The date, the versions and the machine, with how busy it is: processes that want a core, over a minute."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = next(iter(names), platform.processor() or platform.machine())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    machine: dict[str, Any] = {"device": device.type, "name": name, "processor": processor, "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    return {"date": time.strftime("%Y-%m-%d"), "versions": versions(), "machine": machine}


def prior_facts(module: Distillation) -> dict[str, Any]:
    """The prior, and how much learns beside it."""
    prior = module.prior
    name = str(prior.spec["init_args"].get("path", type(prior).__name__))
    frozen = sum(p.numel() for p in prior.parameters() if not p.requires_grad)
    learned = sum(p.numel() for p in module.guidance.parameters() if p.requires_grad)
    return {"name": name, "digest": prior.digest, "parameters": frozen, "phi": learned}


def machine_line(facts: dict[str, Any]) -> str:
    """Where and when it was measured, and with what."""
    machine = facts["machine"]
    words = [machine["name"], f"{machine['threads']} of {machine['cores']} threads"]
    words += [f"load {machine['load']}", facts["date"]]
    return ", ".join([*words, *(f"{name} {number}" for name, number in facts["versions"].items())])


def table(facts: dict[str, Any]) -> str:
    """The facts, to read."""
    return rendered(Path(__file__).with_name("bench.txt"), facts | {"measured_on": machine_line(facts)})


def comparison(facts: dict[str, Any], earlier: dict[str, Any]) -> str:
    """Ratios of the medians to those of earlier facts, and what else has changed between the two."""
    lines = [f"Ratios to {earlier['recipe']} of {earlier['date']}:"]
    for group, words in {"kinds": "a {} step", "sections": "{}"}.items():
        for name, now in facts[group].items():
            before = earlier[group].get(name)
            if before and before["seconds"]["median"]:
                clocks = [clock for clock in ("seconds", "processor_seconds") if clock in now]
                medians = [f"{now[clock]['median'] / before[clock]['median']:.3f}" for clock in clocks]
                lines.append(f"{words.format(name):26}    " + ", of the processor's time ".join(medians))
    was = [f"{name} was {_plain(earlier[name])}" for name in _SAME if _plain(facts[name]) != _plain(earlier[name])]
    return "\n".join([*lines, *was])


def _plain(fact: Any) -> str:
    """A fact to read and to compare, without the load, which always differs."""
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items() if name != "load")
    return "x".join(map(str, fact)) if isinstance(fact, list) else str(fact)
