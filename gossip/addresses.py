"""How an address is written: HOST:PORT to be dialed, tcp://HOST:PORT to listen at. Text only, nothing is looked up.

A node may be reached at several addresses: they are written with commas between, best first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gossip.protocol.messages import ADDRESS_CHARS_MAX

ADDRESSES_MAX = 4  # of one node, ADDRESS_CHARS_MAX characters in all
NONE = "none"  # in the place of an address: this node is not reached, it dials
ADDRESS_EXPECTED = (
    f"HOST:PORT of at most {ADDRESS_CHARS_MAX} characters, like 192.0.2.7:7700 or [2001:db8::7]:7700, "
    "with a port from 1 to 65535"
)
ADVERTISE_EXPECTED = (
    f'{ADDRESS_EXPECTED}; up to {ADDRESSES_MAX} of them with commas between; or "{NONE}" for a node that only dials out'
)
ENDPOINT_EXPECTED = "tcp://HOST:PORT, like tcp://0.0.0.0:7700 or tcp://[::1]:7700, with a port from 0 to 65535"

# Peers and tickets supply addresses: nothing but a name or number and a port may reach libzmq, whose
# own syntax knows wildcards, interface names and "source;destination".
_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})", re.ASCII)
_ENDPOINT = re.compile(rf"tcp://(?P<host>\*|{_HOST}):(?P<port>[0-9]{{1,5}})", re.ASCII)
_PORT_MAX = 65_535


def is_address(text: str) -> bool:
    """Whether `text` reads HOST:PORT, with an IPv6 host in brackets."""
    match = _ADDRESS.fullmatch(text) if len(text) <= ADDRESS_CHARS_MAX else None
    return match is not None and 1 <= int(match["port"]) <= _PORT_MAX


def are_addresses(text: str) -> bool:
    """Whether `text` is 1 to ADDRESSES_MAX addresses with commas between, at most ADDRESS_CHARS_MAX in all."""
    found = text.split(",")
    return len(text) <= ADDRESS_CHARS_MAX and len(found) <= ADDRESSES_MAX and all(map(is_address, found))


def joined(addresses: Iterable[str]) -> str:
    """As many of these as one node may name, in their order; those too long for what is left are skipped."""
    kept: list[str] = []
    for address in addresses:
        if len(kept) < ADDRESSES_MAX and len(",".join([*kept, address])) <= ADDRESS_CHARS_MAX:
            kept.append(address)
    return ",".join(kept)


def is_advertisable(text: str) -> bool:
    """Whether `text` may stand after --advertise."""
    return text == NONE or are_addresses(text)


def is_listenable(text: str) -> bool:
    """Whether `text` may stand after --listen."""
    return text == NONE or is_endpoint(text)


def is_endpoint(text: str) -> bool:
    """Whether `text` reads tcp://HOST:PORT; port 0 picks a free one. libzmq itself would read 99999 as another port."""
    match = _ENDPOINT.fullmatch(text) if len(text) <= len("tcp://") + ADDRESS_CHARS_MAX else None
    return match is not None and int(match["port"]) <= _PORT_MAX
