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
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

import asdkit
from asdkit.core.atomic import write_text
from asdkit.core.errors import MissingExtra
from asdkit.core.text import local
from asdkit.priors.locate import EMBEDDED, locate
from asdkit.run import machine
from asdkit.run.side_files import read_facts, write_json
from asdkit.run.tables import estimate, markdown

PART_SECONDS = 480.0
_GIVEN: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
_TO_SAVE = 20.0  # what a command may take after a signal, before it is killed


@dataclass(frozen=True)
class Check:
    """A command of Python, the seconds it may take, and what its files say for the documents."""

    name: str
    command: tuple[str, ...]
    seconds: float
    rows: Mapping[str, str] = field(default_factory=dict)  # templates, by what the documents ask for
    repeated: bool = False  # although it is finished, for what it looks at may have changed


def parts(out: Path, tiny: bool) -> dict[int, list[Check]]:
    """The commands of each part; `tiny` ones take seconds on a CPU. A training that has begun goes on."""
    words = {name: choice[tiny] for name, choice in _GIVEN["words"].items()}
    places = {"out": shlex.quote(str(out)), "tests": shlex.quote(str(Path(asdkit.__file__).parents[1] / "tests"))}
    begun = (out / "runs" / "train" / "unet" / "checkpoints" / "last.ckpt").is_file()

    def check(name: str, command: str, **more: Any) -> Check:
        command = "-m asdkit fit {out}/runs/train/unet" if begun and name == "training" else command
        return Check(name, tuple(shlex.split(command.format(**words, **places))), **more)

    listed = _GIVEN["parts"].items()
    return {number: [check(name, **more) for name, more in commands.items()] for number, commands in listed}


def run_parts(numbers: Iterable[int], folder: Path | None, tiny: bool) -> int:
    """Carry out what is not finished of the parts: `gpu.json` has each command's end, `gpu.md` a table of results."""
    if not (tiny or machine.gpus(os.environ)):
        raise MissingExtra("bench --gpu needs a CUDA device; --dry-run carries out everything in small on the CPU.")
    out = (local(folder or "bench-gpu") / ("dry-run" if tiny else "gpu")).absolute()
    # What the commands read: the prompts, and the autoencoder that the embedded prior is trained with.
    write_text(out / "prompts.txt", "\n".join(_GIVEN["prompts"][: 1 if tiny else None]) + "\n")
    shutil.copytree(locate(EMBEDDED).path / "vae", out / "toybox-weights" / "vae", dirs_exist_ok=True)
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
            end_of = _reason(records[check.name]) or "done"
            print(f"part {number}, {check.name}: {end_of}", file=sys.stderr, flush=True)
    done = [check for number in numbers for check in parts(out, tiny)[number]]
    text = table(done, records, out)
    write_text(out / "gpu.md", text)
    print(text, end="")
    return next((1 for check in done if records[check.name]["code"] != 0), 0)


def carry_out(check: Check, out: Path, seconds: float) -> dict[str, Any]:
    """Run a command for so many seconds at most: its output goes to NAME.out and NAME.log; the record of its end."""
    start = time.monotonic()
    with (out / f"{check.name}.out").open("wb") as stdout, (out / f"{check.name}.log").open("wb") as stderr:
        command = [sys.executable, "-P", *check.command]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TO_SAVE)
            process.kill()  # what has ended can't be killed
            process.wait()
    said = ((out / f"{check.name}.{end}").read_text(errors="replace").strip() for end in ("log", "out") if code)
    asked, reason = shlex.join(("python", *check.command)), next(filter(None, said), "").rpartition("\n")[2]
    return {"command": asked, "code": code, "seconds": round(time.monotonic() - start, 1), "reason": reason}


def _reason(record: Mapping[str, Any]) -> str:
    """Why there are no results; empty when there are."""
    if record["code"] is None:
        return "not finished in its time, call the part again"
    return f"exit code {record['code']}: {record['reason']}" if record["code"] else ""


def table(checks: Iterable[Check], records: dict[str, Any], out: Path) -> str:
    """The rows of the documents, as Markdown: what was asked, the command, and what came out."""
    rows = []
    for check in checks:
        record = records[check.name]
        reason = _reason(record)
        command = f"`{record.get('command', shlex.join(check.command))}`"
        results = {check.name: f"{reason}; {out}/{check.name}.log, .out"} if reason else _rows(check, record, out)
        rows += [{"target": target, "command": command, "result": result} for target, result in results.items()]
    return markdown(rows)


def _rows(check: Check, record: dict[str, Any], out: Path) -> dict[str, str]:
    """What the files of a command say, by what the documents ask for."""

    def psnr(device: str, minus: str = "") -> list[float]:
        (file,) = (out / "runs" / device).glob("sweep*/sweep.json")
        values = [row["psnr"] for row in json.loads(file.read_text())]
        return [a - b for a, b in zip(values, psnr(minus), strict=True)] if minus else values

    def milliseconds(seconds: dict[str, float]) -> str:
        return "{median:.3g} ms ({low:.3g} - {high:.3g})".format(**{key: 1e3 * value for key, value in seconds.items()})

    known = {
        "out": out,
        "seconds": record["seconds"],
        "said": (out / f"{check.name}.out").read_text().strip().rpartition("\n")[2],
        "facts": lambda name=check.name: read_facts(out / f"{name}.out"),
        "trained": read_facts(out / "runs" / "train" / "unet" / "run.json"),
        "psnr": psnr,
        "estimate": estimate,
        "milliseconds": milliseconds,
    }
    templates = Environment(undefined=StrictUndefined)
    return {target: templates.from_string(text).render(known) for target, text in check.rows.items()}
