"""Options every test may read."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--swarm-seed", type=int, default=None, help="replay the drawn swarm scenarios with this one seed")
