"""What computes: torch on the CPU and on CUDA, gsplat's kernels, numba, cores and threads, a launcher's ranks."""

import importlib.util
import os
import re
import shutil
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from asdkit.commands.doctor.finding import BAD, NOTE, Finding, short
from asdkit.run.machine import cores as usable_cores
from asdkit.run.machine import is_launchers, nvidia_smi, rank_of


def cpu(root: Path) -> Finding:
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    facts = {"version": torch.__version__, "cuda": torch.version.cuda}
    if not _computes("cpu"):
        return Finding(f"{torch.__version__} can't multiply", BAD, "pip install --force-reinstall torch", facts)
    return Finding(f"{torch.__version__}, built {build}; computes on the CPU", facts=facts)


def _computes(device: str) -> bool:
    """Whether a small product of matrices comes out right."""
    import torch

    ones = torch.ones(16, 16, device=device)
    return bool((ones @ ones == 16).all())


def cuda(root: Path) -> Finding:
    import torch

    seen = nvidia_smi("name", "driver_version")
    driver = seen[0][1] if seen else None
    if not torch.cuda.is_available():
        facts = {"available": False, "driver": driver, "devices": []}
        if not seen:
            return Finding("no GPU: everything runs on the CPU", NOTE, facts=facts)
        remedy = f"this torch is {'too new for the driver' if torch.version.cuda else 'built without CUDA'}; install "
        remedy += "the build for your driver from pytorch.org/get-started"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            remedy = "unset CUDA_VISIBLE_DEVICES, which hides it"
        return Finding(f"{seen[0][0]} is there (driver {driver}), but torch can't use it", NOTE, remedy, facts)
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    devices = [
        {"name": card.name, "memory_gb": round(card.total_memory / 2**30), "capability": f"{card.major}.{card.minor}"}
        for card in cards
    ]
    facts = {"available": True, "driver": driver, "devices": devices}
    counts = Counter(f"{d['name']}, {d['memory_gb']} GB, capability {d['capability']}" for d in devices)
    text = "; ".join(f"{count} x {name}" for name, count in counts.items()) + f"; driver {driver}"
    try:
        reason = "" if all(_computes(f"cuda:{index}") for index in range(len(cards))) else "it is wrong"
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
    if not reason:
        return Finding(f"{text}; computes", facts=facts)
    remedy = "install a torch that is built for this card, or use the CPU: CUDA_VISIBLE_DEVICES= asdkit ..."
    return Finding(f"{text}: a product of matrices fails ({reason})", BAD, remedy, facts)


def gsplat(root: Path) -> Finding:
    """Whether the kernels can be had; gsplat itself is not imported, for that may compile for minutes."""
    import torch

    spec = importlib.util.find_spec("gsplat")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    built = [str(file) for folder in folders for file in folder.glob("csrc*.so")] or _compiled_kernels()
    nvcc = _nvcc()
    facts = {"kernels": built, "nvcc": nvcc}
    if not torch.cuda.is_available():
        return Finding("not needed without CUDA, for numba draws Gaussians on the CPU", facts=facts)
    if built:
        return Finding(f"kernels are compiled: {built[0]}", facts=facts)
    if nvcc:
        return Finding(f"kernels will be compiled once, in minutes, at the first run, by {nvcc}", NOTE, facts=facts)
    remedy = f"install the CUDA toolkit {torch.version.cuda} (nvcc) and set CUDA_HOME; until then "
    remedy += "--trainer.accelerator=cpu, or --model.generator=NeRF, which needs no gsplat"
    return Finding("no compiled kernels and no nvcc to compile them: no Gaussians on CUDA", NOTE, remedy, facts)


def _compiled_kernels() -> list[str]:
    """gsplat's compiled kernels, where torch keeps those of this Python and CUDA."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    tag = f"py{sys.version_info.major}{sys.version_info.minor}_cu{(torch.version.cuda or '').replace('.', '')}"
    folder = Path(own) if own else Path(get_default_build_root(), tag)
    return [str(file) for file in [folder / "gsplat_cuda" / "gsplat_cuda.so"] if file.is_file()]


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    inside = Path(home, "bin", "nvcc")
    return str(inside) if inside.is_file() else shutil.which("nvcc")


def numba(root: Path) -> Finding:
    """The rasteriser's module needs a place to keep compiled code, which it looks for when it is imported."""
    from asdkit.rendering import numba_backend as numba_raster

    cache = numba_raster._forward.stats.cache_path
    return Finding(f"{version('numba')}, compiled code is kept in {short(cache)}", facts={"cache": cache})


def cores(root: Path) -> Finding:
    import torch

    usable, threads = usable_cores(), torch.get_num_threads()
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    settings = {name: os.environ[name] for name in names if name in os.environ}
    facts = {"usable": usable, "of": os.cpu_count(), "threads": threads, "settings": settings}
    shown = "".join(f", {name}={value}" for name, value in settings.items())
    text = f"{usable} of {os.cpu_count()} cores may be used; torch uses {threads} threads{shown}"
    if threads > usable:
        return Finding(text, NOTE, f"export OMP_NUM_THREADS={usable}: more threads than cores are slower", facts)
    return Finding(text, facts=facts)


def launcher(root: Path) -> Finding:
    """Variables that make processes a group, torchrun's, SLURM's and MPI's."""
    shown = re.compile(r"(.*_)?(RANK|SIZE|PROCID|NTASKS|STEP_NUM_TASKS|LOCALID|JOB_ID|NNODES|MASTER_ADDR)")
    seen = {name: value for name, value in sorted(os.environ.items()) if is_launchers(name) and shown.fullmatch(name)}
    ranks = rank_of(os.environ)
    facts = {"rank": ranks[0] if ranks else None, "ranks": ranks[1] if ranks else None, "variables": seen}
    text = f"rank {ranks[0]} of {ranks[1]}" if ranks else "none: this is a process of its own"
    return Finding(text + "".join(f", {name}={value}" for name, value in seen.items()), facts=facts)
