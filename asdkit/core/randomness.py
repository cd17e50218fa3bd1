"""Stateless randomness: a draw depends on (seed, rank, step, purpose) alone, so that resuming is exact."""

import hashlib

import torch
from torch import Tensor


def generator_for(seed: int, step: int, purpose: str, rank: int = 0) -> torch.Generator:
    """A CPU random generator that depends on its arguments alone.

    Args:
        seed: the run's seed.
        step: the iteration, counted from 0.
        purpose: what is drawn ("views", "noise", ...); two purposes are independent of each other.
        rank: the process among several; leave 0 for what every rank must draw alike (densification).
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device. From the CPU to CUDA they travel by themselves: nobody waits for them."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
