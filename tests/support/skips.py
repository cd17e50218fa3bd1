"""Skipped tests: `--only-known-skips` makes the session fail where tests/skips.txt doesn't name the reason of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

SKIPS = Path(__file__).parents[1] / "skips.txt"


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option that `.ci/run` gives."""
    parser.addoption("--only-known-skips", action="store_true", help="fail on a skip that tests/skips.txt doesn't name")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the outermost, so that its line is the last one printed
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Compare the reasons of all skips, of xdist's workers too, with those that are known."""
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not session.config.getoption("--only-known-skips"):
        return
    known = tuple(line for line in SKIPS.read_text().splitlines() if line and not line.startswith("#"))
    reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in terminal.stats.get("skipped", [])}
    if unknown := sorted(reason for reason in reasons if not reason.startswith(known)):
        terminal.write_line(f"{SKIPS} doesn't name the reason of these skips: {'; '.join(unknown)}", red=True)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
