"""What `asdkit bench` says beside its steps: the machine, memory, the peak of the device, and all facts as a table."""

import os
import platform
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from asdkit.distillation import Distillation
from asdkit.run.machine import versions


def now(device: torch.device) -> float:
    """Seconds, after the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of several products of two square matrices."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(20):
        start = now(device)
        a @ b
        times.append(now(device) - start)
    return 2 * size**3 / min(times)


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


def environment(module: Distillation) -> dict[str, Any]:
    """The date, the versions, the machine and the prior."""
    device, prior, info = module.device, module.prior, Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = next(iter(names), platform.processor() or platform.machine())
    return {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": {
            "device": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
            "processor": processor,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "prior": {
            "name": str(prior.spec["init_args"].get("path", type(prior).__name__)),
            "digest": prior.digest,
            "parameters": sum(p.numel() for p in prior.parameters() if not p.requires_grad),
            "phi": sum(p.numel() for p in module.guidance.parameters() if p.requires_grad),
        },
    }


def table(facts: dict[str, Any]) -> str:
    """The facts, to read."""
    prior, machine, peak = facts["prior"], facts["machine"], facts["peak"]
    lines = [
        f"{facts['recipe']}, prior {prior['name']} ({prior['parameters'] / 1e6:.1f} M parameters and "
        f"{prior['phi'] / 1e6:.2f} M of phi, {peak['dtype']}), x0 {'x'.join(map(str, facts['x0']))}",
        f"{machine['name']}, {machine['threads']} of {machine['cores']} threads, {facts['date']}, "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        f"Measured peak: {_short(peak['flop_per_second'] / 1e12)} TFLOP/s. Medians and quartiles of "
        f"{facts['steps']} steps.",
        "",
        f"{'':26}{'ms':>9}  {'quartiles':17}{'% of step':>10}{'GFLOP':>10}{'% of peak':>10}",
    ]
    for section in facts["sections"]:
        work = _short(section["flop"] / 1e9) if section["flop"] else "-"
        peak_share = f"{100 * section['share_of_peak']:.1f}" if section["share_of_peak"] else "-"
        times = _times(section["name"], section["seconds"])
        lines.append(f"{times}{100 * section['share_of_step']:>10.1f}{work:>10}{peak_share:>10}")
    whole = {"a step without Lightning": facts["bare_seconds"], "what Lightning adds": facts["lightning_seconds"]}
    whole |= {f"a {name} step": mode["seconds"] for name, mode in facts["modes"].items()}
    lines += ["", *(_times(name, times) for name, times in whole.items()), ""]
    above = "" if machine["device"] == "cuda" else " above the loaded models"
    for name, mode in facts["modes"].items():
        memory = "unknown" if mode["memory"] is None else f"{mode['memory'] / 2**30:.2f} GiB{above}"
        calls = ", ".join(map(_call, mode["calls"])) or "none"
        lines.append(f"{name}: peak memory {memory}; network calls: {calls}")
    for name, ratio in (("fast / faithful", "fast_to_faithful"), ("Lightning / bare loop", "lightning_to_bare")):
        lines.append("{}: {median:.3f} ({low:.3f} - {high:.3f})".format(name, **facts[ratio]))
    return "\n".join(lines)


def _call(call: dict[str, Any]) -> str:
    whose = "e_phi" if call["adapted"] else "frozen"
    return f"{call['predictions']} {whose}{' with gradient' if call['with_gradient'] else ''}"


def _times(name: str, seconds: dict[str, float]) -> str:
    middle, low, high = (_short(1e3 * seconds[quartile]) for quartile in ("median", "low", "high"))
    return f"{name:26}{middle:>9}  {f'{low} - {high}':17}"


def _short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
