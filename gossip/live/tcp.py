"""Addresses, and the two things about a TCP connection that libzmq does not offer: who it is, and cutting it.

A ROUTER can neither disconnect one peer nor say when it goes; but each message carries the number of the
descriptor it came through, and the monitor names the descriptor that closed.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from gossip.addresses import ADDRESS_EXPECTED, ADVERTISE_EXPECTED, are_addresses, is_address
from gossip.errors import NetworkError


def checked_address(text: str) -> str:
    """`text` if it reads HOST:PORT, with an IPv6 host in brackets. Raises NetworkError."""
    if not is_address(text):
        raise NetworkError(f"address {_shown(text)}: expected {ADDRESS_EXPECTED}")
    return text


def checked_addresses(text: str) -> str:
    """`text` if it is one address or several with commas between. Raises NetworkError."""
    if not are_addresses(text):
        raise NetworkError(f"address {_shown(text)}: expected {ADVERTISE_EXPECTED}")
    return text


def _shown(text: str) -> str:
    return f"{text!r}" if len(text) <= 80 else f"{text[:80]!r}... ({len(text)} characters)"


def source_address(family: int, target: str) -> str:
    """The address packets to `target` (reserved for documentation) would carry; "" without a route."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return probe.getsockname()[0]
    except OSError:
        return ""


class Connection(NamedTuple):
    """A TCP connection by its two ends: unlike a descriptor's number, never used again while it exists."""

    fd: int
    local: tuple
    remote: tuple


def connection_of(fd: int) -> Connection | None:
    """What is connected through `fd` now; None if it is closed or no connected socket."""
    try:
        with socket.socket(fileno=os.dup(fd)) as ours:
            return Connection(fd, ours.getsockname(), ours.getpeername())
    except OSError:
        return None


def cut(connection: Connection) -> None:
    """End a connection libzmq owns, if it is still the same one; libzmq sees it close like any other.

    The duplicate is taken first and looked at second, so a number used again in between is never hit.
    """
    try:
        with socket.socket(fileno=os.dup(connection.fd)) as ours:
            if (ours.getsockname(), ours.getpeername()) == (connection.local, connection.remote):
                ours.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already gone
