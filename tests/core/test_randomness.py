"""Random draws depend on (seed, rank, step, purpose) and on nothing else."""

import hashlib
import itertools

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
