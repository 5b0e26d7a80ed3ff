"""gossip doctor against real members, taken ports and a starved process."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import GossipProcess

from gossip.live.security import KeyPair
from gossip.live.tickets import mint

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
HERE = ("--listen", "tcp://127.0.0.1:0")


def findings(process: GossipProcess, status: int) -> dict[str, Any]:
    """By name."""
    assert process.wait(60) == status, process.story()
    found = json.loads(process.out.read_text())["findings"]
    assert all(each["fix"] for each in found if each["verdict"] in ("warn", "bad")), found
    return {each["name"]: each for each in found}


def test_a_way_that_works_both_ways(start: Start, start_node: Start, write_spec: WriteSpec) -> None:
    """It listens, is let in, measures, and is dialed back by a member; the swarm's own data is looked for."""
    ticket = start_node(write_spec()).ticket()
    process = start("doctor", "--join", ticket, *HERE, "--json")
    found = findings(process, 0)
    for name in ("libzmq", "python", "data", "listen", "ticket", "round trip", "download", "dial back"):
        assert found[name]["verdict"] == "ok", found[name]
    assert sum(name.startswith("hello 127.0.0.1") for name in found) == 1
    assert ticket not in process.out.read_text()


def test_a_dead_members_ticket_and_a_port_that_is_taken(start: Start, write_spec: WriteSpec) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = start("doctor", write_spec(), "--listen", f"tcp://127.0.0.1:{port}", "--json")
        found = findings(taken, 1)
    assert found["listen"]["verdict"] == "bad"
    assert str(port) in found["listen"]["fix"]
    seeds = [(f"127.0.0.1:{port}", KeyPair.new().public)]
    lost = start("doctor", "--join", mint(b"k" * 32, seeds, now=time.time()).text(), *HERE, "--json")
    found = findings(lost, 1)
    assert found[f"dial 127.0.0.1:{port}"]["verdict"] == "warn"
    assert found["members"]["verdict"] == "bad"
    assert "members" in lost.err.read_text()


def test_another_swarms_ticket_is_told_from_a_closed_port(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    member = start_node(write_spec())
    member.ticket()
    address, key = member.wait_for("started")["address"], json.loads((member.run / "swarm.json").read_text())["key"]
    foreign = mint(b"k" * 32, [(address, bytes.fromhex(key))], now=time.time()).text()
    found = findings(start("doctor", "--join", foreign, *HERE, "--json"), 1)
    assert found[f"dial {address}"]["verdict"] == "ok"
    assert found[f"hello {address}"]["found"].startswith("BAD_TICKET")


def test_what_a_person_sees_fits_a_terminal(start: Start) -> None:
    few_files = ("bash", "-c", 'ulimit -n 200; exec "$@"', "bash")
    process = start("doctor", *HERE, prefix=few_files)
    assert process.wait(60) == 1
    lines = process.out.read_text().splitlines()
    assert next(line for line in lines if "open files" in line).startswith("BAD")
    assert any(line.strip().startswith("-> ulimit -n") for line in lines)
    assert max(map(len, lines)) <= 100, "a command may be longer, a sentence not"
