"""What computes: torch on the CPU and on CUDA, gsplat's kernels, numba, cores and threads, a launcher's ranks."""

import os
import re
from collections import Counter
from pathlib import Path

from asdkit.commands.doctor.finding import BAD, NOTE, Finding, short
from asdkit.core.version import version_of
from asdkit.run.machine import cores as usable_cores
from asdkit.run.machine import is_launchers, nvidia_smi, rank_of

_ABOUT_RANKS = re.compile(r"(.*_)?(RANK|SIZE|PROCID|NTASKS|STEP_NUM_TASKS|LOCALID|JOB_ID|NNODES|MASTER_ADDR)")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def cpu(root: Path) -> Finding:
    """torch, on the CPU."""
    import torch

    if reason := _fails("cpu"):
        return Finding(f"{torch.__version__} can't multiply ({reason})", BAD, "pip install --force-reinstall torch")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Finding(f"{torch.__version__}, built {build}; computes on the CPU")


def _fails(device: str) -> str:
    """What is wrong with a small product of matrices; empty when it comes out right."""
    import torch

    try:
        ones = torch.ones(16, 16, device=device)
        return "" if bool((ones @ ones == 16).all()) else "it is wrong"
    except RuntimeError as error:
        return str(error).splitlines()[0][:120]


def cuda(root: Path) -> Finding:
    """The GPUs, as the driver and as torch see them."""
    import torch

    seen = nvidia_smi("name", "driver_version")
    if not torch.cuda.is_available():
        if not seen:
            return Finding("no GPU: everything runs on the CPU", NOTE)
        reason = "too new for the driver" if torch.version.cuda else "built without CUDA"
        remedy = f"this torch is {reason}; install the build for your driver from pytorch.org/get-started"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            remedy = "unset CUDA_VISIBLE_DEVICES, which hides it"
        return Finding(f"{seen[0][0]} is there (driver {seen[0][1]}), but torch can't use it", NOTE, remedy)
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    devices = [f"{c.name}, {round(c.total_memory / 2**30)} GB, capability {c.major}.{c.minor}" for c in cards]
    text = "; ".join(f"{count} x {name}" for name, count in Counter(devices).items())
    text += f"; driver {seen[0][1] if seen else None}"
    reasons = [reason for index in range(len(devices)) if (reason := _fails(f"cuda:{index}"))]
    if not reasons:
        return Finding(f"{text}; computes", facts={"devices": devices})
    remedy = "install a torch that is built for this card, or use the CPU: CUDA_VISIBLE_DEVICES= asdkit ..."
    return Finding(f"{text}: a product of matrices fails ({reasons[0]})", BAD, remedy, {"devices": devices})


def gsplat(root: Path) -> Finding:
    """Whether the kernels can be had; gsplat itself is not imported, for that may compile for minutes."""
    import torch

    if not torch.cuda.is_available():
        return Finding("not needed without CUDA, for numba draws Gaussians on the CPU")
    from torch.utils.cpp_extension import CUDA_HOME

    from asdkit.rendering.gsplat_kernels import NEEDS, WITHOUT, compiled_kernels

    if kernels := compiled_kernels():
        return Finding(f"kernels are compiled: {kernels[0]}")
    nvcc = Path(CUDA_HOME or "", "bin", "nvcc")
    if nvcc.is_file():
        return Finding(f"kernels will be compiled once, in minutes, at the first run, by {nvcc}", NOTE)
    remedy = f"install {NEEDS.format(cuda=torch.version.cuda)}, and set CUDA_HOME; until then {WITHOUT}"
    return Finding("no compiled kernels and no nvcc to compile them: no Gaussians on CUDA", NOTE, remedy)


def numba(root: Path) -> Finding:
    """The rasteriser's module needs a place to keep compiled code, which it looks for when it is imported."""
    from asdkit.rendering import numba_backend

    return Finding(f"{version_of('numba')}, compiled code is kept in {short(numba_backend._forward.stats.cache_path)}")


def cores(root: Path) -> Finding:
    """Cores, and the threads that torch would run on them."""
    import torch

    usable, threads = usable_cores(), torch.get_num_threads()
    settings = "".join(f", {name}={os.environ[name]}" for name in _THREADS if name in os.environ)
    text = f"{usable} of {os.cpu_count()} cores may be used; torch uses {threads} threads{settings}"
    if threads > usable:
        return Finding(text, NOTE, f"export OMP_NUM_THREADS={usable}: more threads than cores are slower")
    return Finding(text)


def launcher(root: Path) -> Finding:
    """Variables that make processes a group, torchrun's, SLURM's and MPI's."""
    rank = rank_of(os.environ)
    names = [name for name in sorted(os.environ) if is_launchers(name) and _ABOUT_RANKS.fullmatch(name)]
    text = f"rank {rank[0]} of {rank[1]}" if rank else "none: this is a process of its own"
    return Finding(text + "".join(f", {name}={os.environ[name]}" for name in names))
