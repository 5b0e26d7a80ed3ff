"""A table at the end of a test run: how long each group of tests took. Loaded with `pytest -p seconds_by_group`."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A group is a folder of tests/, or a file right in it; set-up and tear-down count."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                group = group_of(report.nodeid)
                seconds[group] += report.duration
                tests[group] += report.when == "call"
    if seconds:
        terminalreporter.section("seconds per test group")
    for group, took in seconds.most_common():
        terminalreporter.line(f"{took:8.1f} s  {tests[group]:5} tests  {group}")


def group_of(nodeid: str) -> str:
    """tests/sim/test_churn.py::test_x -> tests/sim"""
    folders = PurePosixPath(nodeid.partition("::")[0]).parts
    return "/".join(folders[:2])
