"""What this process runs on, found without torch: cores, GPUs, the ranks of a launcher, and packages."""

import os
import platform
import subprocess
from collections.abc import Mapping

from asdkit.core.version import __version__, version_of

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun; a batch script has SLURM_NTASKS, but no step
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # mpirun
)
_PACKAGES = ("torch", "pytorch-lightning", "diffusers", "transformers", "peft", "gsplat", "numpy", "numba")
_SHARED = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_WORLD_SIZE"}
_PREFIXES = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "GROUP_", "ROLE_")


def cores() -> int:
    """Number of cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def nvidia_smi(*fields: str) -> list[list[str]]:
    """What the driver says of each GPU, e.g. of its "name", by `nvidia-smi`; nothing where there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that a process of this environment sees, as CUDA_VISIBLE_DEVICES takes them."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return [index for (index,) in nvidia_smi("index")]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def rank_of(environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Rank, number of ranks and rank on this machine, as a launcher has set them; None without a launcher."""
    for names in LAUNCHERS:
        if names[0] in environment and names[1] in environment:
            rank, size, local = (environment.get(name, "0") for name in names)
            return int(rank), int(size), int(local)
    return None


def is_launchers(name: str) -> bool:
    """Whether an environment variable makes a process join the group of a launcher."""
    return name in _SHARED or name.startswith(_PREFIXES) or any(name in names for names in LAUNCHERS)


def versions() -> dict[str, str]:
    """The versions of asdkit, of Python, and of the packages that what a run makes depends on."""
    own = {"asdkit": __version__, "python": platform.python_version()}
    return own | {package: version_of(package) for package in _PACKAGES}
