"""One end of test_ledger_namespace.py: talks, then idles, then says what it counted and what the kernel did.

Arguments: role (listen or dial), the listener's IP, the interface to read, how long to talk.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from loopback import SPEC, SWARM_KEY

from gossip.ledger import Ledger
from gossip.live.security import KeyPair
from gossip.live.transport import ZmqTransport
from gossip.protocol.wire_events import LinkUp

PORT = 7700
RUN_S = 6.3  # what is not talk is heartbeats only
KEYS = {role: KeyPair.from_secret(role.encode().ljust(32, b"-")) for role in ("listen", "dial")}
# Ethernet 14, IPv4 20, TCP with timestamps 32; what is then left of a pure ACK is nothing.
PACKET_HEADER_BYTES = 66


def interface_bytes(interface: str) -> dict[str, int]:
    folder = Path("/sys/class/net", interface, "statistics")
    count = {name: int((folder / name).read_text()) for name in ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets")}
    return {
        "sent": count["tx_bytes"] - PACKET_HEADER_BYTES * count["tx_packets"],
        "received": count["rx_bytes"] - PACKET_HEADER_BYTES * count["rx_packets"],
    }


def main(role: str, ip: str, interface: str, talk_s: float) -> None:
    ledger, rng = Ledger(), random.Random(role)
    node = ZmqTransport(KEYS[role], ledger)
    node.become_member(SWARM_KEY, SPEC)
    if role == "listen":
        node.listen(f"tcp://{ip}:{PORT}")
    before = interface_bytes(interface)
    print("ready", flush=True)
    if role == "dial":
        node.dial(KEYS["listen"].public, f"{ip}:{PORT}")
    while not (up := [event for event in node.poll(1.0) if isinstance(event, LinkUp)]):
        pass
    peer, began = up[0].peer, time.monotonic()
    while (elapsed := time.monotonic() - began) < RUN_S:
        node.poll(0.01)
        if elapsed < talk_s:
            node.send(peer, [rng.randbytes(rng.choice([0, 40, 222, 223, 900]))], "membership")
            if rng.random() < 0.1:
                node.send(peer, [rng.randbytes(64), rng.randbytes(rng.choice([300, 20_000]))], "exchange")
    after = interface_bytes(interface)
    report = {
        direction: {"ledger": ledger.total_bytes(direction), "kernel": after[direction] - before[direction]}
        for direction in ("sent", "received")
    }
    print(json.dumps(report | {"totals": ledger.totals()}), flush=True)
    sys.stdin.read()  # the other end may not have looked yet
    node.close()


if __name__ == "__main__":
    main(*sys.argv[1:4], talk_s=float(sys.argv[4]))
