"""Nodes over loopback, and waiting for named events instead of sleeping."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from gossip.ledger import Ledger
from gossip.live.security import KeyPair
from gossip.live.transport import ZmqTransport
from gossip.protocol.wire_events import WireEvent

# What takes milliseconds, on a machine that others use too. Whatever must not be waited for takes twice as long.
BUSY_S = 15.0
SWARM_KEY = b"s" * 32
SPEC = b'{"name":"test"}'


class LoopbackNode(ZmqTransport):
    """A transport that remembers all it said, so that a test can wait for any of it."""

    def __init__(
        self,
        *,
        listens: bool = True,
        is_member: bool = True,
        spec: bytes = SPEC,
        keys: KeyPair | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = Ledger()
        super().__init__(keys or KeyPair.new(), self.ledger, wall_clock=wall_clock)
        self.said: list[WireEvent] = []
        if listens:
            self.listen("tcp://127.0.0.1:0")
        if is_member:
            self.become_member(SWARM_KEY, spec)

    def poll(self, timeout_s: float) -> list[WireEvent]:
        news = super().poll(timeout_s)
        self.said += news
        return news

    def all(self, kind: type) -> list:
        return [event for event in self.said if isinstance(event, kind)]


def poll_until(is_done: Callable[[], object], *nodes: ZmqTransport, within_s: float = BUSY_S) -> None:
    """Let the nodes run by turns until `is_done`."""
    deadline = time.monotonic() + within_s
    while not is_done():
        assert time.monotonic() < deadline, f"not within {within_s} s; " + " | ".join(
            str(getattr(node, "said", node)) for node in nodes
        )
        for node in nodes:
            node.poll(0.005)


@contextlib.contextmanager
def running(*nodes: LoopbackNode) -> Iterator[None]:
    """The nodes run in a thread of their own, for what blocks until somebody answers."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            for node in nodes:
                node.poll(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
