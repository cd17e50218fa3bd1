"""How numbers look in tables, and what they mean in words, which `meanings.yaml` has."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Meaning(NamedTuple):
    """A title, what the number says, and its unit."""

    title: str
    text: str
    unit: str = ""


_known, _references = yaml.safe_load_all(Path(__file__).with_name("meanings.yaml").read_text("utf-8"))
MEANINGS = {name: Meaning(*words) for name, words in _known.items()}
REFERENCES: dict[str, str] = _references  # what a measure is to be held to, by the beginning of its name


def meaning(name: str) -> Meaning:
    """What a number of this name means; a figure of a CLIP's ends in the CLIP's name."""
    if name.endswith("_error"):
        title, _, unit = meaning(name.removesuffix("_error"))
        return Meaning(f"{title}: error", "its distance from the truth's own; 0 is none", unit)
    known = MEANINGS.get(name) or next((m for key, m in MEANINGS.items() if name.startswith(f"{key}_")), None)
    return known or Meaning(name.replace("_", " ").capitalize(), "")


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as a Markdown table, whose `columns` are keys of the rows; all keys, where none are given."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([cell_text(row.get(name)) for name in columns] for row in rows)]
    head, *others = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(columns), *others]) + "\n"


def cell_text(value: Any) -> str:
    """A value as a table shows it: a number to three figures, nothing for None."""
    if isinstance(value, int | float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", "\\|")


def estimate(values: Sequence[float]) -> str:
    """A mean and its standard error, which one value does not have."""
    mean = cell_text(statistics.fmean(values))
    return f"{mean} ± {cell_text(statistics.stdev(values) / math.sqrt(len(values)))}" if len(values) > 1 else mean
