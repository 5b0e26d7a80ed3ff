"""Options every test may read."""

from __future__ import annotations

import hypothesis
import pytest

# How long an example takes says how busy the machine is, not whether the code is right; a test that hangs is ended
# by pytest's own limit.
hypothesis.settings.register_profile("gossip", deadline=None)
hypothesis.settings.load_profile("gossip")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--swarm-seed", type=int, default=None, help="replay the drawn swarm scenarios with this one seed")
