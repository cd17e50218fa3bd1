"""What all tests of commands share: judges that compare with few true pictures and prompts."""

from functools import partial

import pytest

from asdkit.toybox.truths import truths


@pytest.fixture(autouse=True)
def judges_compare_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the toybox's judges take most of the time of a short run; what they measure has tests of its own."""
    monkeypatch.setattr("asdkit.toybox.truths._TRIES", 256)
    monkeypatch.setattr("asdkit.toybox.judge.truths", partial(truths, count=16))
    monkeypatch.setattr("asdkit.toybox.judge.PROMPTS", 3)
