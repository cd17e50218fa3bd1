"""What the numbers of a run mean, in words, which `meanings.yaml` has."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml


class Meaning(NamedTuple):
    """A title, what the number says, and its unit."""

    title: str
    text: str
    unit: str = ""


REFERENCES = {
    "true_": "the truth has",
    "decoded_": "through the prior's autoencoder",
    "teacher_": "the prior's own pictures have",
    "source_": "the source has",
}


@cache
def meanings() -> dict[str, Meaning]:
    """What is known, by name."""
    known = yaml.safe_load(Path(__file__).with_name("meanings.yaml").read_text("utf-8"))
    return {name: Meaning(*words) for name, words in known.items()}


def meaning(name: str) -> Meaning:
    """What a number of this name means; a figure of a CLIP's ends in the CLIP's name."""
    if name.endswith("_error"):
        title, _, unit = meaning(name.removesuffix("_error"))
        return Meaning(f"{title}: error", "its distance from the truth's own; 0 is none", unit)
    known = meanings().get(name) or next((m for key, m in meanings().items() if name.startswith(f"{key}_")), None)
    return known or Meaning(name.replace("_", " ").capitalize(), "")
