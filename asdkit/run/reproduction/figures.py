"""Figures and tables as `figures.yaml` declares them, and the runs that they need, each of which is made once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from asdkit.run.grid import Cell

TRUTH = "the truth"
REFERENCES = {TRUTH: "true_", "the decoded truth": "decoded_"}  # how measures of true pictures begin
START_SECONDS = 6.0  # what a run takes beside its iterations, on one core


@dataclass(frozen=True)
class Subject:
    """A prompt, what it is an example of, options of its own, and from where what a run is given shows it."""

    prompt: str
    of: str = ""
    options: Sequence[str] = ()
    azimuth_deg: float = 0.0


@dataclass(frozen=True)
class Part:
    """What is made: a recipe, its iterations in full and in quick runs, what one costs, and its prompts.

    One of the `toybox` needs true pictures, and its own prior. `given` names the function that makes a run's file.
    """

    name: str
    recipe: str
    steps: int
    quick: int
    seconds: float
    seed: Sequence[str]
    prompts: Sequence[Subject]
    options: Sequence[str] = ()
    toybox: bool = False
    given: str = ""
    ending: str = ""


@dataclass(frozen=True)
class Method:
    """Options of `asdkit fit`; of a sweep's method the name of its curve, too, and where on it the method stands."""

    name: str
    options: Sequence[str]
    cost: float = 1.0
    after: str = ""
    series: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Rule:
    """What judges a claim: the difference of a measure, of one method minus than another, lies between two numbers."""

    measure: str
    of: str
    than: str
    between: Sequence[float]
    part: str = ""

    def __str__(self) -> str:
        low, high = self.between
        said = {(-math.inf, 0.0): "smaller than", (0.0, math.inf): "larger than"}
        near = f"at most {-low:g} below" if high == math.inf else f"within {high:g} of"
        return f"{self.measure}: {self.of} {said.get((low, high), near)} {self.than}"


@dataclass(frozen=True)
class Figure:
    """A figure or table: what it claims, the cells of the grid that it needs, what is shown, and the rules."""

    name: str
    title: str
    claim: str
    cells: Sequence[Mapping[str, Any]]
    show: Sequence[str]
    rules: Sequence[Rule]
    picture: str = "contact.png"
    seeds: bool = False


@dataclass(frozen=True)
class Planned:
    """A run that figures need; two of them with the same key are one."""

    part: Part
    method: Method
    subject: Subject
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """What makes the run."""
        return (self.part.name, self.subject.prompt, *self.subject.options, str(self.seed), *self.method.options)


@dataclass(frozen=True)
class Size:
    """How much is made of the figures: `--quick` or `--full`."""

    name: str
    seeds: int
    prompts: int

    def steps(self, part: Part) -> int:
        """The iterations of a run."""
        return part.quick if self == QUICK else part.steps


QUICK, FULL = Size("quick", 1, 1), Size("full", 3, 1000)


@dataclass(frozen=True)
class Figures:
    """All that `figures.yaml` declares, by name; `truth` is the function that makes true pictures of a prompt."""

    truth: str
    meanings: Mapping[str, str]
    parts: Mapping[str, Part]
    methods: Mapping[str, Method]
    figures: Mapping[str, Figure]
    sweeps: Mapping[str, Mapping[str, Any]]

    def runs(self, figure: Figure, size: Size) -> list[Planned]:
        """The runs of a figure, and after them nothing that they start from."""
        runs = []
        for cell in figure.cells:
            part, first = self.parts[cell["part"]], cell.get("skip", 0)
            subjects = part.prompts[first : first + min(size.prompts, cell.get("prompts", size.prompts))]
            methods = [method for sweep in cell.get("sweeps", ()) for method in _swept(self.sweeps[sweep])]
            methods += [self.methods[name] for name in cell.get("methods", ())]
            for method, subject in product(methods, subjects):
                seeds = min(size.seeds, cell.get("seeds", size.seeds))
                runs += [Planned(part, method, subject, seed) for seed in range(seeds)]
        return runs

    def before(self, run: Planned) -> Planned | None:
        """The run that a run starts from, if it does."""
        after = run.method.after
        return Planned(run.part, self.methods[after], run.subject, run.seed) if after else None


@cache
def declared() -> Figures:
    """What the file says."""
    said = yaml.safe_load(Path(__file__).with_name("figures.yaml").read_text("utf-8"))
    for given in said["parts"].values():
        given["prompts"] = [Subject(**p) if isinstance(p, dict) else Subject(p) for p in given["prompts"]]
    for given in said["figures"].values():
        given["rules"] = [Rule(**rule) for rule in given["rules"]]
    methods = [_method(name, given) for name, given in said["methods"].items()]
    methods += [method for sweep in said["sweeps"].values() for method in _swept(sweep)]
    parts = {name: Part(name, **given) for name, given in said["parts"].items()}
    figures = {name: Figure(name, **given) for name, given in said["figures"].items()}
    by_name = {method.name: method for method in methods}
    return Figures(said["truth"], said["meanings"], parts, by_name, figures, said["sweeps"])


def _method(name: str, given: Any) -> Method:
    return Method(name, **(given if isinstance(given, dict) else {"options": given}))


def _swept(sweep: Mapping[str, Any]) -> list[Method]:
    """The methods of a sweep: each series at each value."""
    methods = []
    for series, given in sweep["series"].items():
        plain = _method(series, given)
        for value in sweep["values"]:
            options = [*plain.options, *(option.format(value) for option in sweep["options"])]
            methods.append(Method(f"{series} {value:g}", options, plain.cost, "", series, float(value)))
    return methods


def as_cell(
    run: Planned, size: Size, further: Sequence[str], given: Path, start: Path | None = None, prior: str = ""
) -> Cell:
    """The cell that makes a run, `further` options last; it may be `given` a file, and `start` from a run's folder."""
    part, method, subject = run.part, run.method, run.subject
    options = ["--config", part.recipe, f"--trainer.max_steps={size.steps(part)}"]
    facts = {"given": given, "azimuth": f"{subject.azimuth_deg:g}", "run": start}
    words = re.compile(r"\{(given|azimuth|run)\}")  # other braces are the option's own
    for option in (*part.options, *subject.options, *method.options):
        options.append(words.sub(lambda match: str(facts[match[1]]), option))
    options += [option.format(run.seed) for option in part.seed]
    labels: dict[str, str | int | float] = {"part": part.name, "method": method.name, "seed": run.seed}
    return Cell(subject.prompt, labels, [*options, *further], prior)
