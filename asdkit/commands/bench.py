"""`asdkit bench`: what a step of a recipe costs, part by part, and what sharing and Lightning change about it."""

import json
import math
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch.utils.flop_counter import FlopCounterMode

from asdkit.commands.bench_sections import (
    LOGGING,
    NEVER,
    OTHER,
    Plain,
    Sections,
    apart,
    counted,
    paper_faithful,
    seconds,
)
from asdkit.commands.fit import CLI, answered
from asdkit.distillation import Distillation
from asdkit.run.guard import Guard
from asdkit.run.run_folder import MetricsCSV
from asdkit.run.signals import Signals

PACKAGES = ("torch", "pytorch-lightning", "diffusers", "peft", "gsplat", "numba")
ORDER = (
    "render", "encode", "base forwards", "discriminator forward", "encode backward", "render backward",
    "discriminator loss", "discriminator backward", "generator optimiser", "discriminator optimiser", "density control",
    LOGGING, OTHER,
)  # fmt: skip
UNCOUNTED = ("render", "render backward")  # whose kernels torch's counter does not see


def run_bench_command(arguments: list[str], steps: int, as_json: bool) -> int:
    """Measure and print; returns the process's exit code.

    Args:
        arguments: options of `fit`, short forms expanded.
        steps: how many of each kind are timed.
        as_json: print facts as JSON instead of a table.
    """

    def act(signals: Signals) -> None:
        with redirect_stdout(sys.stderr):
            facts = measured(arguments, steps, signals)
        print(json.dumps(facts, indent=2) if as_json else table(facts))

    return answered(act)


def measured(arguments: list[str], steps: int, signals: Signals) -> dict[str, Any]:
    """Facts about the steps of a recipe.

    Args:
        arguments: options of `fit`, short forms expanded.
        steps: how many of each kind are timed.
        signals: of the process.

    Raises:
        ValueError: `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"bench needs at least one step; got --steps {steps}.")
    with TemporaryDirectory() as folder:
        recipe = Measuring(arguments, steps, Path(folder), signals)
    return {"recipe": recipe.name, **recipe.bench.facts}


class Measuring(CLI):
    """`fit`, but only for as many steps as are measured, and nothing of it is kept.

    Args:
        arguments: options of `fit`.
        steps: how many of each kind are timed.
        folder: for Lightning's metrics.
        signals: of the process.
    """

    def __init__(self, arguments: list[str], steps: int, folder: Path, signals: Signals) -> None:
        self.steps, self.folder = steps, folder
        super().__init__(["fit", *arguments], None, signals)

    @property
    def name(self) -> str:
        """The names of the recipes."""
        paths = [str(path) for path in self.config.fit.get("config") or []]
        return " ".join(Path(path).stem for path in paths if not path.startswith("{"))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        return LightningCLI.instantiate_trainer(self)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """The recipe's trainer without all that writes or looks."""
        self.bench = Bench(self.steps, config["log_every_n_steps"])
        changes = {
            "max_steps": self.bench.total,
            "logger": MetricsCSV(self.folder),
            "callbacks": [Guard(self._signals), self.bench],
            "default_root_dir": str(self.folder),
            "devices": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "limit_val_batches": 0,
        }
        return pl.Trainer(**config | changes)


class Bench(pl.Callback):
    """Times blocks of steps, in turn: Lightning's fast ones, fast ones without Lightning, Lightning's as in the paper.

    The three kinds of a round stand side by side in time, so that what else the machine does falls on all of them, and
    ratios are taken within rounds. The first round is a warm-up. At the end a few steps are taken apart.

    Args:
        steps: how many of each kind are timed.
        every: how often the trainer logs; a block is that long, so that each logs once.
    """

    def __init__(self, steps: int, every: int) -> None:
        self.steps, self.block = steps, min(steps, every)
        self.rounds = math.ceil(steps / self.block)
        self.total = 2 * self.block * (self.rounds + 1)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.memory: dict[str, int | None] = {}
        self.facts: dict[str, Any] = {}
        self._faithful = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, module: Distillation) -> None:
        self.now, self.resident = seconds(module.device), _resident("VmRSS")
        self._open(module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Distillation, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.block:
            return
        if (batch_idx + 1) // self.block % 2:
            self._close("fast", module)
            plain = Plain(module)
            self._open(module)
            plain.run(self.block)
            self._close("bare", module)
            self._faithful.enter_context(paper_faithful(module))
        else:
            self._close("faithful", module)
            self._faithful.close()
        self._open(module)

    def _open(self, module: Distillation) -> None:
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)
        else:
            _forget_peak()
        self._start = self.now()

    def _close(self, kind: str, module: Distillation) -> None:
        """Note seconds per step and the peak of memory: on CUDA in all, on the CPU above what was there at first."""
        self.times[kind].append((self.now() - self._start) / self.block)
        if module.device.type == "cuda":
            self.memory[kind] = torch.cuda.max_memory_allocated(module.device)
        else:
            peak = _resident("VmHWM")
            self.memory[kind] = None if peak is None or self.resident is None else max(0, peak - self.resident)

    def on_train_end(self, trainer: pl.Trainer, module: Distillation) -> None:
        times = {kind: blocks[1:] for kind, blocks in self.times.items()}
        calls = {"fast": _calls(module, nullcontext()), "faithful": _calls(module, paper_faithful(module))}
        peak = matmul_peak(module.device, _dtype(module))
        self.facts = {
            "date": time.strftime("%Y-%m-%d"),
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "machine": _machine(module.device),
            "prior": _prior(module),
            "x0": calls["fast"][0]["x0"] if calls["fast"] else [],
            "steps": self.steps,
            "peak": {"flop_per_second": peak, "dtype": str(_dtype(module)).removeprefix("torch.")},
            "sections": self._sections(module, peak),
            "modes": {
                kind: {
                    "seconds": spread(times[kind]),
                    "memory": self.memory[kind],
                    "evaluations": sum(call["predictions"] for call in made),
                    "calls": made,
                }
                for kind, made in calls.items()
            },
            "bare_seconds": spread(times["bare"]),
            "fast_to_faithful": spread(_pairs(times, "fast", "faithful")),
            "lightning_to_bare": spread(_pairs(times, "fast", "bare")),
            "lightning_seconds": spread([a - b for a, b in zip(times["fast"], times["bare"], strict=True)]),
        }

    def _sections(self, module: Distillation, peak: float) -> list[dict[str, Any]]:
        """The parts of a step, taken apart in steps of their own, without Lightning."""
        steps = [_taken_apart(module, self.now) for _ in range(self.steps)]
        logged = _taken_apart(module, self.now, every=1).get(LOGGING, 0.0) / module.trainer.log_every_n_steps
        steps = [step | {LOGGING: logged} for step in steps]
        with operations() as counter:
            flop = _taken_apart(module, counter.get_total_flops)
        whole = median(sum(step.values()) for step in steps)
        found = []
        for name in (name for name in ORDER if any(name in step for step in steps)):
            times = spread([step.get(name, 0.0) for step in steps])
            work = None if name in UNCOUNTED else flop.get(name) or None
            found.append({"name": name, "seconds": times, "share_of_step": times["median"] / whole, "flop": work})
            found[-1]["share_of_peak"] = work and work / times["median"] / peak
        return found


def _calls(module: Distillation, mode: AbstractContextManager) -> list[dict[str, Any]]:
    """The network calls of one step."""
    with counted(module) as calls, mode:
        Plain(module, NEVER).run(1)
    return calls


def _taken_apart(module: Distillation, meter: Callable[[], float], every: int = NEVER) -> dict[str, float]:
    """What a meter counts in one step, by sections."""
    plain = Plain(module, every)
    sections = Sections(meter)
    with apart(module, sections):
        plain.run(1)
    return sections.close()


def operations() -> FlopCounterMode:
    """torch's counter of floating-point operations, which by itself does not know the CPU's attention."""
    counter, aten = FlopCounterMode(display=False), torch.ops.aten
    for known in (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_flash_attention_backward):
        name = known.__name__.replace("flash_attention", "flash_attention_for_cpu")
        counter.flop_registry[getattr(aten, name)] = counter.flop_registry[known]
    return counter


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of several products of two square matrices."""
    now, size = seconds(device), 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(20):
        start = now()
        a @ b
        times.append(now() - start)
    return 2 * size**3 / min(times)


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def _pairs(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [a / b for a, b in zip(times[one], times[other], strict=True)]


def _dtype(module: Distillation) -> torch.dtype:
    """What the frozen network computes in."""
    return next((p.dtype for p in module.prior.parameters()), torch.float32)


def _prior(module: Distillation) -> dict[str, Any]:
    prior = module.prior
    size = sum(p.numel() for p in prior.parameters() if not p.requires_grad)
    learning = sum(p.numel() for p in module.guidance.parameters() if p.requires_grad)
    name = str(prior.spec["init_args"].get("path", type(prior).__name__))
    return {"name": name, "digest": prior.digest, "parameters": size, "phi": learning}


def _machine(device: torch.device) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), processor)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    facts = {"device": device.type, "name": name, "processor": processor, "cores": os.cpu_count()}
    return facts | {"threads": torch.get_num_threads()}


def _resident(name: str) -> int | None:
    """Bytes of this process in memory, `VmRSS` now or `VmHWM` at most, where the system tells."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith(name)), None)


def _forget_peak() -> None:
    """From now on `VmHWM` is the most since now, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


# ---------------------------------------------------------------------------------------------------- the table


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
        flop = _short(section["flop"] / 1e9) if section["flop"] else "-"
        share = f"{100 * section['share_of_peak']:.1f}" if section["share_of_peak"] else "-"
        step = f"{100 * section['share_of_step']:.1f}"
        lines.append(f"{section['name']:26}{_times(section['seconds'])}{step:>10}{flop:>10}{share:>10}")
    whole = {"a step without Lightning": facts["bare_seconds"], "what Lightning adds": facts["lightning_seconds"]}
    whole |= {f"a {name} step": mode["seconds"] for name, mode in facts["modes"].items()}
    lines += ["", *(f"{name:26}{_times(times)}" for name, times in whole.items()), ""]
    for name, mode in facts["modes"].items():
        above = "" if machine["device"] == "cuda" else " above the loaded models"
        memory = "unknown" if mode["memory"] is None else f"{mode['memory'] / 2**30:.2f} GiB{above}"
        parts = ", ".join(_call(call) for call in mode["calls"])
        lines.append(f"{name}: peak memory {memory}; network calls: {parts or 'none'}")
    lines.append(f"fast / faithful: {_ratio(facts['fast_to_faithful'])}")
    lines.append(f"Lightning / bare loop: {_ratio(facts['lightning_to_bare'])}")
    base = next((s for s in facts["sections"] if s["name"] == "base forwards" and s["share_of_peak"]), None)
    if base:
        lines.append(
            f"The frozen network's forwards: {100 * base['share_of_peak']:.0f} % of the measured {peak['dtype']} peak"
        )
    return "\n".join(lines)


def _times(times: dict[str, float]) -> str:
    spread_ = f"{_short(1e3 * times['low'])} - {_short(1e3 * times['high'])}"
    return f"{_short(1e3 * times['median']):>9}  {spread_:17}"


def _short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _call(call: dict[str, Any]) -> str:
    who = "e_phi" if call["adapted"] else "frozen"
    return f"{call['predictions']} {who}{' with gradient' if call['with_gradient'] else ''}"


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} - {ratio['high']:.3f})"
