"""Several machines in one: network namespaces joined by a virtual cable, or by a switch."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Ethernet 14, IPv4 20, TCP with timestamps 32; what is then left of a pure ACK is nothing.
PACKET_HEADER_BYTES = 66
_COUNT = itertools.count()


@dataclass(frozen=True)
class Machine:
    """One namespace, its end of the cable named like it."""

    name: str
    ip: str
    mac: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, this runs it there. /sys is the namespace's own."""
        return ("ip", "netns", "exec", self.name)

    def tcp_bytes(self) -> dict[str, int]:
        """Bytes inside TCP so far, by the interface's own counters; and all that went out."""
        names = ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets")
        files = [f"/sys/class/net/{self.name}/statistics/{name}" for name in names]
        text = subprocess.run([*self.prefix, "cat", *files], check=True, capture_output=True, text=True).stdout
        count = dict(zip(names, map(int, text.split()), strict=True))
        return {
            "sent": count["tx_bytes"] - PACKET_HEADER_BYTES * count["tx_packets"],
            "received": count["rx_bytes"] - PACKET_HEADER_BYTES * count["rx_packets"],
            "line": count["tx_bytes"],  # packet headers included
        }

    def slow_down(self, rate: str) -> None:
        """Let its line carry no more than `rate` (as tc says it: 1mbit) outwards; the rest waits, up to 3 s of it."""
        shape = ("tc", "qdisc", "add", "dev", self.name, "root", "tbf", "rate", rate, "burst", "5kb", "latency", "3s")
        subprocess.run([*self.prefix, *shape], check=True, capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two namespaces and a cable on which nothing else speaks. Skips where that cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    tag = f"gs{os.getpid() % 100_000}x{next(_COUNT)}"
    first = Machine(f"{tag}a", "10.231.8.1", "02:00:00:00:01:01")
    second = Machine(f"{tag}b", "10.231.8.2", "02:00:00:00:01:02")
    try:
        try:
            _lay_cable(first, second)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs network namespaces and veth: {getattr(error, 'stderr', error)}")
        yield first, second
    finally:
        for machine in (first, second):
            subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)


def _lay_cable(first: Machine, second: Machine) -> None:
    for machine in (first, second):
        ip("netns", "add", machine.name)
    ip("link", "add", first.name, "type", "veth", "peer", "name", second.name)
    for machine, other in ((first, second), (second, first)):
        name = machine.name
        ip("link", "set", name, "netns", name)
        quiet = f"net.ipv6.conf.{name}.disable_ipv6=1"  # no neighbour discovery in the counters
        subprocess.run([*machine.prefix, "sysctl", "-qw", quiet], check=True, capture_output=True, text=True)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", f"{machine.ip}/24", "dev", name)
        ip("-n", name, "link", "set", name, "address", machine.mac, "up")
        ip("-n", name, "route", "add", "default", "dev", name)  # how a machine finds its own outside address
        ip("-n", name, "neigh", "add", other.ip, "lladdr", other.mac, "dev", name)  # nor ARP


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Namespaces on one switch, which is a bridge in a namespace of its own. Skips where that cannot be had.

    Whatever runs in them at the end is killed: a daemon outlives the command that started it.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    tag = f"gm{os.getpid() % 100_000}x{next(_COUNT)}"
    switch = f"{tag}s"
    found = [Machine(f"{tag}m{i}", f"10.231.9.{i + 1}", f"02:00:00:00:02:{i + 1:02x}") for i in range(count)]
    try:
        try:
            ip("netns", "add", switch)
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
            for machine in found:
                _plug_in(machine, switch)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs network namespaces, veth and bridges: {getattr(error, 'stderr', error)}")
        yield found
    finally:
        for name in (*(machine.name for machine in found), switch):
            pids = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _plug_in(machine: Machine, switch: str) -> None:
    name, socket = machine.name, f"p{machine.name}"
    ip("netns", "add", name)
    ip("link", "add", name, "netns", name, "type", "veth", "peer", "name", socket, "netns", switch)
    ip("-n", switch, "link", "set", socket, "master", "bridge", "up")
    ip("-n", name, "link", "set", "lo", "up")
    ip("-n", name, "addr", "add", f"{machine.ip}/24", "dev", name)
    ip("-n", name, "link", "set", name, "address", machine.mac, "up")
    ip("-n", name, "route", "add", "default", "dev", name)  # how a machine finds its own outside address


def firewall(machine: Machine, incoming: str, outgoing: str = "") -> None:
    """Install these nft rules there, in the place of any before."""
    open_up(machine)
    chains = [
        f"chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}"
        for hook, rule in (("input", incoming), ("output", outgoing))
        if rule
    ]
    rules = "\n".join(["table inet gossip {", *chains, "}"])
    try:
        subprocess.run([*machine.prefix, "nft", "-f", "-"], input=rules, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs nft: {getattr(error, 'stderr', error)}")


def cut_off(machine: Machine, *others: Machine) -> None:
    """Nothing passes between it and those, both ways and without a word; without others: between it and anybody."""
    ips = ", ".join(other.ip for other in others)
    if others:
        firewall(machine, f"ip saddr {{ {ips} }} drop", f"ip daddr {{ {ips} }} drop")
    else:
        firewall(machine, 'iif != "lo" drop', 'oif != "lo" drop')


def outbound_only(machine: Machine) -> None:
    """As behind a NAT: who knocks there hears nothing."""
    firewall(machine, "tcp flags & (syn | ack) == syn drop")


def open_up(machine: Machine) -> None:
    subprocess.run([*machine.prefix, "nft", "delete table inet gossip"], check=False, capture_output=True)


def readme_blocks(section: str) -> list[tuple[str, str]]:
    """(info string, text) of the fenced blocks in a section of README.md; skips where there is none."""
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    _, found, rest = text.partition(f"\n## {section}\n")
    if not found:
        pytest.skip(f"README.md has no section {section!r}")
    lines, blocks = rest.partition("\n## ")[0].splitlines(), []
    while lines:
        line = lines.pop(0)
        if line.startswith("```"):
            end = lines.index("```")
            blocks.append((line[3:].strip(), "\n".join(lines[:end])))
            del lines[: end + 1]
    return blocks
