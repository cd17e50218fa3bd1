"""The version of asdkit, which the wheel takes from here, and those of other packages."""

import functools

__version__ = "0.1.0"


@functools.cache
def version_of(package: str) -> str:
    """The version of an installed package; it is read from its metadata, which takes a hundredth of a second."""
    from importlib.metadata import version

    return version(package)
