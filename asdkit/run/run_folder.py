"""The run folder: its name, `metrics.csv`, and `run.json`, which says how the run stands."""

import json
import logging
import os
import platform
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from asdkit.core.atomic import remove_leftovers, write_text, writing
from asdkit.core.errors import CannotWrite, PriorUnavailable
from asdkit.core.foreign import set_root_folder
from asdkit.core.text import run_folder, slug
from asdkit.core.version import __version__
from asdkit.distillation import Distillation
from asdkit.run.exits import exit_code, sentence, status
from asdkit.run.judge import Judge
from asdkit.run.signals import slurm_job

_log = logging.getLogger(__name__)
_PACKAGES = ("torch", "pytorch-lightning", "diffusers", "transformers", "peft", "jsonargparse", "numpy", "numba")


def new_run_folder(root: Path, recipe: str, prompt: str, name: str = "") -> Path:
    """Make `root/recipe/prompt@time`, which no other run has.

    In a SLURM job it is `prompt@job<ID>`, and what the same command has made before in the same job is found again.

    Args:
        root: folder of all runs.
        recipe: name of the recipe.
        prompt: the run's prompt; may be empty.
        name: the folder's name in the place of `prompt@time`.

    Raises:
        ValueError: the folder can't be made, or a run of this name exists.
        CannotWrite: the disk is full or read-only, or the root is somebody else's.
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
                write_text(folder / "run.json", json.dumps({"status": "starting", "command": sys.argv}) + "\n")
            return folder
        except CannotWrite:
            raise
        except FileExistsError:
            if job and _command(folder) in ([], sys.argv):
                return folder
            if name:
                raise ValueError(
                    f"The run {folder} exists; choose another --run.name, or go on with asdkit fit {folder}."
                ) from None
        except OSError as error:
            raise ValueError(
                f"The run folder {folder} can't be made ({error.strerror}); choose another --run.root."
            ) from None
    raise ValueError(f"There are too many runs named {first.name}; choose another --run.name.")


def _command(folder: Path) -> list[str]:
    """The command line of a run; empty where another rank has just made its folder."""
    path = folder / "run.json"
    return json.loads(path.read_text()).get("command", []) if path.is_file() else []


class MetricsCSV(CSVLogger):
    """`metrics.csv` in the run folder, each row with the prior's digest; a resumed run keeps the older rows beside it.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        old = folder / "metrics.csv"
        if rank_zero_only.rank == 0 and old.is_file():
            old.rename(folder / f"metrics-before-{time.strftime('%Y%m%d-%H%M%S')}.csv")
        super().__init__(folder, name="", version="")
        self._trainer: pl.Trainer | None = None
        self._digest = ""

    def follow(self, trainer: pl.Trainer, digest: str) -> None:
        """Count by the trainer's iterations (Lightning's own count of batches starts at 0) and name the prior."""
        self._trainer, self._digest = trainer, digest

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        step = self._trainer.global_step if self._trainer else step
        super().log_metrics(metrics | ({"prior": self._digest} if self._digest else {}), step)

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


class RunFolder(pl.Callback):
    """Writes `run.json`: status, versions, seed, seconds, iterations, metrics and the prior's digest.

    Args:
        root: folder of all runs.
        recipe: name of the recipe, the folder of its runs; that of the first --config when empty.
        name: name of this run's folder; `<prompt>@<time>` when empty.
    """

    def __init__(self, root: str = "runs", recipe: str = "", name: str = "") -> None:
        if not root:
            raise ValueError("run.root is empty; name the folder of all runs.")
        self.root, self.recipe, self.name = root, recipe, name
        self._start = time.time()
        self._written_before: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        set_root_folder(trainer, trainer.strategy.broadcast(trainer.default_root_dir))
        if stage != "fit":
            return
        if trainer.is_global_zero:
            remove_leftovers(Path(trainer.default_root_dir))
        path = Path(trainer.default_root_dir) / "run.json"
        if path.is_file():
            self._written_before = json.loads(path.read_text())
        self._write(trainer, pl_module, "running")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.logger, MetricsCSV):
            trainer.logger.follow(trainer, prior_digest(pl_module))
        self._write(trainer, pl_module, "running")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.interrupted and trainer.state.status != "interrupted":
            self._write(trainer, pl_module, "finished", code=0)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.state.fn != "fit":
            return
        code = exit_code(exception)
        try:
            self._write(trainer, pl_module, status(code), sentence(exception)[:2000], code)
        except OSError as error:  # the end of the run may be that nothing can be written
            _log.warning("%s", sentence(error))

    @rank_zero_only
    def _write(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, state: str, reason: str = "", code: int | None = None
    ) -> None:
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for callback in trainer.callbacks:
            numbers |= callback.results if isinstance(callback, Judge) else {}
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
            "seconds": round(time.time() - self._start + self._written_before.get("seconds", 0.0), 1),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(self._start)),
            "prior": prior_digest(pl_module),
            "peak_mb": {name: round(value / 1e6) for name, value in peak_memory().items()},
            "metrics": numbers,
            "versions": {"asdkit": __version__, "python": platform.python_version(), **_versions()},
            "device": str(pl_module.device),
            "processes": trainer.world_size,
            "pid": os.getpid(),
        }
        write_text(Path(trainer.default_root_dir) / "run.json", json.dumps(report, indent=2) + "\n")


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


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
