"""What asdkit asks of fields, generators, priors and adapters, as checks that a user's own test calls."""

from asdkit.testing.checks import check_adapter, check_field, check_generator, check_prior

__all__ = ["check_adapter", "check_field", "check_generator", "check_prior"]
