"""gsplat's CUDA kernels: where they are once they are compiled, and what is said where they can't be."""

import importlib.util
import logging
import os
import sys
from functools import cache
from pathlib import Path
from subprocess import SubprocessError

import torch

from asdkit.core.errors import MissingExtra
from asdkit.core.text import first_line

_log = logging.getLogger(__name__)
NEEDS = "the CUDA toolkit {cuda} (nvcc) and a C++ compiler, to compile its kernels once"
WITHOUT = "--trainer.accelerator=cpu, or --model.generator=NeRF, does without"


@cache
def load_kernels() -> None:
    """Let gsplat load its kernels, which it compiles for minutes at first; a MissingExtra where they can't be."""
    if not compiled_kernels():
        _log.warning("gsplat compiles its CUDA kernels now; that takes minutes, once.")
    try:
        from gsplat.cuda._backend import _C

        reason = "" if _C else "there is no nvcc"
    except (ImportError, RuntimeError, OSError, SubprocessError) as error:
        reason = first_line(error)[:200]
    if reason:
        needs = f"which needs {NEEDS.format(cuda=torch.version.cuda)} ({reason}): install them and set CUDA_HOME"
        raise MissingExtra(f"Gaussians on CUDA are drawn by gsplat, {needs}; {WITHOUT}.")


def compiled_kernels() -> list[Path]:
    """gsplat's compiled kernels: installed with it, or where torch keeps those of this Python and CUDA."""
    from torch.utils.cpp_extension import get_default_build_root

    spec = importlib.util.find_spec("gsplat")
    folders = (spec.submodule_search_locations if spec else None) or []
    installed = [file for folder in folders for file in Path(folder).glob("csrc*.so")]
    tag = f"py{sys.version_info.major}{sys.version_info.minor}_cu{(torch.version.cuda or '').replace('.', '')}"
    place = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(get_default_build_root(), tag)
    return [*installed, *Path(place, "gsplat_cuda").glob("gsplat_cuda.so")]
