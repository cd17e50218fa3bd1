"""`asdkit bench --gpu`: what the documents ask of a GPU, in parts of at most eight minutes that can be called again."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import asdkit
from asdkit.core.atomic import write_text
from asdkit.core.errors import MissingExtra
from asdkit.core.text import local
from asdkit.run import machine
from asdkit.run.side_files import read_facts, write_json
from asdkit.run.tables import markdown

PART_SECONDS = 480.0
_TO_SAVE = 20.0  # what a command may take after a signal, before it is killed
_PROMPTS = (
    "a yellow duck", "a red car", "a blue chair", "a yellow house with a red roof", "an orange fish", "a purple mug",
    "a white rocket with red fins", "a red mushroom", "a green tree", "a green cone on a blue cylinder",
)  # fmt: skip
_LOGGED = ("--trainer.log_every_n_steps=10",)
_SD21: tuple[str, ...] = ("--config=gs3d", "--config=priors/sd21", "--prior=random:sd21", *_LOGGED)
_SMALL: tuple[str, ...] = ("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--data.size=32")
_FEW = ("--data.orbit.views=2", "--report.size=16", "--snapshots.every=0")
_TINY: tuple[str, ...] = ("--config=gs3d", "--prior=random:toybox", *_SMALL)
_FULL_ITERATIONS = 5000
_RENDERS = 40_000  # of the 120,000 of the recipe, so that a part has time to train on them
_ASDKIT = ("-m", "asdkit")
Rows = dict[str, str]


@dataclass(frozen=True)
class Check:
    """A command of Python, the seconds it may take, and what its files say for the documents."""

    name: str
    command: tuple[str, ...]
    seconds: float
    rows: Callable[[Path], Rows]
    repeated: bool = False  # although it is finished, for what it looks at may have changed


def parts(out: Path, tiny: bool) -> dict[int, list[Check]]:
    """The commands of each part; `tiny` ones take seconds on a CPU."""
    return {1: _quality(out, tiny), 2: _steps(out, tiny), 3: _training(out, tiny)}


def _quality(out: Path, tiny: bool) -> list[Check]:
    """The environment, gsplat's kernels against the reference, the tests, and the main job on both devices."""
    tests = Path(asdkit.__file__).parents[1] / "tests"
    sizes = ("--trainer.max_steps=1", *_FEW, *_SMALL[1:]) if tiny else ()

    def job(device: str, jobs: int) -> tuple[str, ...]:
        place = (f"--run.root={out}/runs", f"--run.recipe={device}", f"--jobs={jobs}", *sizes)
        accelerator = f"--trainer.accelerator={'cpu' if tiny else device}"
        return (*_ASDKIT, "sweep", str(out / "prompts.txt"), "--config=gs3d", accelerator, *place)

    pictures = (str(tests / "support" / "rasterizers.py"), *(("--tiny",) if tiny else ()))
    suite = ("-m", "pytest", "-m", "gpu", *((f"{tests}/rendering", "--collect-only") if tiny else (str(tests),)))
    return [
        Check("environment", (*_ASDKIT, "doctor"), 60, partial(_last_line, "environment")),
        Check("rasterizers", pictures, 240, lambda out: {"gsplat's pictures": f"the table of {out}/rasterizers.out"}),
        Check("tests", suite, 120, partial(_last_line, "tests")),
        Check("main job on the GPU", job("cuda", 5), 240, _job),
        Check("main job on the CPU", job("cpu", 10), 240, _difference),
    ]


def _steps(out: Path, tiny: bool) -> list[Check]:
    """The table of docs/benchmarks.md, with the architecture of Stable Diffusion 2.1 at 512 pixels."""
    common, steps, iterations = (_TINY, "--steps=1", 1) if tiny else (_SD21, "--steps=100", 300)
    many = [f"--model.generator.{name}={4000 if tiny else 100_000}" for name in ("count", "capacity")]

    def bench(*options: str) -> tuple[str, ...]:
        return (*_ASDKIT, "bench", *common, steps, "--json", *options)

    run: tuple[str, ...] = (f"--trainer.max_steps={iterations}", "--data.views_per_step=1", f"--run.root={out}/runs")
    run += _FEW if tiny else ("--report.size=64",)
    return [
        Check("batch 1", bench("--data.views_per_step=1"), 150, partial(_step, "batch 1")),
        Check("batch 4", bench("--data.views_per_step=4"), 180, _batch_4),
        Check("100k Gaussians", bench("--data.views_per_step=4", *many), 180, _many_gaussians),
        Check("text to 3D", (*_ASDKIT, "fit", *common, *run), 180, partial(_whole_run, iterations)),
    ]


def _training(out: Path, tiny: bool) -> list[Check]:
    """The embedded prior, by its recipe, saved each minute; a part that is called again goes on with it."""
    weights, run, saver = out / "toybox-weights", out / "runs" / "train" / "unet", "asdkit.commands.bench_pieces"
    begin: tuple[str, ...] = ("--config=toybox/unet", f"--model.weights={weights}", f"--data.cache={out}/renders")
    begin += (f"--data.vae={weights}/vae",)
    begin += (f"--run.root={out}/runs", "--run.recipe=train", "--run.name=unet")
    begin += (f"--trainer.callbacks+={saver}.SaveEveryMinute", f"--trainer.callbacks.folder={out}")
    sizes = ("--data.count=8", "--data.held_out=4", "--data.batch_size=4", "--trainer.max_steps=2", *_SMALL[:2])
    goes_on = (run / "checkpoints" / "last.ckpt").is_file()
    fit = (str(run),) if goes_on else (*begin, *(sizes if tiny else (f"--data.count={_RENDERS}",)))
    card = ("--help",) if tiny else ("--weights", str(weights))
    return [
        Check("training", (*_ASDKIT, "fit", *fit, f"--trust={saver}"), 350, lambda out: {}),
        Check("quality", ("-m", "asdkit.toybox.training.model_card", *card), 120, _trained, repeated=True),
    ]


def run_parts(numbers: Iterable[int], folder: Path | None, tiny: bool) -> int:
    """Carry out what is not finished of the parts, and print their rows as a table.

    `gpu.json` has each command, its exit code and seconds, written as it ends; `gpu.md` the table.

    Raises:
        MissingExtra: there is no GPU, and it is not `tiny`.
    """
    if not (tiny or machine.gpus(os.environ)):
        raise MissingExtra("bench --gpu needs a CUDA device; --dry-run carries out everything in small on the CPU.")
    out = (local(folder or "bench-gpu") / ("dry-run" if tiny else "gpu")).absolute()
    _prepare(out, tiny)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the command under way is ended, too
    records, numbers = read_facts(out / "gpu.json"), tuple(numbers)
    for number in numbers:
        end = time.monotonic() + PART_SECONDS
        for check in parts(out, tiny)[number]:
            if records.get(check.name, {}).get("code") == 0 and not check.repeated:
                continue
            seconds = math.inf if tiny else min(check.seconds, end - time.monotonic() - _TO_SAVE)
            records[check.name] = carry_out(check, out, seconds) if seconds > 0 else {"code": None}
            write_json(out / "gpu.json", records)
            end_of = _reason(records[check.name]["code"]) or "done"
            print(f"part {number}, {check.name}: {end_of}", file=sys.stderr, flush=True)
    done = [check for number in numbers for check in parts(out, tiny)[number]]
    text = table(done, records, out)
    write_text(out / "gpu.md", text)
    print(text, end="")
    return next((1 for check in done if records[check.name]["code"] != 0), 0)


def _prepare(out: Path, tiny: bool) -> None:
    """What the commands read: the prompts, and the autoencoder that the embedded prior is trained with."""
    from asdkit.priors.locate import EMBEDDED, locate

    write_text(out / "prompts.txt", "\n".join(_PROMPTS[: 1 if tiny else None]) + "\n")
    shutil.copytree(locate(EMBEDDED).path / "vae", out / "toybox-weights" / "vae", dirs_exist_ok=True)


def carry_out(check: Check, out: Path, seconds: float) -> dict[str, Any]:
    """Run a command for so many seconds at most: its output goes to NAME.out and NAME.log; the record of its end."""
    start = time.monotonic()
    with (out / f"{check.name}.out").open("wb") as stdout, (out / f"{check.name}.log").open("wb") as stderr:
        command = [sys.executable, "-P", *check.command]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            code = None
        except BaseException:
            _stop(process)
            raise
    return {
        "command": shlex.join(("python", *check.command)),
        "code": code,
        "seconds": round(time.monotonic() - start, 1),
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let a command save, then end it."""
    process.terminate()
    try:
        process.wait(_TO_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reason(code: int | None) -> str:
    """Why there are no results; empty when there are."""
    return "not finished in its time, call the part again" if code is None else f"exit code {code}" if code else ""


def table(checks: Iterable[Check], records: dict[str, Any], out: Path) -> str:
    """The rows of the documents, as Markdown: what was asked, the command, and what came out."""
    rows = []
    for check in checks:
        record = records[check.name]
        reason = _reason(record["code"])
        command = f"`{record.get('command', shlex.join(check.command))}`"
        results = {check.name: f"{reason}; {out}/{check.name}.log"} if reason else check.rows(out)
        rows += [{"target": target, "command": command, "result": result} for target, result in results.items()]
    return markdown(rows, {"target": "target", "command": "command", "result": "result"})


def _facts(out: Path, name: str) -> dict[str, Any]:
    return read_facts(out / f"{name}.out")


def _last_line(name: str, out: Path) -> Rows:
    return {name: (out / f"{name}.out").read_text().strip().rpartition("\n")[2]}


def _psnr(out: Path, device: str) -> list[float]:
    (file,) = (out / "runs" / device).glob("sweep*/sweep.json")
    return [row["psnr"] for row in json.loads(file.read_text())]


def _estimate(values: list[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):.2f} ± {error:.2f} dB (n = {len(values)})"


def _job(out: Path) -> Rows:
    return {"PSNR of the main job on the GPU": _estimate(_psnr(out, "cuda"))}


def _difference(out: Path) -> Rows:
    cuda, cpu = _psnr(out, "cuda"), _psnr(out, "cpu")
    pairs = [a - b for a, b in zip(cuda, cpu, strict=True)]
    return {"PSNR of the main job on the CPU": _estimate(cpu), "GPU - CPU, pair by pair": _estimate(pairs)}


def _step(name: str, out: Path) -> Rows:
    facts = _facts(out, name)
    low, middle, high = (1e3 * facts["modes"]["fast"]["seconds"][key] for key in ("low", "median", "high"))
    return {f"ASD step time, {name}": f"{middle:.3g} ms ({low:.3g} - {high:.3g})"}


def _batch_4(out: Path) -> Rows:
    facts = _facts(out, "batch 4")
    prior = next(section for section in facts["sections"] if section["name"] == "prior")
    ratio, memory = facts["fast_to_faithful"], facts["modes"]["fast"]["memory"]
    by_operations, peak = facts["fast_to_faithful_flop"], facts["peak"]["flop_per_second"] / 1e12
    return _step("batch 4", out) | {
        "fast at most 0.62x of paper-faithful": f"{ratio['median']:.3f}, by operations {by_operations:.3f}",
        "frozen forwards at 40 % of the peak": f"{100 * prior['share_of_peak']:.1f} % of {peak:.3g} TFLOP/s",
        "peak memory at batch 4 under 20 GB": f"{(memory or math.nan) / 1e9:.3g} GB",
    }


def _many_gaussians(out: Path) -> Rows:
    shares = {section["name"]: section["share_of_step"] for section in _facts(out, "100k Gaussians")["sections"]}
    share = 100 * (shares["render"] + shares["backward"])
    return {"rendering of 100k Gaussians at 512 px under 10 % of the step": f"{share:.1f} %"}


def _whole_run(iterations: int, out: Path) -> Rows:
    """A run of few iterations as it was, and what the others would add by the steps of batch 1."""
    seconds = read_facts(out / "gpu.json")["text to 3D"]["seconds"]
    seconds += (_FULL_ITERATIONS - iterations) * _facts(out, "batch 1")["modes"]["fast"]["seconds"]["median"]
    return {f"a run of {_FULL_ITERATIONS} iterations in under 8 minutes": f"{seconds / 60:.1f} minutes (extrapolated)"}


def _trained(out: Path) -> Rows:
    """Of a training that has ended or not: how far it is, how fast, and how good its last weights are."""
    saved, figures = read_facts(out / "prior.json"), _facts(out, "quality")
    rate = (saved["step"] - saved["first"]) / max(1e-9, saved["seconds"])
    words = [f"{name} {value:.3g}" for name, value in figures.items() if isinstance(value, float)]
    return {"training of the embedded prior": f"{saved['step']} iterations, {rate:.3g} a second; {', '.join(words)}"}
