"""A browser without a screen, which looks at the pages that asdkit writes and serves."""

import shutil
from collections.abc import Callable

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


def needs_browser(test: Callable) -> Callable:
    """Skip a test where there is none; to start one takes seconds."""
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")(test))
