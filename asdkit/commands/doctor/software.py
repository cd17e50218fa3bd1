"""Versions: of Python and of packages, against what pyproject.toml asks for and what is known to be bad."""

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from asdkit.commands.doctor.finding import BAD, NOTE, Finding

_MALWARE = "is malware (GHSA-w37p-236h-pfx3)"
KNOWN_BAD = (
    ("pytorch-lightning", ">=2.6.2,<=2.6.3", _MALWARE),
    ("lightning", ">=2.6.2,<=2.6.3", _MALWARE),
    ("diffusers", "<0.38", "runs a model's code unasked (CVE-2026-44513)"),
    ("transformers", "<5.3", "runs code that a model's config.json names (CVE-2026-4372)"),
)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _requirements(extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for, as it was installed: of an extra, or of asdkit itself."""
    all_of_them = [Requirement(text) for text in requires("asdkit") or []]
    if not extra:
        return [r for r in all_of_them if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [r for r in all_of_them if r.marker and r.marker.evaluate({"extra": extra}) and "extra" in str(r.marker)]


def _unmet(requirements: list[Requirement]) -> dict[Requirement, str | None]:
    """The requirements that are not met, with the version found."""
    found = {requirement: _installed(requirement.name) for requirement in requirements}
    return {r: v for r, v in found.items() if v is None or not r.specifier.contains(v, prereleases=True)}


def python(root: Path) -> Finding:
    here, needed = platform.python_version(), metadata("asdkit")["Requires-Python"]
    if SpecifierSet(needed).contains(here, prereleases=True):
        return Finding(here, facts={"version": here})
    return Finding(f"{here}, but asdkit needs {needed}", BAD, "make a venv of another Python", {"version": here})


def packages(root: Path) -> Finding:
    """Versions against the floors, which are those of pyproject.toml."""
    needed = _requirements()
    facts = {"versions": {r.name: _installed(r.name) for r in needed}, "needed": {r.name: str(r) for r in needed}}
    unmet = _unmet(needed)
    if not unmet:
        shown = ("torch", "pytorch-lightning", "diffusers", "transformers", "peft")
        versions = ", ".join(f"{name} {facts['versions'].get(name)}" for name in shown)
        return Finding(f"all {len(needed)} are what asdkit needs: {versions}", facts=facts)
    text = "; ".join(f"{r.name} {found or 'is missing'}, needed: {r.specifier}" for r, found in unmet.items())
    return Finding(text, BAD, f"pip install -U {' '.join(chr(34) + str(r) + chr(34) for r in unmet)}", facts)


def releases(root: Path) -> Finding:
    """Releases known to be malicious or unsafe."""
    known = [(name, what, _installed(name)) for name, bad, what in KNOWN_BAD if _is_within(_installed(name), bad)]
    facts = {"known_bad": [f"{name} {found}" for name, _, found in known]}
    if not known:
        return Finding("none that is known to be malicious or unsafe", facts=facts)
    names = " ".join(dict.fromkeys(name for name, _, _ in known))
    remedy = f"pip uninstall {names}; then pip install -U asdkit"
    if any(what == _MALWARE for _, what, _ in known):
        remedy = f"change every password and token that this machine has seen; {remedy}"
    return Finding("; ".join(f"{name} {found} {what}" for name, what, found in known), BAD, remedy, facts)


def _is_within(found: str | None, specifier: str) -> bool:
    return found is not None and SpecifierSet(specifier).contains(found, prereleases=True)


def extras(root: Path) -> Finding:
    names = [name for name in metadata("asdkit").get_all("Provides-Extra") or [] if name != "dev"]
    missing = {name: [r.name for r in _unmet(_requirements(name))] for name in names}
    missing = {name: packages for name, packages in missing.items() if packages}
    there = [name for name in names if name not in missing]
    facts = {"there": there, "missing": missing}
    text = f"there: {', '.join(there) or 'none'}"
    if not missing:
        return Finding(text, facts=facts)
    text += "".join(f"; {name} lacks {', '.join(packages)}" for name, packages in missing.items())
    return Finding(text, NOTE, f'pip install "asdkit[{",".join(missing)}]"', facts)
