"""`asdkit bench`: what a step of a recipe costs, by its spans, and what sharing and Lightning change about it."""

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from itertools import pairwise
from operator import sub
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from asdkit.commands import bench_report
from asdkit.commands.bench_report import spread
from asdkit.commands.fit import CLI
from asdkit.core.contexts import replaced
from asdkit.distillation import Distillation
from asdkit.priors.network_runner import HalfLayer
from asdkit.run.exits import Signals, exit_code_of
from asdkit.run.guard import Guard
from asdkit.run.loggers import MetricsCSV

Blocks = dict[str, list[float]]  # seconds of a step, by its kind, in each block
OTHER, _PREFIX = "other", "asdkit."  # of spans
NEVER = 10**12  # steps from one that is logged to the next


def time_steps(arguments: list[str], steps: int, as_json: bool, earlier: dict[str, Any]) -> int:
    """Time so many steps of each kind; prints facts, or a table and ratios to `earlier` ones. Returns the exit code."""

    def act(signals: Signals) -> None:
        facts = timed(arguments, steps, signals)
        ratios = f"\n\n{bench_report.comparison(facts, earlier)}" if earlier else ""
        print(json.dumps(facts, indent=2) if as_json else bench_report.table(facts) + ratios)

    return exit_code_of(act)


def timed(arguments: list[str], steps: int, signals: Signals) -> dict[str, Any]:
    """The facts of so many steps of each kind."""
    with redirect_stdout(sys.stderr), TemporaryDirectory() as folder:
        return BenchCLI(arguments, steps, Path(folder), signals).bench.facts


class BenchCLI(CLI):
    """`fit`, but only for as many steps as are measured; what it writes goes to a folder that is not kept."""

    def __init__(self, arguments: list[str], steps: int, folder: Path, signals: Signals) -> None:
        self.steps, self.folder = steps, folder
        super().__init__(["fit", *arguments], None, signals)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The recipe's trainer without all that writes or looks."""
        config = {**self.config_init.trainer}
        self.bench = Bench(self.config.run.recipe, self.steps, config["log_every_n_steps"])
        changes = {"logger": MetricsCSV(self.folder), "callbacks": [Guard(self._signals), self.bench], "devices": 1}
        changes |= {"max_steps": self.bench.total, "limit_val_batches": 0, "default_root_dir": str(self.folder)}
        return pl.Trainer(**config | changes | {"enable_checkpointing": False, "enable_progress_bar": False})


class Bench(pl.Callback):
    """Times blocks of steps, in turn: Lightning's fast ones, fast ones without Lightning, Lightning's as in the paper.

    The three kinds of a round stand side by side in time, so that what else the machine does falls on all of them, and
    ratios are taken within rounds. The first round is a warm-up. Spans are those of the steps without Lightning.
    """

    def __init__(self, recipe: str, steps: int, every: int) -> None:
        self.recipe, self.steps = recipe, steps
        self.block = min(steps, every)  # as long as the trainer's logging interval, so that each logs once
        self.total = 2 * self.block * (math.ceil(steps / self.block) + 1)
        self.times: Blocks = defaultdict(list)
        self.processor: Blocks = defaultdict(list)  # seconds of all its threads, of the same blocks
        self.memory: dict[str, int | None] = {}
        self.spans: list[dict[str, float]] = []  # seconds of each step
        self._faithful = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._resident = bench_report.resident("VmRSS")
        self._open(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        blocks, within = divmod(batch_idx + 1, self.block)
        if within:
            return
        if blocks % 2:
            self._close("fast", module)
            step = bare_loop(module)
            self._open(module)
            self.spans += seconds_by_span(step, self.block, module.device)
            self._close("bare", module)
            self._faithful.enter_context(network_calls(module, faithful=True))
        else:
            self._close("faithful", module)
            self._faithful.close()
        self._open(module)

    def _open(self, module: Distillation) -> None:
        bench_report.forget_peak(module.device)
        self._start, self._worked = bench_report.now(module.device), time.process_time()

    def _close(self, kind: str, module: Distillation) -> None:
        self.times[kind].append((bench_report.now(module.device) - self._start) / self.block)
        self.processor[kind].append((time.process_time() - self._worked) / self.block)
        self.memory[kind] = bench_report.peak_memory(module.device, self._resident)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        seconds, processor = ({kind: each[1:] for kind, each in of.items()} for of in (self.times, self.processor))
        kinds: dict[str, Any] = {
            kind: {"seconds": spread(seconds[kind]), "processor_seconds": spread(processor[kind])} for kind in seconds
        }
        flop: dict[str, dict[str, float]] = {}
        for kind in ("fast", "faithful"):
            with network_calls(module, kind == "faithful") as calls, operations() as counter:
                flop[kind] = _by_span(_readings(bare_loop(module, NEVER), counter.get_total_flops))
            kinds[kind] |= {"memory": self.memory[kind], "calls": calls, "flop": sum(flop[kind].values())}
        dtype = computes_in(module)
        peak = bench_report.measured_peak(module.device, dtype)
        by_operations = kinds["fast"]["flop"] / max(1.0, kinds["faithful"]["flop"])
        self.facts: dict[str, Any] = {
            "recipe": self.recipe,
            **bench_report.environment(module.device),
            "prior": bench_report.prior_facts(module),
            "x0": next((call["x0"] for call in kinds["fast"]["calls"]), []),
            "steps": self.steps,
            "peak": {"flop_per_second": peak, "dtype": str(dtype).removeprefix("torch.")},
            "sections": sections(self.spans[self.block :], flop["fast"], peak),
            "kinds": kinds,
            "floor_seconds": kinds["fast"]["flop"] / peak,
            "lightning_seconds": spread([a - b for a, b in zip(seconds["fast"], seconds["bare"], strict=True)]),
            "fast_to_faithful": ratios(seconds, processor, "faithful") | {"operations": by_operations},
            "lightning_to_bare": ratios(seconds, processor, "bare"),
        }


def ratios(seconds: Blocks, processor: Blocks, kind: str) -> dict[str, Any]:
    """The spreads of the ratios of fast blocks to those of a kind that stood beside them."""
    clocks = {"wall": seconds, "processor": processor}
    pairs = {name: zip(of["fast"], of[kind], strict=True) for name, of in clocks.items()}
    return {name: spread([fast / other for fast, other in blocks]) for name, blocks in pairs.items()}


def computes_in(module: Distillation) -> torch.dtype:
    """The fastest precision that the frozen network multiplies in."""
    if module.device.type == "cpu" and any(isinstance(part, HalfLayer) for part in module.prior.modules()):
        return torch.bfloat16
    return next((p.dtype for p in module.prior.parameters()), torch.float32)


def sections(steps: list[dict[str, float]], flop: dict[str, float], peak: float) -> dict[str, dict[str, Any]]:
    """Of each span its seconds, operations, their seconds at `peak` (per second), and its shares of step and peak."""
    known, whole = {}, spread([sum(step.values()) for step in steps])["median"]
    for name in sorted(dict.fromkeys(name for step in steps for name in step), key=lambda name: name == OTHER):
        seconds, work = spread([step.get(name, 0.0) for step in steps]), flop.get(name) or None
        floor = work and work / peak
        shares = {"share_of_step": seconds["median"] / whole, "share_of_peak": floor and floor / seconds["median"]}
        known[name] = {"seconds": seconds, "flop": work, "floor_seconds": floor, **shares}
    return known


def bare_loop(module: Distillation, every: int | None = None) -> Callable[[], None]:
    """Takes a step of a module whose trainer has started, without Lightning: plain optimisers and backward passes.

    Steps go on from the trainer's present one, and it does not count them; `every` so many log, to nowhere.
    """
    trainer = cast(Any, module.trainer)
    batches = iter(trainer.datamodule.train_dataloader())
    same = {name: getattr(trainer, name) for name in ("global_step", "strategy", "optimizers")}
    every = every or trainer.log_every_n_steps
    stand_in = SimpleNamespace(global_rank=0, world_size=1, log_every_n_steps=every, **same)
    without_lightning: dict[str, Any] = {
        "optimizers": lambda **_: stand_in.optimizers,
        "manual_backward": lambda loss: loss.backward(),
        "log_dict": lambda *_, **__: None,
    }

    def step() -> None:
        with replaced(module, "trainer", stand_in), patch.multiple(module, **without_lightning):
            batch = module.transfer_batch_to_device(next(batches), module.device, 0)
            module.training_step(batch, stand_in.global_step)
        stand_in.global_step += 1

    return step


@contextmanager
def network_calls(module: Distillation, faithful: bool) -> Iterator[list[dict[str, Any]]]:
    """A list of the network's calls within this context: how many predictions each makes, whose, and of what shape.

    When `faithful`, steps in it are the paper's: the discriminator has draws of its own, and each prediction a call.
    """
    calls: list[dict[str, Any]] = []

    def watched(predict: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
        def call(x: Any, conditions: Any, adapter: Any = None) -> list[Tensor]:
            learns = adapter is not None and torch.is_grad_enabled()
            facts = {"predictions": len(conditions), "adapted": adapter is not None, "with_gradient": learns}
            calls.append(facts | {"x0": list(x.x0.shape)})
            return predict(x, conditions, adapter)

        def one_at_a_time(x: Any, conditions: Any, adapter: Any = None) -> list[Tensor]:
            return [call(x, [condition], adapter)[0] for condition in conditions]

        return one_at_a_time if faithful else call

    with ExitStack() as stack:
        for prior in module.prior.models:
            stack.enter_context(patch.object(prior, "predict", watched(prior.predict)))
        if faithful:
            stack.enter_context(patch.object(module, "discriminator", replace(module.discriminator, share_noise=False)))
        yield calls


def seconds_by_span(step: Callable[[], None], count: int, device: torch.device) -> list[dict[str, float]]:
    """Seconds of `count` steps by their spans; a GPU's pass on the device, which is waited for at the end alone."""
    if device.type != "cuda":
        return [_by_span(_readings(step, time.perf_counter)) for _ in range(count)]

    def event() -> torch.cuda.Event:
        reading = torch.cuda.Event(enable_timing=True)
        reading.record()
        return reading

    steps = [_readings(step, event) for _ in range(count)]
    torch.cuda.synchronize(device)
    return [_by_span(readings, lambda end, start: start.elapsed_time(end) / 1000) for readings in steps]


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


def _by_span(readings: list[tuple[str, Any]], minus: Callable[[Any, Any], float] = sub) -> dict[str, float]:
    """What passes between two readings, for the innermost span that was open."""
    passed: dict[str, float] = defaultdict(float)
    for (_, start), (span, end) in pairwise(readings):
        passed[span] += minus(end, start)
    return passed
