"""Stateless randomness: a draw depends on (seed, rank, step, purpose) alone, so that resuming is exact."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

Rng = torch.Generator | None  # what draws come from; torch's global generator when None


class Rows(NamedTuple):
    """Which of a step's samples a part of it holds, so that its draws are those of the whole step."""

    start: int
    stop: int  # one past the last
    total: int  # samples of the whole step

    def of(self, values: Tensor) -> Tensor:
        """The part's rows of what was drawn for all `total` samples."""
        return values[self.start : self.stop]


def generator_for(seed: int, step: int, purpose: str, rank: int = 0) -> torch.Generator:
    """A CPU random generator that depends on its arguments alone; purposes ("views", "noise", ...) are independent.

    What every rank must draw alike (densification) leaves the rank at 0.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context torch's global generator starts from a seed; afterwards it goes on on the CPU as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def normal(rows: Rows, shape: Sequence[int], generator: Rng) -> Tensor:
    """Standard normal numbers [rows, *shape] for some samples of a step, the same however it is split into parts."""
    return rows.of(torch.randn((rows.total, *shape), generator=generator))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device; the copy from the CPU to CUDA is asynchronous."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
