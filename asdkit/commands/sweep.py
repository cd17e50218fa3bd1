"""`asdkit sweep`: a run for each prompt of a file, several at a time, spread over the ranks of a launcher."""

import csv
import fcntl
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import yaml

from asdkit.commands.arguments import Arguments, expand
from asdkit.core.atomic import write_text
from asdkit.core.errors import UsageError
from asdkit.core.text import recipe_slug, slug
from asdkit.run.machine import cores, gpus, is_launchers, rank_of

DESCRIPTION = """A run for each line of a file, in a process of its own. Started again with the same options, it goes
on: finished prompts are left alone, others continue from their last checkpoint. All further options are those of
asdkit fit. Started by torchrun or srun, each rank takes its share."""
COLUMNS = ("prompt", "status", "exit_code", "seconds", "iterations", "folder", "reason")
CANNOT_WRITE = 7
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Share:
    """What one process of a sweep does, and on what.

    Attributes:
        rank: it takes the prompts rank, rank + ranks, ...
        ranks: number of processes that share the prompts.
        devices: the GPU of each of its jobs; None for a job that gets none of its own.
        threads: of each job.
    """

    rank: int
    ranks: int
    devices: tuple[str | None, ...]
    threads: int


def plan(environment: Mapping[str, str], gpus: list[str], cores: int, jobs: int | None) -> Share:
    """Who does what: one job on each GPU, or one on the CPU; under a launcher, one job on the rank's own GPU.

    Args:
        environment: of this process.
        gpus: that it sees.
        cores: that it may use.
        jobs: at a time, in each process; None for the usual number.
    """
    launched = rank_of(environment)
    rank, ranks, local = launched or (0, 1, 0)
    if launched and gpus:
        gpus = [gpus[local % len(gpus)]]
    count = jobs or max(1, len(gpus))
    devices = tuple(gpus[job % len(gpus)] if gpus else None for job in range(count))
    return Share(rank, ranks, devices, max(1, cores // count))


def child_environment(environment: Mapping[str, str], device: str | None, threads: int) -> dict[str, str]:
    """The environment of one run: no launcher, its GPU, its number of threads unless there is one already."""
    own = {name: value for name, value in environment.items() if not is_launchers(name)}
    own.setdefault("OMP_NUM_THREADS", str(threads))
    return own | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def read_prompts(name: str) -> list[str]:
    """The prompts of a file, or of the standard input when its name is `-`; each once, in their order.

    Raises:
        UsageError: the file can't be read, is no text, or has no prompts.
    """
    try:
        text = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"The prompts {name} can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is no text in UTF-8; give a file with one prompt per line.") from None
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    if not prompts or "\0" in text:
        raise UsageError(f"There are no prompts in {name}; give a file with one prompt per line.")
    return prompts


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command; the others are those of `asdkit fit`."""
    parser.description = DESCRIPTION
    parser.usage = "asdkit sweep PROMPTS --config RECIPE [--jobs N] [--key value ...]"
    parser.passes_on = True
    parser.add_argument("prompts", metavar="PROMPTS", help="a file with a prompt on each line, # for comments; or -")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one on each GPU, or 1)")


def run(options: Namespace) -> int:
    """Make the runs; returns the process's exit code: 0, that of the first run that failed, 130 or 143.

    Args:
        options: what `add_arguments` has added, and those of `asdkit fit`.

    Raises:
        UsageError: no prompts, no recipe, or an option that a sweep sets itself.
    """
    if options.given[0] != options.prompts:
        raise UsageError("sweep: the file of prompts comes first: asdkit sweep PROMPTS --config RECIPE.")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"sweep: --jobs must be at least 1; got {options.jobs}.")
    if options.prompts == "-" and rank_of(os.environ):
        raise UsageError("sweep: each rank of a launcher reads the prompts; give them in a file.")
    for flag in ("--model.prompt", "--model.target", "--run.name", "--ckpt_path"):
        if values(options.of_fit, flag):
            raise UsageError(f"sweep: {flag} is different for each run, so it can't be given.")
    share = plan(os.environ, gpus(os.environ), cores(), options.jobs)
    sweep = Sweep(read_prompts(options.prompts), options.of_fit, Path(options.prompts).stem)
    try:
        return sweep.run(share)
    except OSError as error:
        print(f"asdkit: sweep: {error}; started again, it goes on.", file=sys.stderr)
        return CANNOT_WRITE


def values(options: list[str], flag: str) -> list[str]:
    """All values that an option is given."""
    return [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in pairwise([*options, ""])
        if argument.partition("=")[0] == flag
    ]


@dataclass
class Job:
    """A run under way."""

    prompt: str
    process: subprocess.Popen
    log: IO[bytes]
    start: float
    device: str | None
    signals: int = 0


class Sweep:
    """Runs of one recipe with the same options, one for each prompt.

    The runs' names hold a hash of the prompt, the options and the recipe's text, so that a sweep that is started again
    finds its own runs and no others. Logs, a record of each prompt and the tables are in `sweep-<file>-<hash>`.

    Args:
        prompts: of all ranks.
        options: of `asdkit fit`.
        title: of the sweep's folder.

    Raises:
        UsageError: an unknown recipe or none.
    """

    def __init__(self, prompts: list[str], options: list[str], title: str) -> None:
        expanded, run = expand("fit", options)
        paths = [Path(text) for flag in ("--config", "-c") for text in values(expanded, flag) if text[0] != "{"]
        if run is not None or not paths:
            raise UsageError("sweep: needs one file of prompts and a recipe: asdkit sweep PROMPTS --config RECIPE.")
        texts = [path.read_bytes() for path in paths]
        given = {key: value for text in texts for key, value in _section(text, "run").items() if value}
        given |= {key: value[-1] for key in ("root", "recipe") if (value := values(expanded, f"--run.{key}"))}
        self.parent = Path(given.get("root", "runs"), slug(given.get("recipe") or recipe_slug(paths[0])))
        self.key = hashlib.sha256(b"\0".join([*map(os.fsencode, options), *texts])).hexdigest()
        self.folder = self.parent / f"sweep-{slug(title)}-{self.key[:8]}"
        self.prompts, self.options = prompts, options
        self.signals: list[int] = []

    def run_folder(self, prompt: str) -> Path:
        """The folder of the run of a prompt."""
        digest = hashlib.sha256(f"{self.key}{prompt}".encode()).hexdigest()
        return self.parent / f"{slug(prompt, 40)}-{digest[:8]}"

    def command(self, prompt: str) -> list[str]:
        """What makes the run of a prompt, or goes on with it from its last checkpoint."""
        run = self.run_folder(prompt)
        fit = [sys.executable, "-P", "-m", "asdkit", "fit"]  # no file in this folder takes the place of a library
        if (run / "checkpoints" / "last.ckpt").is_file():
            return [*fit, str(run), *(f"--trust={package}" for package in values(self.options, "--trust"))]
        place = [f"--run.root={self.parent.parent}", f"--run.recipe={self.parent.name}", f"--run.name={run.name}"]
        return [*fit, *self.options, *place, "--model.prompt", prompt]

    def run(self, share: Share) -> int:
        """Make this process's share of the runs; returns the exit code.

        Args:
            share: of the work.
        """
        waiting = self.prompts[share.rank :: share.ranks]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} can't be made ({error.strerror}); choose another --run.root.") from None
        print(
            f"{len(waiting)} of {len(self.prompts)} prompts, {len(share.devices)} at a time; {self.folder}/sweep.csv",
            flush=True,
        )
        codes: dict[str, int] = {}
        heed = {number: signal.signal(number, self._heed) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._work(waiting, share, codes)
        finally:
            for number, handler in heed.items():
                signal.signal(number, handler)
        if self.signals:
            return 128 + self.signals[0]
        if share.ranks > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
            _leave_together()
        return next((codes[prompt] for prompt in self.prompts if codes.get(prompt)), 0)

    def _work(self, waiting: list[str], share: Share, codes: dict[str, int]) -> None:
        """Start runs while there are free places and no signal, until the last one has ended."""
        free, jobs = list(share.devices), []
        try:
            while jobs or (waiting and not self.signals):
                while waiting and free and not self.signals:
                    prompt = waiting.pop(0)
                    started = self._start(prompt, free[0], share.threads)
                    if isinstance(started, Job):
                        free.pop(0)
                        jobs.append(started)
                    else:
                        codes[prompt] = started
                for job in jobs:
                    for number in self.signals[job.signals :]:
                        job.process.send_signal(number)
                        job.signals += 1
                for job in [job for job in jobs if job.process.poll() is not None]:
                    jobs.remove(job)
                    free.append(job.device)
                    codes[job.prompt] = self._ended(job)
                time.sleep(_POLL_SECONDS if jobs else 0)
        finally:  # none is left when all went well
            for job in jobs:
                job.process.terminate()
                job.process.wait()

    def _heed(self, number: int, frame: Any) -> None:
        """Signals are passed on between two polls, so that a run which is just being started gets them, too."""
        self.signals.append(number)

    def _start(self, prompt: str, device: str | None, threads: int) -> Job | int:
        """Start the run of a prompt; an exit code when there is nothing to start."""
        run = self.run_folder(prompt)
        if _report(run).get("status") == "finished":
            self._record(prompt, 0, "finished", 0.0, "it was finished before")
            return 0
        log = (self.folder / f"{run.name}.log").open("ab")
        if not _locked(log):
            log.close()
            self._record(prompt, 1, "failed", 0.0, "another process is at work on it")
            return 1
        if run.is_dir() and not (run / "checkpoints" / "last.ckpt").is_file():
            run.rename(run.with_name(f"{run.name}-before-{time.strftime('%Y%m%d-%H%M%S')}"))
        command = self.command(prompt)
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(os.environ, device, threads),
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
        )
        return Job(prompt, process, log, time.monotonic(), device)

    def _ended(self, job: Job) -> int:
        job.log.close()
        code = job.process.returncode
        if code == 0 and _report(self.run_folder(job.prompt)).get("status") != "finished":
            code = 1
        code = code if code >= 0 else 128 - code  # shells' way to write that a signal ended it
        status = {0: "finished", 130: "interrupted", 143: "interrupted"}.get(code, "failed")
        lines = Path(job.log.name).read_text(errors="replace").split("\n")
        last = next(line.strip() for line in reversed(lines) if line.strip())
        self._record(job.prompt, code, status, time.monotonic() - job.start, last if code else "")
        return code

    def _record(self, prompt: str, code: int, status: str, seconds: float, reason: str) -> None:
        """Print what became of a prompt, and write it down, in a record of its own and in the tables."""
        run = self.run_folder(prompt)
        report = _report(run)
        metrics = report.get("metrics", {}) if status == "finished" else {}
        total = report.get("seconds", round(seconds, 1))
        row = dict(zip(COLUMNS, (prompt, status, code, total, report.get("iterations"), str(run), reason), strict=True))
        write_text(self.folder / f"{run.name}.json", json.dumps(row | {"metrics": metrics}, indent=2) + "\n")
        shown = " ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        print(f"{status:<11} {total:7.1f} s  {prompt!r}  {run}  {shown}".rstrip(), flush=True)
        if code:
            print(f"{'':11} exit code {code}: {reason} ({self.folder / run.name}.log)", flush=True)
        self.write_tables()

    def write_tables(self) -> None:
        """`sweep.json` and `sweep.csv`, of all ranks' prompts: whoever writes last has seen the records of all."""
        written: list[dict[str, Any]] | None = None
        while written != (rows := self._rows()):
            write_text(self.folder / "sweep.json", json.dumps(rows, indent=2) + "\n")
            names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
            table = io.StringIO()
            writer = csv.DictWriter(table, [*COLUMNS, *names], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | row["metrics"] for row in rows)
            write_text(self.folder / "sweep.csv", table.getvalue())
            written = rows

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for prompt in self.prompts:
            run = self.run_folder(prompt)
            record = self.folder / f"{run.name}.json"
            nothing = dict.fromkeys(COLUMNS) | {
                "prompt": prompt,
                "status": "waiting",
                "folder": str(run),
                "metrics": {},
            }
            rows.append(json.loads(record.read_text()) if record.is_file() else nothing)
        return rows


def _leave_together() -> None:
    """Wait for the other ranks: torchrun stops all of them when one ends with an exit code."""
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=14))
    distributed.barrier()
    distributed.destroy_process_group()


def _report(run: Path) -> dict[str, Any]:
    """The run.json of a run, if there is one."""
    path = run / "run.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _locked(log: IO[bytes]) -> bool:
    """Lock a log. The run inherits the lock with the file, so that it outlives this process, and ends with the run."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _section(text: bytes, name: str) -> dict[str, Any]:
    """A section of a recipe; what is wrong with a recipe is said by the runs."""
    try:
        section = yaml.safe_load(text)[name]
    except (yaml.YAMLError, KeyError, TypeError):
        return {}
    return section if isinstance(section, dict) else {}
