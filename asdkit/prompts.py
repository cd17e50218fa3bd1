"""View-dependent prompts: which view words belong to which camera. Front is azimuth 0."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ViewWords:
    """The words a prior knows for the directions a camera looks from.

    Args:
        sectors: words of equal azimuth sectors, counter-clockwise, the first centred at azimuth 0 (the front).
        overhead: the word for cameras above `overhead_above_deg`.
        overhead_above_deg: elevation in degrees.
    """

    sectors: tuple[str, ...]
    overhead: str
    overhead_above_deg: float = 60.0

    @property
    def all(self) -> tuple[str, ...]:
        """Every suffix, the sectors first, then overhead."""
        return (*self.sectors, self.overhead)

    def index(self, azimuth: Float[Tensor, " B"], elevation: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Which entry of `all` a camera takes; angles in radians."""
        count = len(self.sectors)
        sector = torch.round(azimuth * (count / (2 * math.pi))).long() % count
        return torch.where(elevation > math.radians(self.overhead_above_deg), count, sector)

    def suffixes(self, text: str) -> list[str]:
        """The prompt with each entry of `all`."""
        return [f"{text}, {words}" for words in self.all]


DREAMFUSION = ViewWords(("front view", "side view", "back view", "side view"), "overhead view")
EIGHT_SECTORS = ViewWords(
    (
        "front view",
        "front left view",
        "left side view",
        "back left view",
        "back view",
        "back right view",
        "right side view",
        "front right view",
    ),
    "overhead view",
)


@dataclass(frozen=True)
class Condition:
    """What a prior is conditioned on.

    Args:
        text: the prompt without view words; empty for the null condition.
        view_dependent: whether the view's words (and its camera, where the prior takes one) are added.
    """

    text: str
    view_dependent: bool = True


NULL = Condition("", view_dependent=False)
