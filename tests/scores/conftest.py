"""The closed-form prior, and the network calls that it gets."""

import pytest
from support.exact import B, exact_prior

from asdkit import GaussianPrior


@pytest.fixture
def prior() -> GaussianPrior:
    return exact_prior()


@pytest.fixture
def calls(prior: GaussianPrior) -> list[float]:
    """Rows of each network call, in batches."""
    rows: list[float] = []
    prior.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) / B))
    return rows
