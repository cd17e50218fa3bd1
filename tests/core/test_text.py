"""Texts that become names of folders and lines on a terminal."""

import pytest

from asdkit.core.text import clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (65, "1:05"), (725.6, "12:05"), (3600, "1:00:00"), (36125, "10:02:05")]
)
def test_a_time_is_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
