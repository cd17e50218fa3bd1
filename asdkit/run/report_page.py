"""`report.html`: a run as a page, made of what its folder holds."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asdkit.core.text import clock, rendered, shown
from asdkit.run.meanings import REFERENCES, meaning
from asdkit.run.metrics_csv import logged
from asdkit.run.side_files import read_facts
from asdkit.run.tables import cell_text

_SHOTS, _WIDTH, _HEIGHT = 8, 300, 90
_OF_RUNS = ("contact.png", "config.yaml", "run.json")
_CURVES = ("residual_norm", "discriminator_loss", "psnr", "saturation")


def page(folder: Path, told: Mapping[str, Any]) -> str:
    """The page of a run, of what lies in its folder and of what is `told` beside it (`Report`); texts stay texts."""
    facts: dict[str, Any] = {"prompt": "", "iterations": 0, "max_steps": 0, "seconds": 0.0, "seed": 0, "started": ""}
    facts |= read_facts(folder / "run.json")
    done, steps = facts["iterations"], max(facts["iterations"], facts["max_steps"])  # -1 where time ends a run
    metrics = ["metrics.csv"] if (folder / "metrics.csv").is_file() else []  # none after a few steps
    numbers = logged(folder / "metrics.csv")
    values = {"told": told, "facts": facts, "done": done, "steps": steps, "width": _WIDTH, "height": _HEIGHT} | {
        "title": shown(facts["prompt"]),
        "orbit": next((name for name in told["files"] if name.startswith("orbit.")), ""),
        "made": {
            **told["made"],
            "Steps": done,
            "Time": clock(facts["seconds"]),
            "Seed": facts["seed"],
        },
        "shots": _shots(folder, done),
        "numbers": dict(measured(told["results"], told["errors"])),
        "meaning": meaning,
        "curves": [_curve(name, numbers[name]) for name in _CURVES if len(numbers.get(name, ())) > 1],
        "run": shlex.quote(str(folder)),
        "files": [*told["files"], *_OF_RUNS, *metrics],
    }
    return rendered(Path(__file__).with_name("report.html"), values)


def measured(results: Mapping[str, float], errors: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The name of each measure, and its number in words: with its error, its unit, and what it is to be held to."""
    for name, value in results.items():
        if any(name.startswith(prefix) and name.removeprefix(prefix) in results for prefix in REFERENCES):
            continue
        error = f" ± {cell_text(errors[name])}" if name in errors else ""
        text = f"{cell_text(value)}{error} {meaning(name).unit}".strip()
        known = [(results.get(prefix + name), words) for prefix, words in REFERENCES.items()]
        yield name, ", ".join([text, *(f"{words} {cell_text(value)}" for value, words in known if value is not None)])


def _shots(folder: Path, done: int) -> dict[int, str]:
    """The files of at most eight snapshots up to the last step, evenly among those that there are."""
    files = {int(path.stem[5:]): path for path in folder.glob("snapshots/step-[0-9]*.png") if path.stem[5:].isdecimal()}
    steps = sorted(step for step in files if step <= done)
    count = min(_SHOTS, len(steps))
    kept = {steps[i * (len(steps) - 1) // max(1, count - 1)] for i in range(count)}
    return {step: f"snapshots/{files[step].name}" for step in sorted(kept)}


def _curve(name: str, points: Mapping[int, float]) -> dict[str, Any]:
    low, high, first, last = min(points.values()), max(points.values()), min(points), max(points)
    places = [
        f"{_WIDTH * (step - first) / (last - first):.1f},{_HEIGHT * (high - value) / ((high - low) or 1):.1f}"
        for step, value in points.items()
    ]
    ends = {"low": f"{low:.3g}", "high": f"{high:.3g}", "first": first, "last": last}
    return {"about": meaning(name), "points": " ".join(places), **ends}
