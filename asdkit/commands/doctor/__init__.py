"""`asdkit doctor`: what works here, what does not, and what to do about it."""

import json
import platform
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import asdkit
from asdkit.commands.arguments import Arguments
from asdkit.commands.doctor import checks
from asdkit.commands.doctor.checks import BAD, Finding
from asdkit.core.text import local

CHECKS: dict[str, Callable[[Path], Finding]] = {  # the quick ones first; each is given the folder of all runs
    "python": checks.python,
    "packages": checks.packages,
    "releases": checks.releases,
    "extras": checks.extras,
    "disk": checks.disk,
    "runs": checks.runs,
    "launcher": checks.launcher,
    "hub": checks.hub,
    "torch": checks.cpu,
    "cuda": checks.cuda,
    "gsplat": checks.gsplat,
    "cores": checks.cores,
    "numba": checks.numba,
    "prior": checks.prior,
}


def add_arguments(parser: Arguments) -> None:
    """Add the options of the command."""
    parser.description = "What works here, what does not, and what to do about it."
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--run.root", dest="root", type=local, default="runs", metavar="DIR", help="folder of all runs")


def run(options: Namespace) -> int:
    """Look at everything and print what was found; returns 0, or 3 when something required is broken."""
    if not options.json:
        print(f"asdkit {asdkit.__version__} on {platform.system()} {platform.machine()}, {sys.executable}", flush=True)
    findings: dict[str, Finding] = {}
    for name, finding in examine(options.root):
        findings[name] = finding
        if not options.json:
            print("\n".join(finding.lines(name)), flush=True)
    broken = [name for name, finding in findings.items() if finding.state == BAD]
    told = {name: asdict(finding) for name, finding in findings.items()}
    report = {"asdkit": asdkit.__version__, "executable": sys.executable, "broken": broken, "checks": told}
    verdict = f"Broken: {', '.join(broken)}." if broken else "All that is required works."
    print(json.dumps(report, indent=2) if options.json else verdict)
    return 3 if broken else 0


def examine(root: Path) -> Iterator[tuple[str, Finding]]:
    """What each check finds, one after the other; one that fails unexpectedly is a broken one."""
    for name, check in CHECKS.items():
        try:
            with redirect_stdout(sys.stderr):  # libraries greet
                finding = check(root)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            finding = Finding(f"the check failed ({reason})", BAD, "install what it names again, or report this")
        yield name, finding
