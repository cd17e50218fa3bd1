"""The run folder: its name, whose it is, and `run.json`, which says how the run stands."""

import logging
import os
import resource
import shutil
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from asdkit.core.atomic import remove_leftovers, set_aside, write_text, writing
from asdkit.core.errors import CannotWrite, PriorUnavailable
from asdkit.core.foreign import set_root_folder
from asdkit.core.text import run_folder, slug
from asdkit.distillation import Distillation
from asdkit.run.checkpoints import AtomicCheckpointIO, fit_to
from asdkit.run.exits import exit_code, sentence, slurm_job, status
from asdkit.run.judge import Judge, figures
from asdkit.run.loggers import MetricsCSV
from asdkit.run.machine import versions
from asdkit.run.report import Report
from asdkit.run.side_files import locked, read_facts, refuse_links, write_json

_FIRST_FILES = {"config.yaml", "run.json", "run.lock"}  # that a run has before its first iteration


def new_run_folder(root: Path, recipe: str, prompt: str, name: str = "") -> Path:
    """Make `root/recipe/prompt@time`, which no other run has.

    In a SLURM job it is `prompt@job<ID>`, and what the same command has made before in the same job is found again. A
    `name` takes the place of `prompt@time`; it is a ValueError if there is such a run.
    """
    job = slurm_job()
    moment = f"job{job}" if job else time.strftime("%Y%m%d-%H%M%S")
    first = run_folder(root, recipe, name) if name else root / slug(recipe) / f"{slug(prompt)}@{moment}"
    for attempt in range(1, 100):
        folder = first if attempt == 1 else first.with_name(f"{first.name}-{attempt}")
        try:
            with writing(folder):
                folder.mkdir(parents=True)
            if job:
                write_json(folder / "run.json", {"status": "starting", "command": sys.argv})
            return folder
        except FileExistsError:
            if job and read_facts(folder / "run.json").get("command", sys.argv) == sys.argv:
                return folder  # where there is no command, another rank has just made it
            if name:
                go_on = f"choose another --run.name, or go on with asdkit fit {folder}"
                raise ValueError(f"The run {folder} exists; {go_on}.") from None
    raise ValueError(f"There are too many runs named {first.name}; choose another --run.name.")


class RunLock:
    """`run.lock` in a run folder: a ValueError if another process holds it; what an ended one has left is no lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        if self.path.is_dir():
            set_aside(self.path)
        self._take()
        while not self.is_held():  # who held it has removed the file before it was locked here
            self._file.close()
            self._take()
        with suppress(OSError):  # the disk is full, as the first file of the run will say
            self._file.truncate(0)
            self._file.write(f"Process {os.getpid()} on {socket.gethostname()}".encode())

    def _take(self) -> None:
        with writing(self.path):
            self._file = self.path.open("ab+", buffering=0)
        if not locked(self._file):
            self._file.seek(0)
            with self._file:
                whose = self._file.read().decode(errors="replace") or "Another process"
            raise ValueError(f"{whose} is at work on {self.path.parent}; wait for its end, or start another run.")

    def is_held(self) -> bool:
        """Whether the lock is where it was taken: the folder was not removed, moved or replaced meanwhile."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def check(self) -> None:
        """Raise a CannotWrite unless the folder is there, and still this process's."""
        if not self.is_held():
            raise CannotWrite(f"The run's folder {self.path.parent} was removed, moved or taken over meanwhile.")

    def release(self) -> None:
        """Let go of the lock, and remove it if it is still this process's."""
        if self.is_held():
            self.path.unlink(missing_ok=True)
        self._file.close()


class RunFolder(pl.Callback):
    """Holds a run's folder for one process, and writes `config.yaml` and `run.json`, the state of the run.

    A folder that already holds a run changes only when the checkpoint from which the run goes on fits.

    Args:
        root: the folder of all runs.
        recipe: the name of the recipe, and of the folder of its runs; the name of the first --config when empty.
        name: the name of this run's folder; `<prompt>@<time>` when empty.
    """

    def __init__(self, root: str = "runs", recipe: str = "", name: str = "") -> None:
        if not root:
            raise ValueError("run.root is empty; name the folder of all runs.")
        self.root, self.recipe, self.name = root, recipe, name
        self.config = ""  # the text of `config.yaml`, which does the run again
        self._lock: RunLock | None = None
        self._start, self._seconds_before = time.time(), 0.0
        self._begun = False

    def state_dict(self) -> dict[str, Any]:
        """The time that the run has taken, which a kill can't lose."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = float(state_dict["seconds"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        refusal: Exception | None = None
        try:
            if trainer.is_global_zero:
                refuse_links(folder := Path(trainer.default_root_dir))
                self._lock = RunLock(folder) if stage == "fit" else None
        except (ValueError, OSError) as error:  # which all ranks hear
            refusal = error
        name, refusal = trainer.strategy.broadcast((trainer.default_root_dir, refusal))
        set_root_folder(trainer, name)
        if refusal:
            raise refusal
        folder, files = Path(name), trainer.strategy.checkpoint_io
        if isinstance(files, AtomicCheckpointIO):
            max_steps = trainer.max_steps if stage == "fit" else -1
            files.folder, files.accept = folder, partial(fit_to, pl_module, max_steps)
        if stage == "fit" and not (folder / "config.yaml").exists():
            self._begin(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if isinstance(trainer.logger, MetricsCSV):
            trainer.logger.follow(trainer, prior_digest(pl_module))
        self._begin(trainer, pl_module)

    def on_train_batch_end(self, *step: Any) -> None:
        if self._lock:
            self._lock.check()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The report, which is made next, goes by `run.json`."""
        self.on_train_batch_end()
        self._write(trainer, pl_module, "running")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Make up the end of a run that was killed after its last iteration, for which Lightning begins nothing."""
        if not self._begun and read_facts(Path(trainer.default_root_dir) / "run.json").get("status") != "finished":
            pl_module.to(trainer.strategy.root_device)
            self.on_train_start(trainer, pl_module)
            for callback in trainer.callbacks:
                if isinstance(callback, RunFolder | Judge | Report):
                    callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit" and not trainer.interrupted and trainer.state.status != "interrupted":
            if self._begun:
                self.on_train_batch_end()
                self._write(trainer, pl_module, "finished", code=0)
            elif trainer.is_global_zero:
                done = f"{trainer.default_root_dir} has come to its end, after {trainer.global_step} iterations"
                print(f"asdkit: {done}; --trainer.max_steps=N goes on to N.", file=sys.stderr)
        self._let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        code = exit_code(exception)
        try:
            if self._begun and (not self._lock or self._lock.is_held()):
                folder = Path(trainer.default_root_dir)
                if code == 4 and trainer.is_global_zero and {file.name for file in folder.iterdir()} <= _FIRST_FILES:
                    shutil.rmtree(folder)  # the prior can't be had, and nothing was made
                else:
                    self._write(trainer, pl_module, status(code), sentence(exception)[:2000], code)
        except OSError as error:  # the end of the run may be that nothing can be written
            logging.getLogger(__name__).warning("%s", sentence(error))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and not self._begun:
            remove_leftovers(folder)
            if self.config:
                write_text(folder / "config.yaml", self.config)
        self._begun = True
        self._write(trainer, pl_module, "running")

    def _seconds(self) -> float:
        return time.time() - self._start + self._seconds_before

    @rank_zero_only
    def _write(self, trainer: Any, pl_module: Any, state: str, reason: str = "", code: int | None = None) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()} | figures(trainer)
        report = {
            "status": state,
            "exit_code": code,
            "reason": reason,
            "command": sys.argv,
            "recipe": self.recipe,
            "prompt": pl_module.hparams.get("prompt", ""),
            "seed": pl_module.hparams.get("seed"),
            "iterations": trainer.global_step,
            "max_steps": trainer.max_steps,
            "seconds": round(self._seconds(), 1),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(self._start)),
            "prior": prior_digest(pl_module),
            "peak_mb": {name: round(value / 1e6) for name, value in peak_memory().items()},
            "metrics": metrics,
            "versions": versions(),
            "device": str(pl_module.device),
            "processes": trainer.world_size,
            "pid": os.getpid(),
        }
        write_json(Path(trainer.default_root_dir) / "run.json", report)


def peak_memory() -> dict[str, int]:
    """The most bytes this process has held so far, of main memory (`rss`) and, if there is one, of the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"rss": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    return peaks | ({"cuda": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {})


def prior_digest(module: pl.LightningModule) -> str:
    """The fingerprint of the prior that a module distils; empty for modules without one, or when it is unreadable."""
    try:
        return module.prior.digest if isinstance(module, Distillation) else ""
    except PriorUnavailable:
        return ""
