"""Bytes from somebody without a ticket change nothing: the node trains on, and the next member gets in."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable
from pathlib import Path

import zmq
from processes import GossipProcess

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# ZMTP 3.1 greeting, NULL mechanism: a plain ZeroMQ peer, then a command frame that lies about its length.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
LYING_FRAME = b"\x06" + (2**62).to_bytes(8, "big") + b"\x05READY"


def knock(port: int, data: bytes) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        while link.recv(4096):
            pass


def test_a_node_under_garbage_trains_on(start_node: Start, write_spec: WriteSpec) -> None:
    node = start_node(write_spec(), name="node")
    node.wait_for("training")
    port = int(node.wait_for("started")["address"].rsplit(":", 1)[1])
    rng = random.Random(7)
    messages = [HTTP, GREETING, GREETING + LYING_FRAME, b"\xff" * 64, b"", *(rng.randbytes(n) for n in (1, 64, 4096))]
    for message in messages:
        knock(port, message)
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:  # no CURVE at all
        plain.linger = 0
        plain.connect(f"tcp://127.0.0.1:{port}")
        plain.send(b"let me in")
        assert not plain.poll(500)
    held_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]  # who says nothing takes no place

    before = node.all("status")[-1]
    after = node.wait_for("status", when=lambda event: event["t"] > before["t"] + 1.5)
    assert after["step"] > before["step"]
    assert not node.err.read_text()
    member = start_node("--join", node.ticket(), name="member")
    member.wait_for("exchange_mixed")
    assert {event["members"] for event in node.all("status")} <= {1, 2}
    for link in held_open:
        link.close()
