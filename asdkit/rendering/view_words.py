"""The words for the direction that a camera looks from. Front is azimuth 0."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerView = Float[Tensor, " B"]
Sectors = Int[Tensor, " B"]  # numbers of entries of `all`


@dataclass(frozen=True)
class ViewWords:
    """The words a prior knows for the directions a camera looks from."""

    sectors: tuple[str, ...]  # of equal azimuth sectors, counter-clockwise, the first centred at azimuth 0 (the front)
    overhead: str  # for cameras above `overhead_above_deg`
    overhead_above_deg: float = 60.0  # elevation

    @property
    def all(self) -> tuple[str, ...]:
        """Every suffix, the sectors first, then overhead."""
        return (*self.sectors, self.overhead)

    @property
    def names(self) -> tuple[str, ...]:
        """What prompts for single views may be called: each entry of `all` without its "view", and `side` for both."""
        return tuple(dict.fromkeys([*(words.removesuffix(" view") for words in self.all), "side"]))

    def overhead_from(self, elevation: PerView) -> Bool[Tensor, " B"]:
        """Which cameras look from overhead; elevation in radians."""
        return elevation > math.radians(self.overhead_above_deg)

    def index(self, azimuth: PerView, elevation: PerView) -> Sectors:
        """Which entry of `all` a camera takes; angles in radians."""
        count = len(self.sectors)
        sector = torch.round(azimuth * (count / (2 * math.pi))).long() % count
        return torch.where(self.overhead_from(elevation), count, sector)

    def neighbours(self, azimuth: PerView, elevation: PerView) -> tuple[Sectors, Sectors, PerView]:
        """The two entries of `all` whose sectors' centres a camera stands between, and how far it is from the first to
        the second, 0 to 1; overhead cameras have that entry twice. Angles in radians.
        """
        count = len(self.sectors)
        place, overhead = azimuth * (count / (2 * math.pi)), self.overhead_from(elevation)
        first = place.floor().long() % count
        nearer, further = (torch.where(overhead, count, sector) for sector in (first, (first + 1) % count))
        return nearer, further, place - place.floor()

    def opposed(self, azimuth: PerView, words: Literal["front", "side"]) -> Sectors:
        """The entry of `all` for the front, or for the side that a camera is on, whichever way it looks."""
        count = len(self.sectors)
        if words == "front":
            return torch.zeros_like(azimuth, dtype=torch.long)
        return torch.where(azimuth.sin() >= 0, count // 4, 3 * count // 4)

    def prompts(self, text: str, named: Mapping[str, str] | None = None) -> list[str]:
        """The prompt with each entry of `all`, or what `named` has in its place."""
        named, prompts = named or {}, []
        for words in self.all:
            name = words.removesuffix(" view")
            names = (name, "side") if name.endswith("side") else (name,)
            prompts.append(next((named[n] for n in names if n in named), f"{text}, {words}"))
        return prompts


DREAMFUSION = ViewWords(("front view", "side view", "back view", "side view"), "overhead view")
_EIGHT = ("front", "front left", "left side", "back left", "back", "back right", "right side", "front right")
EIGHT_SECTORS = ViewWords(tuple(f"{name} view" for name in _EIGHT), "overhead view")
