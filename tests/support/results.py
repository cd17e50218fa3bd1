"""What the documents say of `docs/paper/results.json`; `python -m support.results` writes it into them."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asdkit.run.reproduction import page, results
from asdkit.run.reproduction.figures import FULL, Figure, declared
from asdkit.run.reproduction.results import CONFIRMED, NOT_JUDGED, NOT_SHOWN, REFUTED

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "paper" / "results.json"
BETWEEN = re.compile(r"(?<=<!-- from results\.json -->\n).*?(?=<!-- to here -->)", re.DOTALL)


def in_results(data: Mapping[str, Any]) -> str:
    """All verdicts, and below them each figure's rules and measures."""
    lacking = [figure.title for name, figure in declared().figures.items() if name not in data["figures"]]
    later = f" Not made yet: {'; '.join(lacking)}." if lacking and data["mode"] == FULL.name else ""
    text = [f"{results.how(data)} {declared().meanings[data['mode']]}{later}", results.verdicts(data).rstrip()]
    for name, figure in data["figures"].items():
        runs = results.of_figure(data, name)
        rules = [f"* {of['part']}: {of['rule']}: {results.difference(of)}; {of['verdict']}" for of in figure["rules"]]
        table = results.table(runs, declared().figures[name].show).rstrip()
        planned = len(declared().runs(declared().figures[name], FULL))
        made = sum(run["seed"] is not None for run in runs)
        part = f"{made} of its {planned} runs are made so far." if data["mode"] == FULL.name and made < planned else ""
        text += [f"### {figure['title']}", part, "\n".join(rules), *sheets(declared().figures[name], runs), table]
    return "\n\n".join(["", *filter(None, text), ""]).lstrip("\n") if text else ""


def sheets(figure: Figure, runs: Sequence[results.Run]) -> list[str]:
    """The kept pictures of a figure, as a table for each part."""
    tables = []
    for part in dict.fromkeys(run["part"] for run in runs):
        columns, rows = page.sheet(figure, part, runs, FILE.parent)
        cells = [[words, *map(_picture, files, columns)] for words, files in rows.items() if any(files)]
        lines = [["", *columns], ["---"] * (len(columns) + 1), *cells]
        tables += ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if cells else []
    return tables


def _picture(file: Path | None, method: str) -> str:
    return f"![{method}]({file.relative_to(FILE.parents[1]).as_posix()})" if file else ""


def in_readme(data: Mapping[str, Any]) -> str:
    """How many rules say that claims hold."""
    more = "[docs/results.md](docs/results.md) compares what asdkit makes with the true objects."
    if data["mode"] == "quick":
        judged = "The claims of the paper are not judged yet; `asdkit reproduce --full` judges them."
        return f"{more} {judged}\n"
    rules = [rule["verdict"] for figure in data["figures"].values() for rule in figure["rules"]]
    count = Counter(verdict for verdict in rules if verdict != NOT_JUDGED)
    said = ", ".join(f"{count[verdict]} {verdict}" for verdict in (CONFIRMED, REFUTED, NOT_SHOWN))
    made = f"{len(data['figures'])} of {len(declared().figures)} figures and tables are made so far. "
    made = "" if len(rules) == count.total() and len(data["figures"]) == len(declared().figures) else made
    return f"{made}Of {count.total()} rules that judge the paper's claims on our prior: {said}. {more}\n"


def documents() -> dict[Path, str]:
    """The documents as they should be."""
    data = json.loads(FILE.read_text())
    said = {ROOT / "README.md": in_readme(data), ROOT / "docs" / "results.md": in_results(data)}
    return {path: BETWEEN.sub(lambda _, text=text: text, path.read_text()) for path, text in said.items()}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
