"""`report.html`: a run as a page, made of what its folder holds."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from asdkit.core.text import filled, shown
from asdkit.run.meanings import REFERENCES, meaning
from asdkit.run.metrics_csv import logged
from asdkit.run.progress import clock
from asdkit.run.side_files import read_facts
from asdkit.run.tables import cell_text

_SHOTS, _WIDTH, _HEIGHT = 8, 300, 90
_OF_RUNS = ("contact.png", "config.yaml", "run.json")
_CURVES = ("residual_norm", "discriminator_loss", "psnr", "saturation")


@dataclass
class Told:
    """What the page tells beside what lies in the run folder."""

    made: Mapping[str, str]  # what it is made of and by, in words
    results: Mapping[str, float]  # of the judges
    files: Sequence[str]  # of the object
    columns: int  # of a snapshot
    formats: str  # that the object can be exported to
    doubt: str = ""  # a sentence about the prompt
    errors: Mapping[str, float] = field(default_factory=dict)  # of the measures
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # why, by the measure's name


def page(folder: Path, told: Told) -> str:
    """The page of a run, whose texts stay texts."""
    facts: dict[str, Any] = {"prompt": "", "iterations": 0, "max_steps": 0, "seconds": 0.0, "seed": 0, "started": ""}
    facts |= read_facts(folder / "run.json")
    done, steps = facts["iterations"], max(facts["iterations"], facts["max_steps"])  # -1 where time ends a run
    warnings = [f"It was stopped at step {done} of {steps}, and can go on from there."] if done < steps else []
    warnings += [told.doubt] if told.doubt else []
    numbers = ["metrics.csv"] if (folder / "metrics.csv").is_file() else []  # none after a few steps
    files = [*told.files, *_OF_RUNS, *numbers]
    values = {
        "title": escape(shown(facts["prompt"])),
        "lead": escape(f"Made by asdkit, {facts['started'].replace('T', ', ')}"),
        "warnings": "\n".join(f'<p class="warning">{escape(text)}</p>' for text in warnings),
        "hero": _hero(facts, told),
        "sections": "\n".join([*_pictures(folder, done, told), *_measures(told), *_curves(folder)]),
        "commands": "\n".join(_commands(shlex.quote(str(folder)), facts, told)),
        "files": ", ".join(f'<a href="{name}">{name}</a>' for name in map(escape, files)),
    }
    return filled(Path(__file__).with_name("report.html"), values)


def measured(results: Mapping[str, float], errors: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The name of each measure, and its number in words: with its error, its unit, and what it is to be held to."""
    for name, value in results.items():
        if any(name.startswith(prefix) and name.removeprefix(prefix) in results for prefix in REFERENCES):
            continue
        error = f" ± {cell_text(errors[name])}" if name in errors else ""
        text = f"{cell_text(value)}{error} {meaning(name).unit}".strip()
        known = [(results.get(prefix + name), words) for prefix, words in REFERENCES.items()]
        yield name, ", ".join([text, *(f"{words} {cell_text(value)}" for value, words in known if value is not None)])


def _hero(facts: Mapping[str, Any], told: Told) -> str:
    """The orbit, or all images; beside it how it was made, and where one can turn the object."""
    orbit = next((name for name in told.files if name.startswith("orbit.")), "")
    if orbit.endswith(".mp4"):
        picture = f'<video src="{orbit}" autoplay loop muted playsinline></video>'
    else:
        picture = f'<img src="{orbit or "contact.png"}" alt="the result">'
    unit = "hours" if facts["seconds"] >= 3600 else "minutes"
    rows = {
        **told.made,
        "Steps": facts["iterations"],
        "Time": f"{clock(facts['seconds'])} {unit}",
        "Seed": facts["seed"],
    }
    made = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows.items())
    button = '<a class="button" href="viewer.html">Turn it yourself</a>' if "viewer.html" in told.files else ""
    return f"{picture}<div><dl>{made}</dl>{button}</div>"


def _section(title: str, words: str, content: str) -> str:
    return f'<h2>{title}</h2>\n<p class="soft">{words}</p>\n{content}'


def _pictures(folder: Path, done: int, told: Told) -> Iterator[str]:
    """The contact sheet of an object that has an orbit, and how it came about."""
    if any(name.startswith("orbit.") for name in told.files):
        sheet = '<div class="card sheet"><a href="contact.png"><img src="contact.png" alt="eight views"></a></div>'
        yield _section("From all around", "0° is the front; a click enlarges it.", sheet)
    shots = {int(path.stem[5:]): path for path in folder.glob("snapshots/step-[0-9]*.png") if path.stem[5:].isdecimal()}
    steps = sorted(step for step in shots if step <= done)
    kept = {steps[i * (len(steps) - 1) // max(1, min(_SHOTS, len(steps)) - 1)] for i in range(min(_SHOTS, len(steps)))}
    strip = "".join(
        f'<a href="snapshots/{shots[step].name}"><i style="background-image:url(snapshots/{shots[step].name});'
        f'background-size:{100 * told.columns}%"></i>step {step}</a>'
        for step in sorted(kept)
    )
    if strip:
        words = "A click shows what the prior and the discriminator made of it then."
        yield _section("How it came about", words, f'<div class="strip">{strip}</div>')


def _measures(told: Told) -> Iterator[str]:
    """What was measured, and what can't be."""
    numbers = dict(measured(told.results, told.errors))
    rows = [(name, text, "") for name, text in numbers.items()]
    rows += [
        (name, "not measured", f"; not here, for {why}") for name, why in told.unmeasured.items() if name not in numbers
    ]
    cells = "".join(
        f'<tr><td>{escape(meaning(name).title)}</td><td class="number">{escape(text)}</td>'
        f'<td class="soft">{escape(meaning(name).text + why)} ({escape(name)})</td></tr>'
        for name, text, why in rows
    )
    if cells:
        yield _section(
            "Measures", "What the judges of this recipe say.", f'<div class="card"><table>{cells}</table></div>'
        )


def _curves(folder: Path) -> Iterator[str]:
    """How the most telling numbers moved."""
    numbers = logged(folder / "metrics.csv")
    drawn = "".join(_curve(name, numbers[name]) for name in _CURVES if len(numbers.get(name, ())) > 1)
    if drawn:
        words = 'Over the steps; <a href="metrics.csv">metrics.csv</a> has all numbers.'
        yield _section("Curves", words, f'<div class="curves">{drawn}</div>')


def _curve(name: str, points: Mapping[int, float]) -> str:
    steps, values = list(points), list(points.values())
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    places = " ".join(
        f"{_WIDTH * (step - first) / (last - first):.1f},{_HEIGHT * (high - value) / ((high - low) or 1):.1f}"
        for step, value in points.items()
    )
    words = [(0, -6, "start", f"{high:.3g}"), (0, _HEIGHT + 14, "start", f"{low:.3g}")]
    words += [(_WIDTH, _HEIGHT + 14, "end", f"step {first} to {last}")]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{side}">{text}</text>' for x, y, side, text in words)
    lines = "".join(f'<line x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, _HEIGHT))
    graph = f'<svg viewBox="0 -18 {_WIDTH} {_HEIGHT + 36}">{lines}<polyline points="{places}"/>{texts}</svg>'
    title, text = escape(meaning(name).title), escape(meaning(name).text)
    return f'<figure class="card"><b>{title}</b>{graph}<small>{text}</small></figure>'


def _commands(run: str, facts: Mapping[str, Any], told: Told) -> Iterator[str]:
    done, steps = facts["iterations"], max(facts["iterations"], facts["max_steps"])
    on = "" if done < steps else f" --steps {2 * steps}"
    commands = {f"Go on to step {2 * steps if on else steps}": f"asdkit fit {run}{on}"}
    if told.formats != "png":
        commands["Look at it in a browser, served on this machine"] = f"asdkit view {run}"
    commands["Write it for other tools"] = f"asdkit export {run} --format {told.formats}"
    commands["Measure it again, and write the figures down"] = f"asdkit test {run}"
    again = f"asdkit fit --config {run}/config.yaml --seed {facts['seed'] + 1}"
    commands["Make it again from another seed"] = again
    for does, command in commands.items():
        yield f'<div class="does">{escape(does)}</div><pre>{escape(command)}</pre>'
