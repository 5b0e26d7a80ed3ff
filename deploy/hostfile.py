"""The machines of a deployment, as text: one host a line.

    lab1                                    # a name of your ssh config, or any name or number
    ada@lab2  slots=2                       # two nodes there
    lab3:2222 advertise=203.0.113.5:7700    # sshd elsewhere; others reach its nodes from outside

Knows text only; nothing is looked up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from gossip.addresses import is_address
from gossip.errors import SpecError

SLOTS_MAX = 64
HOSTS_MAX = 256
LISTEN_PORT = 7700
EXPECTED = "HOST or USER@HOST, then any of slots=N port=N listen=PORT advertise=HOST[:PORT] python=COMMAND"

# What reaches ssh's command line must be no option and hold nothing a shell or ssh itself would read otherwise.
_TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,31})@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,})"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_SIGN = re.compile(r"[A-Za-z0-9._~/@+=,-]+", re.ASCII)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that somebody else's ssh can reach, and what it is to run."""

    target: str  # HOST or USER@HOST, for ssh
    slots: int = 1  # nodes there
    port: int = 0  # sshd's; 0 leaves it to the ssh config
    listen: int = LISTEN_PORT  # the first node's port, the next one's is one higher
    advertise: str = ""  # HOST or HOST:PORT; "" lets each node find its own address
    python: str = ""  # "" takes the command line's

    @property
    def name(self) -> str:
        """The host without its user: what a person calls it."""
        return self.target.rpartition("@")[2]

    @property
    def label(self) -> str:
        """A folder name, other for every line of a hostfile: homes may be shared between machines."""
        port = f"+{self.port}" if self.port else ""
        return re.sub(r"[^A-Za-z0-9._@+-]", "_", self.target + port)

    def listen_endpoint(self, slot: int) -> str:
        return f"tcp://0.0.0.0:{self.listen + slot}"

    def advertised_address(self, slot: int) -> str:
        """HOST:PORT of the node in this slot; "" where none was given."""
        if not self.advertise:
            return ""
        if is_address(self.advertise):
            host, _, port = self.advertise.rpartition(":")
            return f"{host}:{int(port) + slot}"
        return f"{self.advertise}:{self.listen + slot}"


def read_hostfile(path: Path) -> list[Host]:
    """The hosts in their order. Raises SpecError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot read the hostfile ({error}); expected a text file, one host a line") from error
    return parse_hostfile(text, str(path))


def parse_hostfile(text: str, source: str) -> list[Host]:
    """The hosts in their order. Raises SpecError naming source and line."""
    hosts: list[Host] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        host = parse_host(words, f"{source}:{number}")
        if host.label in line_of:
            raise SpecError(
                f"{source}:{number}: {host.target} is on line {line_of[host.label]} already; for more nodes there: "
                "slots=N"
            )
        line_of[host.label] = number
        hosts.append(host)
    if not 1 <= len(hosts) <= HOSTS_MAX:
        raise SpecError(f"{source}: holds {len(hosts)} hosts, expected 1 to {HOSTS_MAX}; a line is {EXPECTED}")
    return hosts


def parse_host(words: list[str], where: str) -> Host:
    """One host of a line's words. Raises SpecError that begins with `where`."""
    match = _TARGET.fullmatch(words[0])
    if match is None:
        raise SpecError(f"{where}: {words[0]!r} is no host; expected {EXPECTED}")
    name = match["host"].strip("[]")
    fields: dict[str, Any] = {"target": f"{match['user']}@{name}" if match["user"] else name}
    if match["port"]:
        fields["port"] = _number("port", match["port"], 65_535, where)
    for word in words[1:]:
        key, sign, value = word.partition("=")
        if not sign or key not in ("slots", "port", "listen", "advertise", "python"):
            raise SpecError(f"{where}: {word!r}: expected {EXPECTED}")
        if key in fields:
            raise SpecError(f"{where}: {key} is given twice; keep one")
        fields[key] = _value(key, value, where)
    host = Host(**fields)
    if host.listen + host.slots - 1 > 65_535:
        raise SpecError(
            f"{where}: {host.slots} nodes from port {host.listen} on end above 65535; choose a lower listen="
        )
    last = host.advertised_address(host.slots - 1)
    if last and not is_address(last):
        raise SpecError(f"{where}: advertise={host.advertise}: expected HOST or HOST:PORT")
    return host


def _value(key: str, value: str, where: str) -> Any:
    match key:
        case "slots":
            return _number(key, value, SLOTS_MAX, where)
        case "port" | "listen":
            return _number(key, value, 65_535, where)
        case "advertise" if not (is_address(value) or is_address(f"{value}:1")):
            raise SpecError(f"{where}: advertise={value}: expected HOST or HOST:PORT")
        case "python" if not _SIGN.fullmatch(value):
            raise SpecError(f"{where}: python={value}: expected a command's name or path")
    return value


def _number(key: str, text: str, most: int, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise SpecError(f"{where}: {key}={text}: expected a whole number from 1 to {most}")
    return int(text)
