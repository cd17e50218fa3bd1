"""Versions: of Python and of packages, against what pyproject.toml asks for and what is known to be bad."""

import platform
from importlib.metadata import distributions, metadata
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from asdkit.commands.doctor.finding import BAD, NOTE, Finding
from asdkit.core.optional import pip_install, requirements

_MALWARE = "is malware (GHSA-w37p-236h-pfx3)"
KNOWN_BAD = {
    "pytorch-lightning>=2.6.2,<=2.6.3": _MALWARE,
    "lightning>=2.6.2,<=2.6.3": _MALWARE,
    "diffusers<0.38": "runs a model's code unasked (CVE-2026-44513)",
    "transformers<5.3": "runs code that a model's config.json names (CVE-2026-4372)",
}
_SHOWN = ("torch", "pytorch-lightning", "diffusers", "transformers", "peft")


def _installed(package: str) -> str | None:
    return next((distribution.version for distribution in distributions(name=package)), None)


def _is_met(requirement: Requirement) -> bool:
    installed = _installed(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def python(root: Path) -> Finding:
    """Python itself."""
    running, needed = platform.python_version(), metadata("asdkit")["Requires-Python"]
    if SpecifierSet(needed).contains(running, prereleases=True):
        return Finding(running)
    return Finding(f"{running}, but asdkit needs {needed}", BAD, "make a venv of another Python")


def packages(root: Path) -> Finding:
    """Versions against the floors, which are those of pyproject.toml."""
    needed = requirements()
    versions = {requirement.name: _installed(requirement.name) for requirement in needed}
    facts = {"versions": versions}
    unmet = [requirement for requirement in needed if not _is_met(requirement)]
    if not unmet:
        text = ", ".join(f"{name} {versions.get(name)}" for name in _SHOWN)
        return Finding(f"all {len(needed)} are what asdkit needs: {text}", facts=facts)
    text = "; ".join(f"{r.name} {versions[r.name] or 'is missing'}, needed: {r.specifier}" for r in unmet)
    return Finding(text, BAD, "pip install -U " + " ".join(f'"{requirement}"' for requirement in unmet), facts)


def releases(root: Path) -> Finding:
    """Releases known to be malicious or unsafe."""
    bad = {requirement: what for text, what in KNOWN_BAD.items() if _is_met(requirement := Requirement(text))}
    if not bad:
        return Finding("none that is known to be malicious or unsafe")
    remedy = f"pip uninstall {' '.join(r.name for r in bad)}"
    if needed := [r for r in requirements() if r.name in {one.name for one in bad}]:
        remedy += f"; then {pip_install(needed)}"
    if _MALWARE in bad.values():
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
