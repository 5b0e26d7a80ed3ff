"""The file a person writes by hand: what it may say, and what it says when it is wrong."""

from __future__ import annotations

import itertools
import shlex

import pytest
from hostfile import Host, parse_hostfile
from hypothesis import given
from hypothesis import strategies as st
from ssh import Ssh

from gossip.errors import SpecError


def test_a_usual_hostfile() -> None:
    """Comments, users, ports both ways, several nodes on a machine, an outside address."""
    hosts = parse_hostfile(
        """
        # our laboratory
        lab1
        ada@lab2 slots=2          # two sockets
        lab3:2222 listen=9000
        ada@lab4 port=2222 advertise=203.0.113.5 slots=2
        [2001:db8::7]:22 python=/opt/python3.12/bin/python3
        192.0.2.9 advertise=gate.example:7801 slots=3
        """,
        "hosts",
    )
    assert hosts == [
        Host(target="lab1"),
        Host(target="ada@lab2", slots=2),
        Host(target="lab3", port=2222, listen=9000),
        Host(target="ada@lab4", port=2222, advertise="203.0.113.5", slots=2),
        Host(target="2001:db8::7", port=22, python="/opt/python3.12/bin/python3"),
        Host(target="192.0.2.9", advertise="gate.example:7801", slots=3),
    ]
    assert hosts[2].listen_endpoint(0) == "tcp://0.0.0.0:9000"
    assert [hosts[3].advertised_address(slot) for slot in (0, 1)] == ["203.0.113.5:7700", "203.0.113.5:7701"]
    assert hosts[5].advertised_address(2) == "gate.example:7803"
    assert hosts[0].advertised_address(0) == ""
    assert len({host.label for host in hosts}) == len(hosts)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-oProxyCommand=evil", "'-oProxyCommand=evil' is no host"),
        ("lab1;reboot", "is no host"),
        ("ada@", "is no host"),
        ("$(reboot)", "is no host"),
        ("lab1:99999", "port=99999: expected a whole number from 1 to 65535"),
        ("lab1 slots=0", "slots=0: expected a whole number from 1 to 64"),
        ("lab1 slots=two", "slots=two: expected a whole number"),
        ("lab1 slots", "'slots': expected HOST or USER@HOST"),
        ("lab1 sluts=2", "'sluts=2': expected HOST or USER@HOST"),
        ("lab1 slots=1 slots=2", "slots is given twice"),
        ("lab1:22 port=23", "port is given twice"),
        ("lab1 advertise=a;b", "advertise=a;b: expected HOST or HOST:PORT"),
        ("lab1 advertise=", "advertise=: expected HOST or HOST:PORT"),
        ("lab1 advertise=gate:65535 slots=2", "advertise=gate:65535: expected"),
        ("lab1 listen=65535 slots=2", "end above 65535"),
        ("lab1 python=python3;reboot", "expected a command's name or path"),
        ("lab0", "lab0 is on line 1 already"),
    ],
)
def test_a_wrong_line_is_named(line: str, expected: str) -> None:
    """File, line, what was given, what was expected, in one sentence."""
    with pytest.raises(SpecError) as raised:
        parse_hostfile(f"lab0\n\n{line}\n", "my-hosts")
    assert str(raised.value).startswith("my-hosts:3: ")
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_no_host_at_all() -> None:
    with pytest.raises(SpecError, match="holds 0 hosts, expected 1 to 256"):
        parse_hostfile("# nobody yet\n", "hosts")


@given(st.text(max_size=40))
def test_nothing_in_a_hostfile_becomes_an_option_or_a_command(text: str) -> None:
    """Whatever stands there either is refused or is one plain word after `--` on ssh's command line."""
    try:
        hosts = parse_hostfile(text, "hosts")
    except SpecError:
        return
    for host in hosts:
        *_, dashes, target = Ssh(["ControlPath=none"]).words(host)
        assert dashes == "--" and not target.startswith("-")
        assert shlex.quote(target) == target
        assert "/" not in host.label and host.label not in (".", "..")


@pytest.mark.parametrize("option", ["-v", "", "ProxyCommand", "=x", "Name="])
def test_an_ssh_option_that_is_none(option: str) -> None:
    with pytest.raises(SpecError, match="expected Name=value"):
        Ssh([option])


def test_our_options_come_after_the_users() -> None:
    """Of an option given twice ssh takes the first."""
    words = Ssh(["StrictHostKeyChecking=yes"]).words(Host(target="lab1", port=2222))
    options = [option for flag, option in itertools.pairwise(words) if flag == "-o"]
    assert options[0] == "StrictHostKeyChecking=yes"
    assert options.index("StrictHostKeyChecking=yes") < options.index("StrictHostKeyChecking=accept-new")
    assert "BatchMode=yes" in options
    assert words[-4:] == ["-p", "2222", "--", "lab1"]
