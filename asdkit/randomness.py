"""Stateless randomness: a draw depends on (seed, rank, step, purpose) alone, so that resuming is exact."""

import hashlib

import torch


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
