"""Random draws depend on (seed, rank, step, purpose) and on nothing else."""

import hashlib
import itertools

import torch

from asdkit.core.randomness import generator_for


def test_every_argument_matters() -> None:
    places = itertools.product((0, 1, 11), (0, 1, 11), ("noise", "views"), (0, 1, 11))
    seeds = [generator_for(*place).initial_seed() for place in places]
    assert len(set(seeds)) == len(seeds) == 54


def test_values_are_kept_between_versions_and_machines() -> None:
    """Resuming on another machine must draw alike: the seed is a hash of known bytes."""
    for text, place in ((b"5/2/9/noise", (5, 9, "noise", 2)), (b"1/0/2/a", (1, 2, "a"))):
        digest = hashlib.blake2b(text, digest_size=8).digest()
        assert generator_for(*place).initial_seed() == int.from_bytes(digest, "little") >> 1


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    torch.rand(3, generator=generator_for(0, 0, "x"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_neighbouring_steps_are_uncorrelated() -> None:
    rows = torch.stack([torch.randn(2000, generator=generator_for(0, step, "noise")) for step in range(6)])
    correlation = torch.corrcoef(rows) - torch.eye(6)
    assert correlation.abs().max() < 0.1
