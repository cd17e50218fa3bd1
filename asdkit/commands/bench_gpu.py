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
from typing import Any

import yaml

import asdkit
from asdkit.core.atomic import write_text
from asdkit.core.errors import MissingExtra
from asdkit.core.text import local
from asdkit.run import machine
from asdkit.run.side_files import read_facts, write_json
from asdkit.run.tables import estimate, markdown

PART_SECONDS = 480.0
_TO_SAVE = 20.0  # what a command may take after a signal, before it is killed
_FULL_ITERATIONS, _ITERATIONS = 5000, 300  # of text to 3D: what is asked for, and what a part has time for
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
    """The commands of each part; `tiny` ones take seconds on a CPU. A training that has begun goes on."""
    given = _given()
    words = {name: choice[tiny] for name, choice in given["words"].items()}
    places = {"out": shlex.quote(str(out)), "tests": shlex.quote(str(Path(asdkit.__file__).parents[1] / "tests"))}
    if (out / "runs" / "train" / "unet" / "checkpoints" / "last.ckpt").is_file():
        given["parts"][3]["training"]["command"] = "-m asdkit fit {out}/runs/train/unet"

    def check(name: str, command: str, **more: Any) -> Check:
        return Check(name, tuple(shlex.split(command.format(**words, **places))), rows=_ROWS[name], **more)

    return {
        number: [check(name, **more) for name, more in commands.items()] for number, commands in given["parts"].items()
    }


def _given() -> dict[str, Any]:
    given: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return given


def run_parts(numbers: Iterable[int], folder: Path | None, tiny: bool) -> int:
    """Carry out what is not finished of the parts, and print their rows as a table.

    `gpu.json` has each command, its exit code and seconds, written as it ends; `gpu.md` the table. It is a MissingExtra
    if there is no GPU, and it is not `tiny`.
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

    write_text(out / "prompts.txt", "\n".join(_given()["prompts"][: 1 if tiny else None]) + "\n")
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
    return markdown(rows)


def _facts(out: Path, name: str) -> dict[str, Any]:
    return read_facts(out / f"{name}.out")


def _last_line(name: str, out: Path) -> Rows:
    return {name: (out / f"{name}.out").read_text().strip().rpartition("\n")[2]}


def _psnr(out: Path, device: str) -> list[float]:
    (file,) = (out / "runs" / device).glob("sweep*/sweep.json")
    return [row["psnr"] for row in json.loads(file.read_text())]


def _in_db(values: list[float]) -> str:
    return f"{estimate(values)} dB (n = {len(values)})"


def _job(out: Path) -> Rows:
    return {"PSNR of the main job on the GPU": _in_db(_psnr(out, "cuda"))}


def _difference(out: Path) -> Rows:
    cuda, cpu = _psnr(out, "cuda"), _psnr(out, "cpu")
    pairs = [a - b for a, b in zip(cuda, cpu, strict=True)]
    return {"PSNR of the main job on the CPU": _in_db(cpu), "GPU - CPU, pair by pair": _in_db(pairs)}


def _step(name: str, out: Path) -> Rows:
    facts = _facts(out, name)
    low, middle, high = (1e3 * facts["kinds"]["fast"]["seconds"][key] for key in ("low", "median", "high"))
    return {f"ASD step time, {name}": f"{middle:.3g} ms ({low:.3g} - {high:.3g})"}


def _batch_4(out: Path) -> Rows:
    facts = _facts(out, "batch 4")
    prior, ratio, memory = facts["sections"]["prior"], facts["fast_to_faithful"], facts["kinds"]["fast"]["memory"]
    median, peak = ratio["wall"]["median"], facts["peak"]["flop_per_second"] / 1e12
    return _step("batch 4", out) | {
        "fast at most 0.62x of paper-faithful": f"{median:.3f}, by operations {ratio['operations']:.3f}",
        "frozen forwards at 40 % of the peak": f"{100 * prior['share_of_peak']:.1f} % of {peak:.3g} TFLOP/s",
        "peak memory at batch 4 under 20 GB": f"{(memory or math.nan) / 1e9:.3g} GB",
    }


def _many_gaussians(out: Path) -> Rows:
    sections = _facts(out, "100k Gaussians")["sections"]
    share = 100 * (sections["render"]["share_of_step"] + sections["backward"]["share_of_step"])
    return {"rendering of 100k Gaussians at 512 px under 10 % of the step": f"{share:.1f} %"}


def _whole_run(out: Path) -> Rows:
    """A run of few iterations as it was, and what the others would add by the steps of batch 1."""
    seconds = read_facts(out / "gpu.json")["text to 3D"]["seconds"]
    seconds += (_FULL_ITERATIONS - _ITERATIONS) * _facts(out, "batch 1")["kinds"]["fast"]["seconds"]["median"]
    return {f"a run of {_FULL_ITERATIONS} iterations in under 8 minutes": f"{seconds / 60:.1f} minutes (extrapolated)"}


def _trained(out: Path) -> Rows:
    """Of a training that has ended or not: how far it is, and how good its last weights are."""
    run, quality = read_facts(out / "runs" / "train" / "unet" / "run.json"), _facts(out, "quality")
    words = [f"{name} {value:.3g}" for name, value in quality.items() if isinstance(value, float)]
    done = f"{run['iterations']} iterations in {run['seconds']:.0f} seconds, with the renders"
    return {"training of the embedded prior": ", ".join([done, *words])}


_ROWS: dict[str, Callable[[Path], Rows]] = {
    "environment": partial(_last_line, "environment"),
    "rasterizers": lambda out: {"gsplat's pictures": f"the table of {out}/rasterizers.out"},
    "tests": partial(_last_line, "tests"),
    "main job on the GPU": _job,
    "main job on the CPU": _difference,
    "batch 1": partial(_step, "batch 1"),
    "batch 4": _batch_4,
    "100k Gaussians": _many_gaussians,
    "text to 3D": _whole_run,
    "training": lambda out: {},
    "quality": _trained,
}
