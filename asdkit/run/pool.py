"""The runs of a grid, side by side: a process for each, on this process's devices and among the ranks; their tables."""

import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps

from asdkit.core.atomic import atomic, set_aside, write_text
from asdkit.core.errors import Interrupted, UsageError
from asdkit.run import machine
from asdkit.run.exits import exit_code, heeded, status
from asdkit.run.grid import Cell, Grid
from asdkit.run.side_files import csv_text, locked, read_facts, write_json
from asdkit.run.tables import markdown

_COLUMNS = ("status", "exit_code", "seconds", "iterations", "folder", "reason", "prior")
_NOT_IN_MARKDOWN = {"exit_code", "iterations", "folder", "reason", "prior"}
STOPPED = (130, 143)  # the exit codes of what a signal has ended
Start = Callable[[Sequence[str], IO[bytes], Mapping[str, str]], Any]
Ended = Callable[[], object]


def spawned(command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A new process that carries out a command."""
    # In a session of its own: a terminal's Ctrl-C reaches the pool alone, which passes it on once.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


@dataclass(frozen=True)
class Share:
    """What one of `ranks` processes does of a grid: the cells rank, rank + ranks, ..."""

    rank: int
    ranks: int
    devices: tuple[str | None, ...]  # the GPU of each of its jobs, None for a job that gets none of its own
    threads: int  # of each job


def plan(environment: Mapping[str, str], gpus: list[str], cores: int, jobs: int | None) -> Share:
    """Who does what: one job on each GPU, or one on the CPU; under a launcher, one job on the rank's own GPU."""
    launched = machine.rank_of(environment)
    rank, ranks, local = launched or (0, 1, 0)
    own: list[str | None] = [gpus[local % len(gpus)]] if launched and gpus else [*gpus] or [None]
    count = jobs or len(own)
    return Share(rank, ranks, tuple(islice(cycle(own), count)), max(1, cores // count))


def child_environment(environment: Mapping[str, str], device: str | None, threads: int) -> dict[str, str]:
    """The environment of one run: no launcher, its GPU, its number of threads unless there is one already."""
    own = {name: value for name, value in environment.items() if not machine.is_launchers(name)}
    own.setdefault("OMP_NUM_THREADS", str(threads))
    return own | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def make_runs(grid: Grid, jobs: int | None, start: Start = spawned, ended: Ended = lambda: None) -> int:
    """Make this process's share of a grid's runs, `jobs` at a time; None is one on each GPU, or one.

    What `start` starts has `poll`, `send_signal` and `wait` as a Popen has. `ended` is called whenever runs have ended.
    If a table can't be written, all end. The exit code is 0, that of the first cell that failed, 130 or 143.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1; got {jobs}.")
    grid.folder.mkdir(parents=True, exist_ok=True)
    jobs = jobs and min(jobs, max(1, len(grid.cells)))
    return Pool(grid, plan(os.environ, machine.gpus(os.environ), machine.cores(), jobs), start, ended).run()


@dataclass
class Job:
    """A run under way."""

    cell: Cell
    process: Any  # as `Start` starts it
    log: IO[bytes]
    start: float
    device: str | None


class Pool:
    """Makes one process's share of a grid's runs; the grid's folder exists."""

    def __init__(self, grid: Grid, share: Share, start: Start = spawned, ended: Ended = lambda: None) -> None:
        self.grid, self.share, self.start, self.ended = grid, share, start, ended
        self.waiting = grid.cells[share.rank :: share.ranks]
        self.free, self.jobs = list(share.devices), list[Job]()
        self.codes: dict[Path, int] = {}
        self.signals: list[int] = []

    def run(self) -> int:
        """Start runs while there are free places and no signal, until the last one has ended; the exit code."""
        count = f"{len(self.waiting)} of {len(self.grid.cells)} runs, {len(self.free)} at a time"
        print(f"{count}; {self.grid.folder}/sweep.csv", flush=True)
        # Signals are passed on between two polls, so that a run which is just being started gets them, too.
        handlers = {n: signal.signal(n, lambda n, _: self.signals.append(n)) for n in heeded() if n != signal.SIGUSR1}
        in_tables = passed_on = 0
        try:
            while self.jobs or (self.waiting and not self.signals):
                self._start_waiting()
                for number in self.signals[passed_on:]:
                    passed_on += 1
                    for job in self.jobs:
                        job.process.send_signal(number)
                self._collect_ended()
                if in_tables < len(self.codes):
                    write_tables(self.grid)
                    self.ended()
                    in_tables = len(self.codes)
                time.sleep(0.1 if self.jobs else 0)
            write_contacts(self.grid)
        finally:
            for job in self.jobs:  # none is left when all went well
                job.process.send_signal(signal.SIGTERM)
                job.process.wait()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.signals:
            return exit_code(Interrupted(self.signals[0]))
        if self.share.ranks > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
            _leave_together()
        return next(filter(None, (self.codes.get(self.grid.run_folder(cell)) for cell in self.grid.cells)), 0)

    def _start_waiting(self) -> None:
        while self.waiting and self.free and not self.signals:
            cell = self.waiting.pop(0)
            if self.grid.finished(cell):
                self._record(cell, 0, 0.0, "it was finished before")
            elif job := self._start(cell, self.free[0]):
                self.jobs.append(job)
                self.free.pop(0)
            else:
                self._record(cell, 1, 0.0, "another process is at work on it")

    def _collect_ended(self) -> None:
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            self.free.append(job.device)
            job.log.close()
            code = job.process.wait()
            if code == 0 and not self.grid.finished(job.cell):
                code = 1
            code = code if code >= 0 else 128 - code  # shells' way to write that a signal ended it
            last = Path(job.log.name).read_text(errors="replace").strip().rpartition("\n")[2].strip()
            self._record(job.cell, code, time.monotonic() - job.start, last if code else "")

    def _start(self, cell: Cell, device: str | None) -> Job | None:
        run = self.grid.run_folder(cell)
        log = record_path(self.grid, cell).with_suffix(".log").open("ab")
        if not locked(log):  # the run inherits the lock with the file, so that it ends with the run, not with the pool
            log.close()
            return None
        if run.is_dir() and not (run / "checkpoints" / "last.ckpt").is_file():
            set_aside(run)
        command = self.grid.command(cell)
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = self.start(command, log, child_environment(os.environ, device, self.share.threads))
        return Job(cell, process, log, time.monotonic(), device)

    def _record(self, cell: Cell, code: int, seconds: float, reason: str) -> None:
        run, record = self.grid.run_folder(cell), record_path(self.grid, cell)
        self.codes[run], state = code, status(code)
        write_json(record, {"status": state, "exit_code": code, "seconds": round(seconds, 1), "reason": reason})
        metrics = {} if code else self.grid.report(cell).get("metrics", {})
        words = [f"{state:<11} {row(self.grid, cell)['seconds']:7.1f} s ", *map(str, cell.labels.values())]
        words += [repr(cell.prompt), f" {run} ", *(f"{name} {value:.3g}" for name, value in metrics.items())]
        print(" ".join(words).rstrip(), flush=True)
        if code:
            print(f"{'':11} exit code {code}: {reason} ({record.with_suffix('.log')})", flush=True)


def _leave_together() -> None:
    """Wait for the other ranks: torchrun stops all of them when one ends with an exit code."""
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=14))
    distributed.barrier()
    distributed.destroy_process_group()


def record_path(grid: Grid, cell: Cell) -> Path:
    """Where status, exit code, seconds and reason are written down when the run of a cell has ended."""
    return grid.folder / f"{grid.run_folder(cell).name}.json"


def row(grid: Grid, cell: Cell) -> dict[str, Any]:
    """What is known of a cell: prompt, labels, its record, facts of its run and, when it is finished, metrics."""
    report = grid.report(cell)
    known = {"prompt": cell.prompt, **cell.labels, **dict.fromkeys(_COLUMNS)}
    known |= {"status": "waiting", "folder": str(grid.run_folder(cell))}
    known |= read_facts(record_path(grid, cell))
    known |= {name: report[name] for name in ("seconds", "iterations", "prior") if name in report}
    return known | (report.get("metrics", {}) if report.get("status") == "finished" else {})


def write_tables(grid: Grid) -> None:
    """`sweep.json`, `sweep.csv` and `sweep.md`: whichever process writes last has seen the records of all."""
    written = ""
    while written != (now := json.dumps(rows := [row(grid, cell) for cell in grid.cells])):  # NaN is like no number
        names = list(dict.fromkeys(name for known in rows for name in known))
        write_json(grid.folder / "sweep.json", rows)
        write_text(grid.folder / "sweep.csv", csv_text(rows, names))
        write_text(grid.folder / "sweep.md", markdown(rows, [n for n in names if n not in _NOT_IN_MARKDOWN]))
        written = now


def write_contacts(grid: Grid) -> None:
    """`sweep.png`: the runs' contact sheets, half as large or smaller, in the tables' order; white where one lacks."""
    files = [grid.run_folder(cell) / "contact.png" for cell in grid.cells]
    columns, scale = math.isqrt(len(files) - 1) + 1, min(0.5, 8 / math.sqrt(len(files)))
    pictures = {place: picture for place, file in enumerate(files) if (picture := _picture(file, scale))}
    width = max((picture.width for picture in pictures.values()), default=1)
    height = max((picture.height for picture in pictures.values()), default=1)
    sheet = Image.new("RGB", (width * columns, height * -(-len(files) // columns)), "white")
    for place, picture in pictures.items():
        sheet.paste(picture, (place % columns * width, place // columns * height))
    with atomic(grid.folder / "sweep.png") as temporary:
        sheet.save(temporary)


def _picture(file: Path, scale: float) -> Image.Image | None:
    try:
        return ImageOps.scale(Image.open(file, formats=["PNG"]).convert("RGB"), scale, Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # torn, or no picture of ours
        return None
