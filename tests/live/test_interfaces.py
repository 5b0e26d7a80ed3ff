"""What a machine says of itself."""

from __future__ import annotations

import ipaddress

from gossip.live.interfaces import best_first, reachable_hosts


def test_global_addresses_come_first_and_one_of_a_kind_is_enough() -> None:
    """Who is far away has no use for a local address, and who is near can mostly use a global one."""
    texts = ["10.0.0.4", "192.168.1.9", "2a01::2", "2a01::1", "fd00::1", "8.8.4.4"]
    names = ["wifi", "cable", "cable", "cable", "cable", "cable"]
    found = [(name, ipaddress.ip_address(text)) for name, text in zip(names, texts, strict=True)]
    best = [str(address) for address in best_first(found, ["2a01::1", "192.168.1.9"])]
    assert best == ["2a01::1", "8.8.4.4", "192.168.1.9", "10.0.0.4", "fd00::1"]


def test_what_is_listened_at_is_what_is_said() -> None:
    """A wildcard is no address; where one listens at one address it is said as it is."""
    assert reachable_hosts("127.0.0.1") == reachable_hosts("[::ffff:127.0.0.1]") == ["127.0.0.1"]
    assert reachable_hosts("[::1]") == ["[::1]"]
    for host in reachable_hosts("[::]"):
        assert not ipaddress.ip_address(host.strip("[]")).is_unspecified
    assert all(":" not in host for host in reachable_hosts("0.0.0.0"))
