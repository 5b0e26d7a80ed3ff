"""How an address is written: HOST:PORT to be dialed, tcp://HOST:PORT to listen at. Text only, nothing is looked up."""

from __future__ import annotations

import re

from gossip.protocol.messages import ADDRESS_CHARS_MAX

ADDRESS_EXPECTED = (
    f"HOST:PORT of at most {ADDRESS_CHARS_MAX} characters, like 192.0.2.7:7700 or [2001:db8::7]:7700, "
    "with a port from 1 to 65535"
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


def is_endpoint(text: str) -> bool:
    """Whether `text` reads tcp://HOST:PORT; port 0 picks a free one. libzmq itself would read 99999 as another port."""
    match = _ENDPOINT.fullmatch(text) if len(text) <= len("tcp://") + ADDRESS_CHARS_MAX else None
    return match is not None and int(match["port"]) <= _PORT_MAX
