"""The ledger against the kernel: two nodes in two network namespaces, joined by one virtual cable."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
IP = {"listen": "10.231.7.1", "dial": "10.231.7.2"}
MAC = {"listen": "02:00:00:00:00:01", "dial": "02:00:00:00:00:02"}
OTHER = {"listen": "dial", "dial": "listen"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def cable() -> Iterator[dict[str, str]]:
    """Two namespaces and the two ends of a veth pair named like them, by role; nothing else speaks there."""
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    names = {role: f"gsp{os.getpid() % 100_000}{role[0]}" for role in IP}
    try:
        for name in names.values():
            ip("netns", "add", name)
        ip("link", "add", names["listen"], "type", "veth", "peer", "name", names["dial"])
        for role, name in names.items():
            ip("link", "set", name, "netns", name)
            quiet = f"net.ipv6.conf.{name}.disable_ipv6=1"  # no neighbour discovery in the counters
            ip("netns", "exec", name, "sysctl", "-qw", quiet)
            ip("-n", name, "addr", "add", f"{IP[role]}/24", "dev", name)
            ip("-n", name, "link", "set", name, "address", MAC[role], "up")
            ip("-n", name, "neigh", "add", IP[OTHER[role]], "lladdr", MAC[OTHER[role]], "dev", name)  # nor ARP
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs network namespaces and veth: {getattr(error, 'stderr', error)}")
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start(role: str, name: str, talk_s: float) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    inside, script = ["ip", "netns", "exec", name], str(here / "namespace_peer.py")
    process = subprocess.Popen(
        [*inside, sys.executable, script, role, IP["listen"], name, str(talk_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("talk_s", [0.0, 2.0])
def test_the_ledger_agrees_with_the_interface_within_two_percent(talk_s: float) -> None:
    """Without talk there are only handshake and heartbeats, which talk would drown."""
    with cable() as names, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(start(role, names[role], talk_s)) for role in IP]
        try:
            reports = [json.loads(peer.stdout.readline()) for peer in peers]  # type: ignore[union-attr]
        finally:
            for peer in peers:
                peer.kill()
    for report in reports:
        for direction in ("sent", "received"):
            counted = report[direction]
            assert counted["ledger"] == pytest.approx(counted["kernel"], rel=0.02), report
        assert report["totals"]["sent"]["heartbeat"][0] > 0
