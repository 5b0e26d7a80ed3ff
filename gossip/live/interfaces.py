"""Under which addresses others may reach this machine: what a node says of itself unless it is told (--advertise).

Nobody outside has confirmed any of them: that is what the reachability test is for (protocol/reachability.py).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil

from gossip.live.tcp import source_address

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Networks between this machine and what it runs inside itself: the same addresses exist on every such machine.
_INWARD = ("docker", "br-", "virbr", "lxc", "cni", "veth")
# Reserved for documentation: asking for the way there sends nothing.
_FAR_AWAY = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


def reachable_hosts(host: str) -> list[str]:
    """`host`, or for a wildcard this machine's own addresses, best first. IPv6 in brackets.

    Global ones come first: they are right for everybody, and one of the local network costs all who are not
    in it an attempt. "::" listens on IPv4 too. Loopback only where there is nothing else.
    """
    listened = _ip(host.strip("[]"))
    if not listened.is_unspecified:
        return [_text(listened)]
    versions = (4,) if listened.version == 4 else (4, 6)
    sources = [source_address(*_FAR_AWAY[version]) for version in versions]
    found = [(name, address) for name, address in _addresses() if address.version in versions]
    return [_text(address) for address in best_first(found, sources)] or ["127.0.0.1"]


def best_first(found: Iterable[tuple[str, IPAddress]], sources: Sequence[str]) -> list[IPAddress]:
    """Of (interface, address) pairs those worth telling others, `sources` (what packets from here carry) preferred.

    One per interface, version and scope: a machine may have many temporary IPv6 addresses.
    """
    ranked = sorted(found, key=lambda one: (not one[1].is_global, str(one[1]) not in sources, one[1].version, one[0]))
    best: dict[tuple[str, int, bool], IPAddress] = {}
    for name, address in ranked:
        best.setdefault((name, address.version, address.is_global), address)
    return list(best.values())


def _addresses() -> list[tuple[str, IPAddress]]:
    """(interface, address) of those one could be reached at from outside."""
    is_up = {name: state.isup for name, state in psutil.net_if_stats().items()}
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6) or not is_up.get(name, True):
                continue
            address = _ip(entry.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                found.append((name, address))
    return [one for one in found if not one[0].startswith(_INWARD)] or found


def _ip(text: str) -> IPAddress:
    """libzmq says [::ffff:127.0.0.1] where it was told 127.0.0.1."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _text(address: IPAddress) -> str:
    return str(address) if address.version == 4 else f"[{address}]"
