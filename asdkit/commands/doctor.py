"""`asdkit doctor`: what works here, what does not, and what to do about it."""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import distributions, metadata
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

import asdkit
from asdkit.core.optional import pip_install, requirements
from asdkit.core.text import local
from asdkit.core.version import version_of
from asdkit.priors.hub import answers
from asdkit.run.machine import cores as usable_cores
from asdkit.run.machine import is_launchers, nvidia_smi, rank_of

OK, NOTE, BAD = "ok", "note", "BAD"
_wrap = partial(textwrap.wrap, width=100, break_long_words=False, break_on_hyphens=False)


@dataclass
class Finding:
    """What one check found."""

    text: str  # for people, without a full stop
    state: str = OK  # or NOTE (works, but something is missing), or BAD (something required is broken)
    remedy: str = ""  # what to do; empty when there is nothing to do
    facts: dict[str, Any] = field(default_factory=dict)  # what programs need and can't read off the text

    def lines(self, name: str) -> list[str]:
        """The finding of a check as it is printed."""
        text = _wrap(self.text, initial_indent=f"{self.state:<5}{name:<10}", subsequent_indent=" " * 15)
        return text + _wrap(self.remedy, initial_indent=" " * 15 + "-> ", subsequent_indent=" " * 18)


def short(path: str | Path) -> str:
    """A path, with ~ for the home folder."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


# -------------------------------------------------- versions, and what is known to be bad

_SHOWN = ("torch", "pytorch-lightning", "diffusers", "transformers", "peft")


def _installed(package: str) -> str | None:
    return next((distribution.version for distribution in distributions(name=package)), None)


def _is_met(requirement: Requirement) -> bool:
    installed = _installed(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def packages(root: Path) -> Finding:
    """Versions against the floors, which are those of pyproject.toml."""
    needed = requirements()
    versions = {requirement.name: _installed(requirement.name) for requirement in needed}
    unmet = [requirement for requirement in needed if not _is_met(requirement)]
    if not unmet:
        text = ", ".join(f"{name} {versions.get(name)}" for name in _SHOWN)
        return Finding(f"all {len(needed)} are what asdkit needs: {text}", facts={"versions": versions})
    text = "; ".join(f"{r.name} {versions[r.name] or 'is missing'}, needed: {r.specifier}" for r in unmet)
    remedy = "pip install -U " + " ".join(f'"{requirement}"' for requirement in unmet)
    return Finding(text, BAD, remedy, {"versions": versions})


def releases(root: Path) -> Finding:
    """Releases known to be malicious or unsafe."""
    known: dict[str, str] = yaml.safe_load(Path(__file__).with_name("known_bad.yaml").read_text("utf-8"))
    bad = {requirement: what for text, what in known.items() if _is_met(requirement := Requirement(text))}
    if not bad:
        return Finding("none that is known to be malicious or unsafe")
    remedy = f"pip uninstall {' '.join(r.name for r in bad)}"
    if needed := [r for r in requirements() if r.name in {one.name for one in bad}]:
        remedy += f"; then {pip_install(needed)}"
    if any("malware" in what for what in bad.values()):
        remedy = f"change every password and token that this machine has seen; {remedy}"
    return Finding("; ".join(f"{r.name} {_installed(r.name)} {what}" for r, what in bad.items()), BAD, remedy)


def extras(root: Path) -> Finding:
    """The extras of which every package is there; of those for users, not for contributors."""
    names = [name for name in metadata("asdkit").get_all("Provides-Extra") or [] if name not in ("all", "dev", "docs")]
    lacking = {name: absent for name in names if (absent := [r for r in requirements(name) if not _is_met(r)])}
    text = f"there: {', '.join(name for name in names if name not in lacking) or 'none'}"
    if not lacking:
        return Finding(text)
    text += "".join(f"; {name} lacks {', '.join(r.name for r in absent)}" for name, absent in lacking.items())
    return Finding(text, NOTE, pip_install(chain.from_iterable(lacking.values())))


# -------------------------------------------------- the hub and its cache, the embedded prior, disks

_NEEDED_GB = {"runs": 1, "temporary files": 1, "model cache": 6}


def hub(root: Path) -> Finding:
    """The model hub and what of it is on this disk; one question, none when told to be offline."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in cache.glob("models--*"))
    kept = ": ".join(filter(None, [f"{len(models)} models are in {short(cache)}", ", ".join(models[:3])]))
    kept, facts = kept + ", ..." * (len(models) > 3), {"models": models}
    if constants.HF_HUB_OFFLINE:
        return Finding(f"offline (HF_HUB_OFFLINE is set); {kept}", facts=facts)
    if answers(constants.ENDPOINT):
        return Finding(f"{constants.ENDPOINT} answers; {kept}", facts=facts)
    remedy = "the embedded prior needs none; for others, copy HF_HOME from a machine with them, set HF_HUB_OFFLINE=1"
    return Finding(f"{constants.ENDPOINT} does not answer; {kept}", NOTE, remedy, facts)


def prior(root: Path) -> Finding:
    """The embedded prior is whole, loads, and embeds a prompt."""
    from asdkit.priors.pretrained import Pretrained
    from asdkit.scores.prior import Condition

    prior = Pretrained()
    remedy = "git checkout asdkit/toybox/weights, or install asdkit again from where you have it"
    try:
        digest = prior.digest
        if digest not in (prior.folder / "README.md").read_text():
            return Finding(f"the embedded weights are not those of this release ({digest})", BAD, remedy)
        prior.setup()
        prior.prepare([Condition("a red ball")])
    except (OSError, ValueError) as error:
        return Finding(str(error).rstrip("."), BAD, remedy)
    megabytes = round(sum(file.stat().st_size for file in prior.folder.rglob("*.safetensors")) / 1e6)
    return Finding(f"the embedded one is whole and loads ({digest}, {megabytes} MB)")


def disk(root: Path) -> Finding:
    """The space that is free where files are written."""
    from huggingface_hub import constants

    places = dict(zip(_NEEDED_GB, (root, Path(tempfile.gettempdir()), Path(constants.HF_HUB_CACHE)), strict=True))
    free = {name: shutil.disk_usage(_existing(path)).free / 2**30 for name, path in places.items()}
    text = "; ".join(f"{name} {free[name]:.1f} GB free ({short(path)})" for name, path in places.items())
    lacking = ", ".join(f"{name} ({needed} GB)" for name, needed in _NEEDED_GB.items() if free[name] < needed)
    if not lacking:
        return Finding(text)
    return Finding(text, NOTE, f"make room for {lacking}; --run.root, TMPDIR and HF_HOME name other places")


def runs(root: Path) -> Finding:
    """Whether the folder of all runs can be written to, or made."""
    folder = _existing(root)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"asdkit")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding(f"{folder} can't be written to ({reason})", BAD, "choose another --run.root")
    return Finding(f"{short(root)} is writable")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


# -------------------------------------------------- what computes, and a launcher's ranks

_ABOUT_RANKS = re.compile(r"(.*_)?(RANK|SIZE|PROCID|NTASKS|STEP_NUM_TASKS|LOCALID|JOB_ID|NNODES|MASTER_ADDR)")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def torch(root: Path) -> Finding:
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

    [folder] = {kernel.stats.cache_path for kernel in numba_backend._forward.values()}
    return Finding(f"{version_of('numba')}, compiled code is kept in {short(folder)}")


def cores(root: Path) -> Finding:
    """Cores, and the threads that torch would run on them."""
    import torch

    usable, threads = usable_cores(), torch.get_num_threads()
    settings = "".join(f", {name}={os.environ[name]}" for name in _THREADS if name in os.environ)
    running = f"{threads} thread{'s' * (threads != 1)}"
    text = f"{usable} of {os.cpu_count()} cores may be used; torch uses {running}{settings}"
    if threads > usable:
        return Finding(text, NOTE, f"export OMP_NUM_THREADS={usable}: more threads than cores are slower")
    return Finding(text)


def launcher(root: Path) -> Finding:
    """Variables that make processes a group, torchrun's, SLURM's and MPI's."""
    rank = rank_of(os.environ)
    names = [name for name in sorted(os.environ) if is_launchers(name) and _ABOUT_RANKS.fullmatch(name)]
    text = f"rank {rank[0]} of {rank[1]}" if rank else "none: this is a process of its own"
    return Finding(text + "".join(f", {name}={os.environ[name]}" for name in names))


CHECKS: dict[str, Callable[[Path], Finding]] = {  # the quick ones first; each is given the folder of all runs
    check.__name__: check
    for check in (packages, releases, extras, disk, runs, launcher, hub, torch, cuda, gsplat, cores, numba, prior)
}


def run(options: Namespace) -> int:
    """Look at everything and print what was found; returns 0, or 3 when something required is broken."""
    where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if not options.json:
        print(f"asdkit {asdkit.__version__}, {where}", flush=True)
    findings: dict[str, Finding] = {}
    for name, check in CHECKS.items():
        try:
            with redirect_stdout(sys.stderr):  # libraries greet
                findings[name] = check(local(options.root))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            findings[name] = Finding(f"the check failed ({reason})", BAD, "install what it names again, or report this")
        if not options.json:
            print("\n".join(findings[name].lines(name)), flush=True)
    broken = [name for name, finding in findings.items() if finding.state == BAD]
    told = {name: asdict(finding) for name, finding in findings.items()}
    report = {"asdkit": asdkit.__version__, "where": where, "broken": broken, "checks": told}
    verdict = f"Broken: {', '.join(broken)}." if broken else "All that is required works."
    print(json.dumps(report, indent=2) if options.json else verdict)
    return 3 if broken else 0
