"""What the runs of figures have measured, and what that says of the figures' claims: plain data, as `results.json`."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from typing import Any

import numpy as np

from asdkit.run.reproduction.figures import QUICK, REFERENCES, Figure, Rule, declared
from asdkit.run.tables import cell_text, markdown

Run = Mapping[str, Any]  # part, method, prompt, seed, metrics, and how it was made
CONFIRMED, REFUTED, NOT_SHOWN, NOT_JUDGED = "confirmed", "refuted", "not shown", "not judged"


@dataclass(frozen=True)
class Interval:
    """The mean of values, and its 95 % confidence interval, whose ends are infinite for one value alone."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """The mean and, of several values, half the interval."""
        return cell_text(self.mean) + (f" ± {cell_text(self.high - self.mean)}" if self.count > 1 else "")


def interval(values: Sequence[float]) -> Interval:
    """The interval mean -+ t s / sqrt(n) of n values, whose standard deviation is s."""
    mean, count = statistics.fmean(values), len(values)
    spread = math.inf if count < 2 else t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - spread, mean + spread, count)


def verdict(difference: Interval, low: float, high: float) -> str:
    """Of a claim that a difference lies between two numbers: confirmed if all of its interval does, refuted if none."""
    if difference.count < 2:
        return NOT_JUDGED
    if low < difference.low and difference.high < high:
        return CONFIRMED
    return REFUTED if difference.high <= low or high <= difference.low else NOT_SHOWN


def joint(verdicts: Sequence[str]) -> str:
    """The verdict of claims together: refuted by one, confirmed by all, else not shown; not judged where none was."""
    if not {*verdicts} - {NOT_JUDGED}:
        return NOT_JUDGED
    return REFUTED if REFUTED in verdicts else CONFIRMED if {*verdicts} == {CONFIRMED} else NOT_SHOWN


@cache
def t_quantile(freedom: int) -> float:
    """The t of which Student's distribution has 95 % between -t and t."""
    t, width = np.linspace(0.0, 13.0, 200_001, retstep=True)  # of one degree of freedom it is 12.7
    height = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi * freedom)
    density = height * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
    return float(np.interp(0.95, np.cumsum(density[1:] + density[:-1]) * width, t[1:]))


def with_derived(metrics: Mapping[str, float]) -> dict[str, float]:
    """Measures, and of each that the truth has, too, the distance to the truth's own."""
    both = [name for name in metrics if f"true_{name}" in metrics]
    return {**metrics, **{f"{name}_error": abs(metrics[name] - metrics[f"true_{name}"]) for name in both}}


def judged(figure: Figure, runs: Sequence[Run], judging: bool) -> dict[str, Any]:
    """A figure's claim, its rules and what its runs say of them; without `judging` no verdicts."""
    parts = dict.fromkeys(cell["part"] for cell in figure.cells)
    cases = [(rule, part) for rule in figure.rules for part in parts if rule.part in ("", part)]
    rules = [entry for rule, part in cases for entry in _judged(rule, part, runs)]
    for entry in [] if judging else rules:
        entry["verdict"] = NOT_JUDGED
    facts = {"title": figure.title, "claim": figure.claim, "verdict": joint([entry["verdict"] for entry in rules])}
    return facts | {"rules": rules, "core_minutes": round(sum(run["seconds"] or 0 for run in runs) / 60, 1)}


def _judged(rule: Rule, part: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A rule in a part, for each measure that it names and that there is; where there is none, it can't judge."""
    entries = []
    for measure in measures([rule.measure], (run for run in runs if run["part"] == part)):
        if values := differences(rule, measure, part, runs):
            known = interval(values)
            ends = [None if known.count < 2 else round(end, 6) for end in (known.low, known.high)]
            words = str(rule).replace(rule.measure, measure, 1)
            entry = {"part": part, "rule": words, "pairs": known.count, "mean": round(known.mean, 6)}
            entries.append(entry | {"interval": ends, "verdict": verdict(known, *rule.between)})
    nothing = {"part": part, "rule": str(rule), "pairs": 0, "mean": None, "interval": [None, None]}
    return entries or [nothing | {"verdict": NOT_JUDGED}]


def differences(rule: Rule, measure: str, part: str, runs: Iterable[Run]) -> list[float]:
    """A measure of one method minus that of the other, for each prompt and seed that has both."""
    values: dict[str, dict[Any, float]] = {}
    for run in runs:
        metrics, pair = run["metrics"], (run["prompt"], run["seed"])
        if run["part"] == part and measure in metrics:
            values.setdefault(run["method"], {})[pair] = metrics[measure]
            for reference, prefix in REFERENCES.items() if run["method"] == rule.of else ():
                if f"{prefix}{measure}" in metrics:
                    values.setdefault(reference, {})[pair] = metrics[f"{prefix}{measure}"]
    than = values.get(rule.than, {})
    return [value - than[pair] for pair, value in values.get(rule.of, {}).items() if pair in than]


def measures(patterns: Iterable[str], runs: Iterable[Run]) -> list[str]:
    """The measures of runs that fit any of the patterns, in the patterns' order."""
    names = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    return list(dict.fromkeys(name for pattern in patterns for name in names if fnmatch(name, pattern)))


def of_figure(results: Mapping[str, Any], name: str) -> list[Run]:
    """The runs of a figure, its parts and methods in the figure's own order."""
    known = declared()
    planned = known.runs(known.figures[name], QUICK)
    order = {(run.part.name, run.method.name): place for place, run in enumerate(planned)}
    runs = [run for run in results["runs"] if name in run["figures"]]
    return sorted(runs, key=lambda run: order.get((run["part"], run["method"]), len(order)))


def verdicts(results: Mapping[str, Any]) -> str:
    """All figures and their verdicts, as Markdown."""
    return markdown([{"figure": f["title"], **f} for f in results["figures"].values()], ["figure", "claim", "verdict"])


def table(runs: Sequence[Run], show: Iterable[str]) -> str:
    """The `estimates` as Markdown."""
    return markdown(*estimates(runs, show))


def estimates(runs: Sequence[Run], show: Iterable[str]) -> tuple[list[dict[str, str]], list[str]]:
    """A row of means over prompts and seeds for each part and method, and for a part's references; and the columns."""
    columns, rows = measures(show, runs), []
    for part in dict.fromkeys(run["part"] for run in runs):
        members = [run for run in runs if run["part"] == part]
        known = {name: intervals(name, members) for name in columns}
        for method in (*methods_of(members), *REFERENCES):
            texts = {name: str(of[method]) for name, of in known.items() if method in of}
            rows += [{"part": part, "method": method, **texts}] if texts or method not in REFERENCES else []
    return rows, ["part", "method", *columns]


def intervals(measure: str, runs: Sequence[Run]) -> dict[str, Interval]:
    """The mean of each method, and of what measures refer to, and its interval, over prompts and seeds."""
    groups = {method: (measure, [run for run in runs if run["method"] == method]) for method in methods_of(runs)}
    groups |= {reference: (f"{prefix}{measure}", [*runs]) for reference, prefix in REFERENCES.items()}
    values = {m: [run["metrics"][name] for run in of if name in run["metrics"]] for m, (name, of) in groups.items()}
    return {method: interval(numbers) for method, numbers in values.items() if numbers}


def methods_of(runs: Iterable[Run]) -> list[str]:
    """The methods of runs, each once."""
    return list(dict.fromkeys(run["method"] for run in runs))


def difference(rule: Mapping[str, Any]) -> str:
    """The mean difference that a rule is about, its interval and the number of pairs."""
    if not rule["pairs"]:
        return "no pair has this measure"
    low, high = rule["interval"]
    ends = "" if low is None else f" [{cell_text(low)}, {cell_text(high)}]"
    return f"{cell_text(rule['mean'])}{ends}, {rule['pairs']} pair{'s' if rule['pairs'] > 1 else ''}"


def how(results: Mapping[str, Any]) -> str:
    """What was made, when and by what, in a sentence."""
    priors = ", ".join(results["priors"])
    made = len({row["folder"] for row in results["runs"]} - {""})  # a run may have two names, and a mean has no run
    return f"{made} runs (--{results['mode']}), {results['minutes']:g} minutes of runs, prior {priors}."
