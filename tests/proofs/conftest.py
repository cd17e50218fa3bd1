"""The prior of the proofs in one dimension."""

import pytest
from support.gaussian_world import MU, SPREAD

from asdkit import GaussianPrior


@pytest.fixture
def prior() -> GaussianPrior:
    """N(1, 0.5^2) for the prompt y, N(-0.5, 0.5^2) for z, and N(0, 0.5^2) for the null condition, at ten levels."""
    return GaussianPrior({"y": MU, "z": -0.5}, null_mean=0.0, spread=SPREAD, steps=10).double()
