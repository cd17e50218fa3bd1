"""Random numbers and choices of the toybox, all from a generator that is given."""

from collections.abc import Sequence
from typing import Any

import torch


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A uniform number."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def choice(generator: torch.Generator, options: Sequence) -> Any:
    """One of the options, all alike likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]
