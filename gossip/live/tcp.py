"""Addresses, and the two things about a TCP connection that libzmq does not offer: who it is, and cutting it.

A ROUTER can neither disconnect one peer nor say when it goes; but each message carries the number of the
descriptor it came through, and the monitor names the descriptor that closed.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import NamedTuple

from gossip.addresses import ADDRESS_EXPECTED, is_address
from gossip.errors import NetworkError


def checked_address(text: str) -> str:
    """`text` if it reads HOST:PORT, with an IPv6 host in brackets. Raises NetworkError."""
    if not is_address(text):
        shown = f"{text!r}" if len(text) <= 80 else f"{text[:80]!r}... ({len(text)} characters)"
        raise NetworkError(f"address {shown}: expected {ADDRESS_EXPECTED}")
    return text


def reachable_host(host: str) -> str:
    """`host`, or for a wildcard (0.0.0.0, ::) the address this machine would reach the internet from.

    Connecting a UDP socket asks the routing table and sends nothing. Without a route: loopback.
    """
    listened = ipaddress.ip_address(host.strip("[]"))
    if isinstance(listened, ipaddress.IPv6Address) and listened.ipv4_mapped is not None:
        listened = listened.ipv4_mapped  # libzmq says [::ffff:127.0.0.1] where it was told 127.0.0.1
    if not listened.is_unspecified:
        return str(listened) if listened.version == 4 else f"[{listened}]"
    if source := source_address(socket.AF_INET, "192.0.2.1"):  # "::" listens on IPv4 too
        return source
    if listened.version == 6 and (source := source_address(socket.AF_INET6, "2001:db8::1")):
        return f"[{source}]"
    return "127.0.0.1"


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
