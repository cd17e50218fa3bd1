"""What the numbers of a run mean, in words, which `meanings.yaml` has."""

from pathlib import Path
from typing import NamedTuple

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
