"""Host names become numbers here, each in a thread of its own, and never inside libzmq.

libzmq looks a name up in the one thread that also carries every link's heartbeats: while it waits for a slow
name server all links fall silent, and a single member with a slow name split a swarm.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

from gossip.errors import NetworkError
from gossip.live import tcp

# A lookup cannot be interrupted, and members choose the names: so many threads may hang, no more.
LOOKUPS_MAX = 32


class Names:
    """Looks addresses up. `wake` is called, from another thread, when an answer is there."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._running: dict[str, Future[str]] = {}

    def look_up(self, address: str) -> Future[str]:
        """The address with a number for its host, now or later, or a NetworkError; it may hang. Raises NetworkError."""
        if _is_numeric(address):
            return _ready(address)
        self._running = {name: answer for name, answer in self._running.items() if not answer.done()}
        if address not in self._running:  # who dials again while a lookup hangs waits for the same one
            if len(self._running) >= LOOKUPS_MAX:
                raise NetworkError(f"{LOOKUPS_MAX} other names are being looked up already")
            answer: Future[str] = Future()
            self._running[address] = answer
            # Not a pool: the interpreter waits for a pool's threads when it ends.
            threading.Thread(target=self._run, args=(address, answer), name="lookup", daemon=True).start()
        return self._running[address]

    def _run(self, address: str, answer: Future[str]) -> None:
        try:
            answer.set_result(_numeric(address))
        except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a name, like "a..b"
            why = getattr(error, "strerror", None) or str(error)
            answer.set_exception(NetworkError(f"the name {host_of(address)} cannot be looked up: {why}"))
        self._wake()


def host_of(address: str) -> str:
    return address.rpartition(":")[0]


def _is_numeric(address: str) -> bool:
    try:
        ipaddress.ip_address(host_of(address).strip("[]"))
    except ValueError:
        return address.startswith("[")
    return True


def _numeric(address: str) -> str:
    """IPv4 first, because 0.0.0.0 is where nodes listen by default, but only what we have a route to."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    choices = sorted(((family, str(place[0])) for family, _, _, _, place in found), key=lambda c: c[0])
    family, number = next((choice for choice in choices if tcp.source_address(*choice)), choices[0])
    return f"[{number}]:{port}" if family == socket.AF_INET6 else f"{number}:{port}"


def _ready(address: str) -> Future[str]:
    answer: Future[str] = Future()
    answer.set_result(address)
    return answer
