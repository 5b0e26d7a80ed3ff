"""The fixture that makes nodes and closes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopback import LoopbackNode


@pytest.fixture
def make_node() -> Iterator[Callable[..., LoopbackNode]]:
    nodes: list[LoopbackNode] = []

    def make(**options: Any) -> LoopbackNode:
        nodes.append(LoopbackNode(**options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
